//! A frame, all layers at once.
#![expect(
    clippy::inline_always,
    reason = "inlined, only what the caller looks at is read; else all of it is put together in memory, which takes longer than reading it"
)]
use super::{
    Addresses, Arp, EtherType, Ethernet, Fault, Icmp, IcmpVersion, Ipv4, Ipv6, Tcp, Udp, Unsaid,
    protocol, truncated,
};
use crate::error::PacketError;

/// An Ethernet frame and what it carries, as deep as it is known.
///
/// ```
/// use straightway_packet::build::UdpPacketBuilder;
/// use straightway_packet::view::{Frame, Transport};
/// use straightway_packet::MacAddr;
///
/// let [a, b] = [MacAddr([2; 6]), MacAddr([4; 6])];
/// let builder = UdpPacketBuilder::new("10.0.0.1:1000".parse()?, "10.0.0.2:53".parse()?)?.ethernet(a, b);
/// let bytes = builder.build(b"straight")?;
///
/// let frame = Frame::parse(&bytes)?;
/// frame.verify_checksums()?;
/// let Transport::Udp(udp) = frame.transport else { panic!("it is UDP") };
/// assert_eq!((udp.destination_port(), udp.payload()), (53, &b"straight"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The link.
    pub ethernet: Ethernet<'a>,
    /// The network.
    pub network: Network<'a>,
    /// The transport.
    pub transport: Transport<'a>,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy)]
pub enum Network<'a> {
    /// IPv4.
    Ipv4(Ipv4<'a>),
    /// IPv6.
    Ipv6(Ipv6<'a>),
    /// ARP.
    Arp(Arp<'a>),
    /// Something else: see [`Ethernet::ether_type`].
    Other(&'a [u8]),
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy)]
pub enum Transport<'a> {
    /// TCP.
    Tcp(Tcp<'a>),
    /// UDP.
    Udp(Udp<'a>),
    /// ICMP of either version.
    Icmp(Icmp<'a>),
    /// A part of a packet, which is not to be read as if it were whole.
    Fragment(&'a [u8]),
    /// Another protocol: its number and its bytes.
    Other(u8, &'a [u8]),
    /// The frame carries no IP packet.
    None,
}

impl<'a> Frame<'a> {
    /// Reads all layers of an Ethernet frame.
    ///
    /// # Errors
    /// Those of the layers.
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::check(bytes).map_err(|Unsaid| Self::fault(bytes))
    }

    /// What is wrong with a frame that cannot be read.
    #[cold]
    #[inline(never)]
    fn fault(bytes: &[u8]) -> PacketError {
        match Frame::check(bytes) {
            Err(error) => error,
            // The same checks of the same bytes: this does not happen.
            Ok(_) => truncated("frame", bytes.len(), bytes.len()),
        }
    }

    #[inline(always)]
    fn check<E: Fault>(bytes: &'a [u8]) -> Result<Self, E> {
        let ethernet = Ethernet::check(bytes)?;
        let payload = ethernet.payload();
        let (network, transport) = match ethernet.ether_type() {
            EtherType::IPV4 => Self::ipv4(payload)?,
            EtherType::IPV6 => Self::ipv6(payload)?,
            EtherType::ARP => (Network::Arp(Arp::check(payload)?), Transport::None),
            _ => (Network::Other(payload), Transport::None),
        };
        Ok(Self { ethernet, network, transport })
    }

    #[inline(always)]
    fn ipv4<E: Fault>(bytes: &'a [u8]) -> Result<(Network<'a>, Transport<'a>), E> {
        let ip = Ipv4::check(bytes)?;
        let transport = if ip.is_fragment() {
            Transport::Fragment(ip.payload())
        } else {
            Transport::parse(ip.protocol(), IcmpVersion::V4, ip.payload())?
        };
        Ok((Network::Ipv4(ip), transport))
    }

    #[inline(always)]
    fn ipv6<E: Fault>(bytes: &'a [u8]) -> Result<(Network<'a>, Transport<'a>), E> {
        let ip = Ipv6::check(bytes)?;
        let transport = match ip.check_upper()? {
            // An atomic fragment (RFC 6946) is a whole packet.
            (Some(fragment), _, bytes) if fragment.more || fragment.offset > 0 => {
                Transport::Fragment(bytes)
            }
            (_, protocol, bytes) => Transport::parse(protocol, IcmpVersion::V6, bytes)?,
        };
        Ok((Network::Ipv6(ip), transport))
    }

    /// The IP addresses, if it carries an IP packet.
    pub fn addresses(&self) -> Option<Addresses> {
        match self.network {
            Network::Ipv4(ip) => Some(ip.addresses()),
            Network::Ipv6(ip) => Some(ip.addresses()),
            Network::Arp(_) | Network::Other(_) => None,
        }
    }

    /// Checks every checksum that can be checked: not that of a fragment's transport.
    ///
    /// # Errors
    /// [`PacketError::Checksum`].
    pub fn verify_checksums(&self) -> Result<(), PacketError> {
        if let Network::Ipv4(ip) = self.network {
            ip.verify_checksum()?;
        }
        let Some(addresses) = self.addresses() else { return Ok(()) };
        match self.transport {
            Transport::Tcp(tcp) => tcp.verify_checksum(&addresses),
            Transport::Udp(udp) => udp.verify_checksum(&addresses),
            Transport::Icmp(icmp) => icmp.verify_checksum(&addresses),
            Transport::Fragment(_) | Transport::Other(..) | Transport::None => Ok(()),
        }
    }
}

impl<'a> Transport<'a> {
    #[inline(always)]
    fn parse<E: Fault>(protocol: u8, version: IcmpVersion, bytes: &'a [u8]) -> Result<Self, E> {
        Ok(match (protocol, version) {
            (protocol::TCP, _) => Self::Tcp(Tcp::check(bytes)?),
            (protocol::UDP, _) => Self::Udp(Udp::check(bytes)?),
            (protocol::ICMP, IcmpVersion::V4) | (protocol::ICMPV6, IcmpVersion::V6) => {
                Self::Icmp(Icmp::check(version, bytes)?)
            }
            (other, _) => Self::Other(other, bytes),
        })
    }
}
