//! TCP (RFC 9293).
use super::ipv4::next_option;
use super::{Addresses, Fault, bad, protocol, truncated, verified};
use crate::error::PacketError;
use crate::field::{be16, be32};

/// A TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Tcp<'a> {
    fixed: &'a [u8; 20],
    segment: &'a [u8],
}

/// The flags of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// Congestion echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// Whether all of `flags` are set.
    pub fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl std::ops::BitOr for TcpFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

const LAYER: &str = "tcp";

impl<'a> Tcp<'a> {
    /// Bytes of the header without options.
    pub const HEADER_BYTES: usize = 20;

    /// Reads a segment, which goes to the end of `bytes`.
    ///
    /// # Errors
    /// [`PacketError::Truncated`]; [`PacketError::BadField`] for a data offset that cannot be.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::check(bytes)
    }

    #[inline]
    pub(super) fn check<E: Fault>(bytes: &'a [u8]) -> Result<Self, E> {
        let fixed =
            bytes.first_chunk::<20>().ok_or_else(|| E::of(|| truncated(LAYER, 20, bytes.len())))?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        if header_len < Self::HEADER_BYTES {
            return Err(E::of(|| {
                bad(LAYER, "data offset", header_len as u64, "must be at least 20")
            }));
        }
        if header_len > bytes.len() {
            return Err(E::of(|| truncated(LAYER, header_len, bytes.len())));
        }
        Ok(Self { fixed, segment: bytes })
    }

    #[inline]
    fn header_len(&self) -> usize {
        usize::from(self.fixed[12] >> 4) * 4
    }

    /// The sender's port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        be16(self.fixed, 0)
    }

    /// The receiver's port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        be16(self.fixed, 2)
    }

    /// Number of the first byte of data.
    pub fn sequence(&self) -> u32 {
        be32(self.fixed, 4)
    }

    /// Number of the next byte expected, when [`TcpFlags::ACK`] is set.
    pub fn acknowledgement(&self) -> u32 {
        be32(self.fixed, 8)
    }

    /// The flags.
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.fixed[13])
    }

    /// Receive window, unscaled.
    pub fn window(&self) -> u16 {
        be16(self.fixed, 14)
    }

    /// The checksum as it stands there.
    pub fn checksum(&self) -> u16 {
        be16(self.fixed, 16)
    }

    /// End of urgent data, when [`TcpFlags::URG`] is set.
    pub fn urgent(&self) -> u16 {
        be16(self.fixed, 18)
    }

    /// Its options in order.
    pub fn options(&self) -> TcpOptions<'a> {
        TcpOptions(self.segment.get(Self::HEADER_BYTES..self.header_len()).unwrap_or_default())
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.segment.get(self.header_len()..).unwrap_or_default()
    }

    /// Checks the checksum.
    ///
    /// # Errors
    /// [`PacketError::Checksum`].
    pub fn verify_checksum(&self, addresses: &Addresses) -> Result<(), PacketError> {
        let sum = addresses.checksum(protocol::TCP, self.segment);
        verified(LAYER, self.checksum(), sum)
    }
}

/// An option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpOption<'a> {
    /// Largest segment that the sender takes.
    MaximumSegmentSize(u16),
    /// By how many bits the window is shifted (RFC 7323).
    WindowScale(u8),
    /// Selective acknowledgements are welcome (RFC 2018).
    SackPermitted,
    /// Blocks received out of order: pairs of 32-bit edges.
    Sack(&'a [u8]),
    /// The sender's clock and the echo of the receiver's (RFC 7323).
    Timestamps(u32, u32),
    /// Any other: kind and data.
    Other(u8, &'a [u8]),
}

/// The options of a header, padding left out. Ends at the first one that cannot be read, with its error.
#[derive(Debug, Clone)]
pub struct TcpOptions<'a>(&'a [u8]);

impl<'a> Iterator for TcpOptions<'a> {
    type Item = Result<TcpOption<'a>, PacketError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = next_option("tcp option", &mut self.0)?;
        Some(next.map(|(kind, data)| TcpOption::read(kind, data)))
    }
}

impl<'a> TcpOption<'a> {
    fn read(kind: u8, data: &'a [u8]) -> Self {
        match (kind, data.len()) {
            (2, 2) => Self::MaximumSegmentSize(be16(data, 0)),
            (3, 1) => Self::WindowScale(data[0]),
            (4, 0) => Self::SackPermitted,
            (5, 8 | 16 | 24 | 32) => Self::Sack(data),
            (8, 8) => Self::Timestamps(be32(data, 0), be32(data, 4)),
            _ => Self::Other(kind, data),
        }
    }
}
