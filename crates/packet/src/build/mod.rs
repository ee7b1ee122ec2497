//! Packets built: headers put together on the stack, then header and payload appended once.
//!
//! One builder serves many packets: it is cheap to copy, and building does not use it up.
mod icmp;
mod ip;
mod tcp;
mod udp;

pub use icmp::{EchoHeader, IcmpPacketBuilder};
pub use tcp::{TcpHeader, TcpPacketBuilder};
pub use udp::{UdpHeader, UdpPacketBuilder};

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;

use crate::addr::MacAddr;
use crate::error::PacketError;
use crate::field::Writer;
use crate::view::{Addresses, VlanTag};
use ip::Envelope;

/// Builds packets of one transport, over IPv4 or IPv6, with or without Ethernet around: see [`TcpPacketBuilder`],
/// [`UdpPacketBuilder`] and [`IcmpPacketBuilder`].
///
/// ```
/// use bytes::BytesMut;
/// use straightway_packet::build::TcpPacketBuilder;
/// use straightway_packet::view::TcpFlags;
///
/// let builder = TcpPacketBuilder::new("[fd00::1]:4000".parse()?, "[fd00::2]:80".parse()?)?
///     .sequence(1000)
///     .flags(TcpFlags::SYN)
///     .maximum_segment_size(1440)?;
/// let mut buffer = BytesMut::with_capacity(1500);
/// let len = builder.build_into(b"", &mut buffer)?;
/// assert_eq!(len, 40 + 20 + 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PacketBuilder<T> {
    envelope: Envelope,
    transport: T,
}

/// The header of a transport protocol.
pub trait TransportHeader: sealed::Sealed {}

pub(crate) mod sealed {
    use crate::field::Writer;
    use crate::view::Addresses;

    pub trait Sealed {
        fn protocol(&self, addresses: &Addresses) -> u8;
        fn header_len(&self) -> usize;
        /// Writes the header, checksum included, for this payload.
        fn write(&self, out: &mut Writer<'_>, addresses: &Addresses, payload: &[u8]);
    }
}

impl<T: sealed::Sealed> TransportHeader for T {}

/// Ethernet with two tags, the longest IPv4 header (IPv6's is shorter) and the longest of TCP.
const MAX_HEADERS: usize = 14 + 8 + 60 + 60;

impl<T: TransportHeader> PacketBuilder<T> {
    fn between(from: IpAddr, to: IpAddr, transport: T) -> Result<Self, PacketError> {
        let addresses = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Addresses::V4 { from, to },
            (IpAddr::V6(from), IpAddr::V6(to)) => Addresses::V6 { from, to },
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return Err(PacketError::BadField {
                    layer: "ip",
                    field: "destination's version",
                    value: if to.is_ipv4() { 4 } else { 6 },
                    rule: "must be that of the source",
                });
            }
        };
        Ok(Self { envelope: Envelope::new(addresses), transport })
    }

    /// Puts it into an Ethernet frame.
    #[must_use]
    pub fn ethernet(mut self, source: MacAddr, destination: MacAddr) -> Self {
        self.envelope.ethernet = Some((source, destination));
        self
    }

    /// Adds a VLAN tag, inside the ones added before; at most two count, and only in an Ethernet frame.
    #[must_use]
    pub fn vlan(mut self, tag: VlanTag) -> Self {
        if let Some(free) = self.envelope.tags.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(tag);
        }
        self
    }

    /// Time to live, or hop limit: 64 unless told.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.envelope.ttl = ttl;
        self
    }

    /// Code point (its upper six bits) and congestion notification.
    #[must_use]
    pub fn traffic_class(mut self, class: u8) -> Self {
        self.envelope.traffic_class = class;
        self
    }

    /// IPv4's identification: 0 unless told.
    #[must_use]
    pub fn identification(mut self, id: u16) -> Self {
        self.envelope.identification = id;
        self
    }

    /// Whether routers may not fragment it (IPv4): they may not unless told.
    #[must_use]
    pub fn dont_fragment(mut self, dont: bool) -> Self {
        self.envelope.dont_fragment = dont;
        self
    }

    /// IPv6's flow label, of which the lower 20 bits count.
    #[must_use]
    pub fn flow_label(mut self, label: u32) -> Self {
        self.envelope.flow_label = label & 0x000f_ffff;
        self
    }

    /// IPv4's options as they are to stand there, at most 40 bytes, padded to a multiple of four. Ignored over IPv6.
    ///
    /// # Errors
    /// [`PacketError::TooLong`].
    pub fn ip_options(mut self, options: &[u8]) -> Result<Self, PacketError> {
        self.envelope.options.set("ipv4 options", options)?;
        Ok(self)
    }

    /// Length of the packet for a payload of that length.
    pub fn size(&self, payload: usize) -> usize {
        self.envelope.header_len() + self.transport.header_len() + payload
    }

    /// The packet, in one allocation.
    ///
    /// # Errors
    /// [`PacketError::TooLong`] when the payload does not fit into a packet.
    pub fn build(&self, payload: &[u8]) -> Result<Vec<u8>, PacketError> {
        let mut headers = [0; MAX_HEADERS];
        let len = self.headers(&mut headers, payload)?;
        let mut packet = Vec::with_capacity(len + payload.len());
        packet.extend_from_slice(&headers[..len]);
        packet.extend_from_slice(payload);
        Ok(packet)
    }

    /// Appends the packet to a buffer; allocates only if the buffer lacks the room. Gives the packet's length.
    ///
    /// # Errors
    /// As [`Self::build`]; the buffer is unchanged then.
    #[inline]
    pub fn build_into(&self, payload: &[u8], out: &mut BytesMut) -> Result<usize, PacketError> {
        let mut headers = [0; MAX_HEADERS];
        let len = self.headers(&mut headers, payload)?;
        out.reserve(len + payload.len());
        out.extend_from_slice(&headers[..len]);
        out.extend_from_slice(payload);
        Ok(len + payload.len())
    }

    /// Writes the packet to the start of `out`. Gives its length.
    ///
    /// # Errors
    /// As [`Self::build`], and [`PacketError::TooLong`] when `out` is too short.
    #[inline]
    pub fn write_to(&self, payload: &[u8], out: &mut [u8]) -> Result<usize, PacketError> {
        let size = self.size(payload.len());
        let max = out.len();
        let out =
            out.get_mut(..size).ok_or(PacketError::TooLong { layer: "packet", len: size, max })?;
        let mut headers = [0; MAX_HEADERS];
        let len = self.headers(&mut headers, payload)?;
        let mut out = Writer(out);
        out.put(&headers[..len]);
        out.put(payload);
        Ok(size)
    }

    /// Puts the headers together; gives their length.
    #[inline]
    fn headers(&self, out: &mut [u8; MAX_HEADERS], payload: &[u8]) -> Result<usize, PacketError> {
        let envelope = &self.envelope;
        let transport_len = self.transport.header_len();
        let protocol = self.transport.protocol(&envelope.addresses);
        let len = envelope.write(out, protocol, transport_len + payload.len())?;
        self.transport.write(&mut Writer(&mut out[len..]), &envelope.addresses, payload);
        Ok(len + transport_len)
    }
}

/// Options of a header, padded to a multiple of four bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    bytes: [u8; 40],
    len: usize,
}

impl Options {
    pub(crate) const fn none() -> Self {
        Self { bytes: [0; 40], len: 0 }
    }

    pub(crate) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn set(&mut self, layer: &'static str, options: &[u8]) -> Result<(), PacketError> {
        *self = Self::none();
        self.push(layer, options)
    }

    /// Appends; the padding, end-of-options, stays behind all of them.
    fn push(&mut self, layer: &'static str, option: &[u8]) -> Result<(), PacketError> {
        let used = self.len;
        let len = used + option.len();
        let too_long = PacketError::TooLong { layer, len, max: self.bytes.len() };
        self.bytes.get_mut(used..len).ok_or(too_long)?.copy_from_slice(option);
        self.len = len.next_multiple_of(4);
        Ok(())
    }
}

/// Two socket addresses' ports.
fn ports(from: SocketAddr, to: SocketAddr) -> (u16, u16) {
    (from.port(), to.port())
}
