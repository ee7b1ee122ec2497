//! UDP (RFC 768).
use std::net::SocketAddr;

use super::{PacketBuilder, ports, sealed::Sealed};
use crate::checksum::Checksum;
use crate::error::PacketError;
use crate::field::Writer;
use crate::view::{Addresses, protocol};

/// Builds UDP datagrams.
///
/// ```
/// use straightway_packet::build::UdpPacketBuilder;
///
/// let builder = UdpPacketBuilder::new("10.0.0.1:1000".parse()?, "10.0.0.2:53".parse()?)?.ttl(3);
/// assert_eq!(builder.build(b"straight")?.len(), 20 + 8 + 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type UdpPacketBuilder = PacketBuilder<UdpHeader>;

/// The fields of a UDP header.
#[derive(Debug, Clone, Copy)]
pub struct UdpHeader {
    ports: (u16, u16),
}

impl PacketBuilder<UdpHeader> {
    /// Datagrams between two sockets.
    ///
    /// # Errors
    /// [`PacketError::BadField`] when one address is IPv4 and the other IPv6.
    pub fn new(from: SocketAddr, to: SocketAddr) -> Result<Self, PacketError> {
        Self::between(from.ip(), to.ip(), UdpHeader { ports: ports(from, to) })
    }
}

impl Sealed for UdpHeader {
    fn protocol(&self, _: &Addresses) -> u8 {
        protocol::UDP
    }

    #[inline]
    fn header_len(&self) -> usize {
        8
    }

    #[inline]
    fn write(&self, out: &mut Writer<'_>, addresses: &Addresses, payload: &[u8]) {
        let len = 8 + payload.len();
        let [[s0, s1], [d0, d1]] = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()];
        // The IP layer has checked that it fits.
        let [l0, l1] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        let mut header = [s0, s1, d0, d1, l0, l1, 0, 0];
        let mut sum = Checksum::new();
        addresses.add_pseudo(&mut sum, protocol::UDP, len);
        sum.add(&header);
        sum.add(payload);
        // Zero would say that there is no checksum; the other zero of one's complement says the same as a sum.
        let sum = match sum.finish() {
            0 => u16::MAX,
            sum => sum,
        };
        header[6..].copy_from_slice(&sum.to_be_bytes());
        out.put(&header);
    }
}
