//! IPv6 and its extension headers (RFC 8200).
use std::net::Ipv6Addr;

use super::{Addresses, Fault, bad, truncated};
use crate::error::PacketError;
use crate::field::{be16, be32, field};

/// An IPv6 packet.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<'a> {
    fixed: &'a [u8; 40],
    payload: &'a [u8],
}

const LAYER: &str = "ipv6";
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that are followed: no honest packet has more.
const MAX_EXTENSIONS: usize = 8;

#[inline]
fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

impl<'a> Ipv6<'a> {
    /// Bytes of the header without extensions.
    pub const HEADER_BYTES: usize = 40;

    /// Reads a packet. What the payload length leaves out is left out.
    ///
    /// # Errors
    /// [`PacketError::Truncated`]; [`PacketError::BadField`] for another version.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::check(bytes)
    }

    #[inline]
    pub(super) fn check<E: Fault>(bytes: &'a [u8]) -> Result<Self, E> {
        let (fixed, rest) = bytes
            .split_first_chunk::<40>()
            .ok_or_else(|| E::of(|| truncated(LAYER, 40, bytes.len())))?;
        if fixed[0] >> 4 != 6 {
            return Err(E::of(|| bad(LAYER, "version", fixed[0] >> 4, "must be 6")));
        }
        let len = usize::from(be16(fixed, 4));
        let payload =
            rest.get(..len).ok_or_else(|| E::of(|| truncated(LAYER, 40 + len, bytes.len())))?;
        Ok(Self { fixed, payload })
    }

    /// Traffic class: code point and congestion notification.
    pub fn traffic_class(&self) -> u8 {
        self.fixed[0] << 4 | self.fixed[1] >> 4
    }

    /// Flow label, 20 bits.
    pub fn flow_label(&self) -> u32 {
        be32(self.fixed, 0) & 0x000f_ffff
    }

    /// What follows this header: see [`super::protocol`], or an extension header.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.fixed[6]
    }

    /// How many routers it may still pass.
    pub fn hop_limit(&self) -> u8 {
        self.fixed[7]
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(field::<16>(self.fixed, 8))
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(field::<16>(self.fixed, 24))
    }

    /// Both, for the checksums of what it carries.
    pub fn addresses(&self) -> Addresses {
        Addresses::V6 { from: self.source(), to: self.destination() }
    }

    /// Everything behind the header, extension headers included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The extension headers in order.
    pub fn extensions(&self) -> ExtensionHeaders<'a> {
        ExtensionHeaders { next: self.next_header(), rest: self.payload, seen: 0, failed: false }
    }

    /// Passes over the extension headers: the fragment header if there is one, the protocol that follows them, and its
    /// bytes. Of several fragment headers it is the first that makes the packet a part of another one.
    ///
    /// # Errors
    /// Those of [`ExtensionHeaders`].
    #[inline]
    pub fn upper(&self) -> Result<(Option<Ipv6Fragment>, u8, &'a [u8]), PacketError> {
        self.check_upper()
    }

    #[inline]
    pub(super) fn check_upper<E: Fault>(&self) -> Result<(Option<Ipv6Fragment>, u8, &'a [u8]), E> {
        if is_extension(self.next_header()) {
            self.pass_over()
        } else {
            Ok((None, self.next_header(), self.payload))
        }
    }

    /// Kept apart, as few packets have any: the way of the others stays short where it is inlined.
    #[inline(never)]
    fn pass_over<E: Fault>(&self) -> Result<(Option<Ipv6Fragment>, u8, &'a [u8]), E> {
        let mut headers = self.extensions();
        let mut fragment: Option<Ipv6Fragment> = None;
        for header in headers.by_ref() {
            if let ExtensionHeader::Fragment(found) = header.map_err(|error| E::of(|| error))? {
                // An atomic one behind it must not make a part look whole.
                if fragment.is_none_or(|fragment| !fragment.more) {
                    fragment = Some(found);
                }
                if found.offset > 0 {
                    // What follows is from the middle of the packet.
                    break;
                }
            }
        }
        Ok((fragment, headers.next, headers.rest))
    }
}

/// A fragment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Fragment {
    /// Where the payload belongs in the whole packet's, in bytes.
    pub offset: usize,
    /// Whether more fragments follow.
    pub more: bool,
    /// What fragments of one packet have in common.
    pub identification: u32,
    /// What the whole packet's fragmentable part begins with.
    pub next_header: u8,
}

/// An extension header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionHeader<'a> {
    /// For every router on the way; its options, unread.
    HopByHop(&'a [u8]),
    /// The way to take: routing type, segments left, data.
    Routing(u8, u8, &'a [u8]),
    /// A part of a packet.
    Fragment(Ipv6Fragment),
    /// For the destination; its options, unread.
    DestinationOptions(&'a [u8]),
}

/// The extension headers of a packet. Ends at the first header that is none of the four, or that cannot be read, with
/// its error: what is behind an authentication header or encrypted is not looked at.
#[derive(Debug, Clone)]
pub struct ExtensionHeaders<'a> {
    next: u8,
    rest: &'a [u8],
    seen: usize,
    failed: bool,
}

impl ExtensionHeader<'_> {
    /// Bytes that it takes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::HopByHop(options) | Self::DestinationOptions(options) => 2 + options.len(),
            Self::Routing(_, _, data) => 4 + data.len(),
            Self::Fragment(_) => 8,
        }
    }
}

impl<'a> ExtensionHeaders<'a> {
    /// What the header that was read last says to follow.
    pub fn next_header(&self) -> u8 {
        self.next
    }

    /// What follows the header that was read last.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn read(&mut self) -> Result<ExtensionHeader<'a>, PacketError> {
        const LAYER: &str = "ipv6 extension header";
        if self.seen == MAX_EXTENSIONS {
            return Err(bad(
                LAYER,
                "count",
                self.seen as u64 + 1,
                "is more than any honest packet has",
            ));
        }
        let have = self.rest.len();
        let first = self.rest.first_chunk::<8>().ok_or_else(|| truncated(LAYER, 8, have))?;
        let kind = self.next;
        // Fragment headers have a fixed length; the field is reserved there.
        let len = if kind == FRAGMENT { 8 } else { 8 + usize::from(first[1]) * 8 };
        let (header, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| truncated(LAYER, len, have))?;
        (self.next, self.rest) = (first[0], rest);
        self.seen += 1;
        let data = header.get(2..).unwrap_or_default();
        Ok(match kind {
            HOP_BY_HOP => ExtensionHeader::HopByHop(data),
            ROUTING => {
                ExtensionHeader::Routing(first[2], first[3], data.get(2..).unwrap_or_default())
            }
            FRAGMENT => ExtensionHeader::Fragment(Ipv6Fragment {
                offset: usize::from(be16(first, 2) & 0xfff8),
                more: first[3] & 1 == 1,
                identification: be32(first, 4),
                next_header: first[0],
            }),
            _ => ExtensionHeader::DestinationOptions(data),
        })
    }
}

impl<'a> Iterator for ExtensionHeaders<'a> {
    type Item = Result<ExtensionHeader<'a>, PacketError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if !is_extension(self.next) || self.failed {
            return None;
        }
        let read = self.read();
        self.failed = read.is_err();
        Some(read)
    }
}
