//! Echo requests and replies of ICMP (RFC 792) and ICMPv6 (RFC 4443).
use std::net::IpAddr;

use super::{PacketBuilder, sealed::Sealed};
use crate::checksum::Checksum;
use crate::error::PacketError;
use crate::field::Writer;
use crate::view::{Addresses, Echo, protocol};

/// Builds echo requests and replies: what `ping` sends and gets.
///
/// ```
/// use straightway_packet::build::IcmpPacketBuilder;
/// use straightway_packet::view::{Echo, Icmp, IcmpVersion, Ipv4};
///
/// let echo = Echo { reply: false, identifier: 7, sequence: 1 };
/// let packet = IcmpPacketBuilder::new("10.0.0.1".parse()?, "10.0.0.2".parse()?, echo)?.build(b"straight")?;
/// let ip = Ipv4::parse(&packet)?;
/// assert_eq!(Icmp::parse(IcmpVersion::V4, ip.payload())?.echo(), Some(echo));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type IcmpPacketBuilder = PacketBuilder<EchoHeader>;

/// The fields of an echo's header.
#[derive(Debug, Clone, Copy)]
pub struct EchoHeader(Echo);

impl PacketBuilder<EchoHeader> {
    /// An echo between two hosts, of the ICMP that belongs to their addresses.
    ///
    /// # Errors
    /// [`PacketError::BadField`] when one address is IPv4 and the other IPv6.
    pub fn new(from: IpAddr, to: IpAddr, echo: Echo) -> Result<Self, PacketError> {
        Self::between(from, to, EchoHeader(echo))
    }
}

impl Sealed for EchoHeader {
    fn protocol(&self, addresses: &Addresses) -> u8 {
        match addresses {
            Addresses::V4 { .. } => protocol::ICMP,
            Addresses::V6 { .. } => protocol::ICMPV6,
        }
    }

    #[inline]
    fn header_len(&self) -> usize {
        8
    }

    fn write(&self, out: &mut Writer<'_>, addresses: &Addresses, payload: &[u8]) {
        let kind = match (addresses, self.0.reply) {
            (Addresses::V4 { .. }, false) => 8,
            (Addresses::V4 { .. }, true) => 0,
            (Addresses::V6 { .. }, false) => 128,
            (Addresses::V6 { .. }, true) => 129,
        };
        let [[i0, i1], [s0, s1]] = [self.0.identifier.to_be_bytes(), self.0.sequence.to_be_bytes()];
        let mut header = [kind, 0, 0, 0, i0, i1, s0, s1];
        let mut sum = Checksum::new();
        if let Addresses::V6 { .. } = addresses {
            addresses.add_pseudo(&mut sum, protocol::ICMPV6, header.len() + payload.len());
        }
        sum.add(&header);
        sum.add(payload);
        header[2..4].copy_from_slice(&sum.finish().to_be_bytes());
        out.put(&header);
    }
}
