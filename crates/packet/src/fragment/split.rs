//! Packets cut into fragments that fit a link.
use bytes::BytesMut;

use super::rules::{broken, check_extent, header_chain};
use crate::checksum::checksum;
use crate::error::PacketError;
use crate::view::{ExtensionHeader, ExtensionHeaders, Ipv4, Ipv6};

/// Cuts an IPv4 packet (RFC 791) into fragments of at most `mtu` bytes and hands over each, in order. A packet that fits
/// is handed over as it is. Options that are not to be copied stay in the first fragment only. `scratch` is where the
/// fragments are put together: nothing is allocated once it has grown to `mtu`.
///
/// ```
/// use straightway_packet::build::UdpPacketBuilder;
/// use straightway_packet::fragment::fragment_v4;
///
/// let builder = UdpPacketBuilder::new("10.0.0.1:1".parse()?, "10.0.0.2:2".parse()?)?.dont_fragment(false);
/// let packet = builder.build(&[7; 2000])?;
/// let mut lengths = Vec::new();
/// fragment_v4(&packet, 1500, &mut Default::default(), |fragment| lengths.push(fragment.len()))?;
/// assert_eq!(lengths, [20 + 1480, 20 + 528]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of [`Ipv4::parse`] and of its options; [`PacketError::TooLong`] when it does not fit and may not be fragmented,
/// or when not even eight bytes beside the header fit; [`PacketError::Checksum`] when its header was damaged, as its
/// fragments would look sound; [`PacketError::BadField`] for a fragment that no packet can have.
pub fn fragment_v4(
    packet: &[u8],
    mtu: usize,
    scratch: &mut BytesMut,
    mut send: impl FnMut(&[u8]),
) -> Result<(), PacketError> {
    let ip = Ipv4::parse(packet)?;
    if ip.total_len() <= mtu {
        send(&packet[..ip.total_len()]);
        return Ok(());
    }
    let too_long = PacketError::TooLong { layer: "ipv4", len: ip.total_len(), max: mtu };
    if ip.dont_fragment() {
        return Err(too_long);
    }
    ip.verify_checksum()?;
    let payload = ip.payload();
    if ip.is_fragment() {
        check_extent(ip.fragment_offset(), payload.len(), ip.more_fragments(), ip.header().len())?;
    }
    let copied = copied_options(&ip)?;
    let mut at = 0;
    // At least once: a packet of headers alone may be too long too.
    while at == 0 || at < payload.len() {
        let header: &[u8] = if at == 0 { ip.header() } else { copied.get() };
        let room = mtu.saturating_sub(header.len()) / 8 * 8;
        if room == 0 {
            return Err(too_long);
        }
        let len = room.min(payload.len() - at);
        let more = at + len < payload.len() || ip.more_fragments();
        scratch.clear();
        scratch.extend_from_slice(header);
        scratch.extend_from_slice(&payload[at..at + len]);
        // A packet has 65535 bytes at most, as was checked: the numbers fit.
        let total = u16::try_from(header.len() + len).unwrap_or(u16::MAX);
        let offset = u16::try_from((ip.fragment_offset() + at) / 8).unwrap_or(u16::MAX);
        let flags = if more { 0x2000 } else { 0 };
        scratch[2..4].copy_from_slice(&total.to_be_bytes());
        scratch[6..8].copy_from_slice(&(flags | offset).to_be_bytes());
        scratch[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum(&scratch[..header.len()]);
        scratch[10..12].copy_from_slice(&sum.to_be_bytes());
        send(scratch);
        at += len;
    }
    Ok(())
}

/// A header of up to 60 bytes.
struct Header {
    bytes: [u8; 60],
    len: usize,
}

impl Header {
    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The header for all fragments but the first: options whose copy flag is set.
fn copied_options(ip: &Ipv4<'_>) -> Result<Header, PacketError> {
    const COPIED: u8 = 0x80;
    let mut header = Header { bytes: [0; 60], len: 20 };
    header.bytes[..20].copy_from_slice(&ip.header()[..20]);
    for option in ip.options() {
        let option = option?;
        if option.kind & COPIED == 0 {
            continue;
        }
        let len = 2 + option.data.len();
        // They fitted the header that they come from.
        if let Some(room) = header.bytes.get_mut(header.len..header.len + len) {
            room[0] = option.kind;
            room[1] = u8::try_from(len).unwrap_or(u8::MAX);
            room[2..].copy_from_slice(option.data);
            header.len += len;
        }
    }
    header.len = header.len.next_multiple_of(4);
    let words = u8::try_from(header.len / 4).unwrap_or(15);
    header.bytes[0] = 0x40 | words;
    Ok(header)
}

/// Cuts an IPv6 packet (RFC 8200 §4.5) into fragments of at most `mtu` bytes under `identification`, and hands over
/// each, in order. A packet that fits is handed over as it is. The headers up to the last hop-by-hop or routing header
/// are repeated in each.
///
/// # Errors
/// Those of [`Ipv6::parse`]; [`PacketError::TooLong`] when not even eight bytes beside the headers fit;
/// [`PacketError::BadField`] for a packet that is a fragment already, and when the first fragment could not hold all
/// headers (RFC 7112).
pub fn fragment_v6(
    packet: &[u8],
    mtu: usize,
    identification: u32,
    scratch: &mut BytesMut,
    mut send: impl FnMut(&[u8]),
) -> Result<(), PacketError> {
    const FRAGMENT: u8 = 44;
    let ip = Ipv6::parse(packet)?;
    let total = Ipv6::HEADER_BYTES + ip.payload().len();
    let packet = &packet[..total];
    if total <= mtu {
        send(packet);
        return Ok(());
    }
    let Repeated { len, last, behind } = repeated(&ip)?;
    let (repeated, payload) = packet.split_at(len);
    let room = mtu.saturating_sub(len + 8) / 8 * 8;
    if room == 0 {
        return Err(PacketError::TooLong { layer: "ipv6", len: total, max: mtu });
    }
    let next = behind.next_header();
    let chain = header_chain(behind)?;
    if chain > room {
        return Err(broken("header chain", chain, "must fit the first fragment (RFC 7112)"));
    }
    let mut at = 0;
    while at < payload.len() {
        let piece = &payload[at..payload.len().min(at + room)];
        let more = at + piece.len() < payload.len();
        scratch.clear();
        scratch.extend_from_slice(repeated);
        // A packet has 65535 bytes at most: the numbers fit.
        let offset = u16::try_from(at).unwrap_or(u16::MAX) & 0xfff8 | u16::from(more);
        scratch.extend_from_slice(&[next, 0]);
        scratch.extend_from_slice(&offset.to_be_bytes());
        scratch.extend_from_slice(&identification.to_be_bytes());
        scratch.extend_from_slice(piece);
        let behind = scratch.len() - Ipv6::HEADER_BYTES;
        scratch[4..6].copy_from_slice(&u16::try_from(behind).unwrap_or(u16::MAX).to_be_bytes());
        scratch[last] = FRAGMENT;
        send(scratch);
        at += piece.len();
    }
    Ok(())
}

/// The part of a packet that every fragment repeats.
struct Repeated<'a> {
    len: usize,
    /// Where the "next header" of its last header stands.
    last: usize,
    /// What follows it.
    behind: ExtensionHeaders<'a>,
}

fn repeated<'a>(ip: &Ipv6<'a>) -> Result<Repeated<'a>, PacketError> {
    let mut headers = ip.extensions();
    let mut len = Ipv6::HEADER_BYTES;
    let mut found = Repeated { len, last: 6, behind: headers.clone() };
    while let Some(header) = headers.next() {
        let header = header?;
        let last = len;
        len += header.len();
        match header {
            ExtensionHeader::HopByHop(_) | ExtensionHeader::Routing(..) => {
                found = Repeated { len, last, behind: headers.clone() };
            }
            ExtensionHeader::Fragment(_) => {
                return Err(PacketError::BadField {
                    layer: "ipv6",
                    field: "next header",
                    value: 44,
                    rule: "says that the packet is a fragment already",
                });
            }
            // Repeated only if a routing header follows, whose stops read them too.
            ExtensionHeader::DestinationOptions(_) => {}
        }
    }
    Ok(found)
}
