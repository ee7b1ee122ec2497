//! TCP (RFC 9293).
use std::net::SocketAddr;

use super::{Options, PacketBuilder, ports, sealed::Sealed};
use crate::checksum::Checksum;
use crate::error::PacketError;
use crate::field::Writer;
use crate::view::{Addresses, TcpFlags, protocol};

/// Builds TCP segments; see [`PacketBuilder`] for an example.
pub type TcpPacketBuilder = PacketBuilder<TcpHeader>;

/// The fields of a TCP header.
#[derive(Debug, Clone, Copy)]
pub struct TcpHeader {
    ports: (u16, u16),
    sequence: u32,
    acknowledgement: u32,
    flags: TcpFlags,
    window: u16,
    urgent: u16,
    options: Options,
}

const OPTIONS: &str = "tcp options";

impl PacketBuilder<TcpHeader> {
    /// Segments between two sockets.
    ///
    /// # Errors
    /// [`PacketError::BadField`] when one address is IPv4 and the other IPv6.
    pub fn new(from: SocketAddr, to: SocketAddr) -> Result<Self, PacketError> {
        let header = TcpHeader {
            ports: ports(from, to),
            sequence: 0,
            acknowledgement: 0,
            flags: TcpFlags::default(),
            window: u16::MAX,
            urgent: 0,
            options: Options::none(),
        };
        Self::between(from.ip(), to.ip(), header)
    }

    /// Number of the first byte of data.
    #[must_use]
    pub fn sequence(mut self, sequence: u32) -> Self {
        self.transport.sequence = sequence;
        self
    }

    /// Acknowledges up to this number; sets [`TcpFlags::ACK`].
    #[must_use]
    pub fn acknowledge(mut self, number: u32) -> Self {
        self.transport.acknowledgement = number;
        self.transport.flags = self.transport.flags | TcpFlags::ACK;
        self
    }

    /// Sets flags, beside those that are set.
    #[must_use]
    pub fn flags(mut self, flags: TcpFlags) -> Self {
        self.transport.flags = self.transport.flags | flags;
        self
    }

    /// Receive window, unscaled: 65535 unless told.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.transport.window = window;
        self
    }

    /// End of urgent data; sets [`TcpFlags::URG`].
    #[must_use]
    pub fn urgent(mut self, end: u16) -> Self {
        self.transport.urgent = end;
        self.transport.flags = self.transport.flags | TcpFlags::URG;
        self
    }

    /// Adds the largest segment that the sender takes.
    ///
    /// # Errors
    /// [`PacketError::TooLong`] when the options exceed 40 bytes.
    pub fn maximum_segment_size(self, bytes: u16) -> Result<Self, PacketError> {
        let [high, low] = bytes.to_be_bytes();
        self.option(&[2, 4, high, low])
    }

    /// Adds the shift of the window.
    ///
    /// # Errors
    /// [`PacketError::TooLong`] when the options exceed 40 bytes.
    pub fn window_scale(self, shift: u8) -> Result<Self, PacketError> {
        self.option(&[1, 3, 3, shift])
    }

    /// Adds that selective acknowledgements are welcome.
    ///
    /// # Errors
    /// [`PacketError::TooLong`] when the options exceed 40 bytes.
    pub fn sack_permitted(self) -> Result<Self, PacketError> {
        self.option(&[1, 1, 4, 2])
    }

    /// Adds the sender's clock and the echo of the receiver's.
    ///
    /// # Errors
    /// [`PacketError::TooLong`] when the options exceed 40 bytes.
    pub fn timestamps(self, value: u32, echo: u32) -> Result<Self, PacketError> {
        let mut option = [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        option[4..8].copy_from_slice(&value.to_be_bytes());
        option[8..].copy_from_slice(&echo.to_be_bytes());
        self.option(&option)
    }

    /// Adds an option as it is to stand there: kind, length, data. One that is not a multiple of four bytes long is
    /// padded at its end and has to be the last.
    ///
    /// # Errors
    /// [`PacketError::TooLong`] when the options exceed 40 bytes.
    pub fn option(mut self, option: &[u8]) -> Result<Self, PacketError> {
        self.transport.options.push(OPTIONS, option)?;
        Ok(self)
    }
}

impl Sealed for TcpHeader {
    fn protocol(&self, _: &Addresses) -> u8 {
        protocol::TCP
    }

    #[inline]
    fn header_len(&self) -> usize {
        20 + self.options.get().len()
    }

    #[inline]
    fn write(&self, out: &mut Writer<'_>, addresses: &Addresses, payload: &[u8]) {
        let header_len = self.header_len();
        let mut header = [0; 60];
        let mut fields = Writer(&mut header);
        fields.put(&self.ports.0.to_be_bytes());
        fields.put(&self.ports.1.to_be_bytes());
        fields.put(&self.sequence.to_be_bytes());
        fields.put(&self.acknowledgement.to_be_bytes());
        // Of 20 to 60 bytes in words of four: fits four bits.
        let words = u8::try_from(header_len / 4).unwrap_or(15);
        fields.put(&[words << 4, self.flags.0]);
        fields.put(&self.window.to_be_bytes());
        fields.put(&[0, 0]);
        fields.put(&self.urgent.to_be_bytes());
        fields.put(self.options.get());
        let header = &mut header[..header_len];
        let mut sum = Checksum::new();
        addresses.add_pseudo(&mut sum, protocol::TCP, header_len + payload.len());
        sum.add(header);
        sum.add(payload);
        header[16..18].copy_from_slice(&sum.finish().to_be_bytes());
        out.put(header);
    }
}
