//! Packets read where they lie: each view borrows the bytes, checks its lengths once, and reads fields on demand.
//!
//! Parsing checks structure, never checksums: on captured packets the network card may not have filled them in yet.
//! Each view that has one verifies it when asked ([`Ipv4::verify_checksum`], [`Frame::verify_checksums`], ...).
mod arp;
mod ethernet;
mod frame;
mod icmp;
mod ipv4;
mod ipv6;
mod tcp;
mod udp;

pub use arp::Arp;
pub use ethernet::{EtherType, Ethernet, VlanTag};
pub use frame::{Frame, Network, Transport};
pub use icmp::{Echo, Icmp, IcmpVersion};
pub use ipv4::{Ipv4, Ipv4Option, Ipv4Options};
pub use ipv6::{ExtensionHeader, ExtensionHeaders, Ipv6, Ipv6Fragment};
pub use tcp::{Tcp, TcpFlags, TcpOption, TcpOptions};
pub use udp::Udp;

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::Checksum;
use crate::error::PacketError;

/// Protocol numbers of IANA, as IPv4's protocol and IPv6's next header hold them.
pub mod protocol {
    /// ICMP over IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP over IPv6.
    pub const ICMPV6: u8 = 58;
}

/// Where a transport packet comes from and goes to: what its checksum covers beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Source.
        from: Ipv4Addr,
        /// Destination.
        to: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Source.
        from: Ipv6Addr,
        /// Destination.
        to: Ipv6Addr,
    },
}

impl Addresses {
    /// The checksum of a transport packet between these addresses; 0 if the packet holds its own right checksum.
    pub(crate) fn checksum(&self, protocol: u8, packet: &[u8]) -> u16 {
        let mut sum = Checksum::new();
        self.add_pseudo(&mut sum, protocol, packet.len());
        sum.add(packet);
        sum.finish()
    }

    pub(crate) fn add_pseudo(&self, sum: &mut Checksum, protocol: u8, len: usize) {
        match *self {
            Self::V4 { from, to } => {
                sum.add_pseudo_v4(from, to, protocol, u16::try_from(len).unwrap_or(u16::MAX));
            }
            Self::V6 { from, to } => {
                sum.add_pseudo_v6(from, to, protocol, u32::try_from(len).unwrap_or(u32::MAX));
            }
        }
    }
}

/// What is said of a packet that cannot be read: what is wrong with it, or nothing.
trait Fault {
    fn of(error: impl FnOnce() -> PacketError) -> Self;
}

impl Fault for PacketError {
    #[inline]
    fn of(error: impl FnOnce() -> PacketError) -> Self {
        error()
    }
}

/// That it cannot be read. With errors of no size nothing has to be put ready for them on the way of the packets that
/// have none, and a reader that was inlined keeps only what its caller looks at.
struct Unsaid;

impl Fault for Unsaid {
    #[inline]
    fn of(_: impl FnOnce() -> PacketError) -> Self {
        Self
    }
}

#[cold]
fn truncated(layer: &'static str, needed: usize, have: usize) -> PacketError {
    PacketError::Truncated { layer, needed, have }
}

#[cold]
fn bad(
    layer: &'static str,
    field: &'static str,
    value: impl Into<u64>,
    rule: &'static str,
) -> PacketError {
    PacketError::BadField { layer, field, value: value.into(), rule }
}

/// The error of a packet whose checksum field holds `found` and whose bytes, field included, sum to `sum`.
fn verified(layer: &'static str, found: u16, sum: u16) -> Result<(), PacketError> {
    if sum == 0 {
        return Ok(());
    }
    // What the field would have to hold: the sum without it.
    let expected = crate::checksum::update(sum, found, 0);
    Err(PacketError::Checksum { layer, found, expected })
}
