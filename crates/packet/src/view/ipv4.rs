//! IPv4 (RFC 791).
use std::net::Ipv4Addr;

use super::{Addresses, Fault, bad, truncated, verified};
use crate::checksum::checksum;
use crate::error::PacketError;
use crate::field::{be16, field};

/// An IPv4 packet.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<'a> {
    fixed: &'a [u8; 20],
    header: &'a [u8],
    payload: &'a [u8],
}

const LAYER: &str = "ipv4";

impl<'a> Ipv4<'a> {
    /// Bytes of the header without options.
    pub const HEADER_BYTES: usize = 20;

    /// Reads a packet. What the total length leaves out (padding of the link) is left out.
    ///
    /// # Errors
    /// [`PacketError::Truncated`] when fewer bytes are there than the total length says; [`PacketError::BadField`] for
    /// another version, and for a header length or total length that cannot be.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::check(bytes)
    }

    #[inline]
    pub(super) fn check<E: Fault>(bytes: &'a [u8]) -> Result<Self, E> {
        let fixed =
            bytes.first_chunk::<20>().ok_or_else(|| E::of(|| truncated(LAYER, 20, bytes.len())))?;
        // Version and header length stand in one byte, and are looked at together.
        if !(0x45..=0x4f).contains(&fixed[0]) {
            return Err(E::of(|| Self::wrong_start(fixed[0])));
        }
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(be16(fixed, 2));
        if total < header_len {
            return Err(E::of(|| {
                bad(LAYER, "total length", total as u64, "is less than the header's")
            }));
        }
        let packet =
            bytes.get(..total).ok_or_else(|| E::of(|| truncated(LAYER, total, bytes.len())))?;
        let (header, payload) = packet
            .split_at_checked(header_len)
            .ok_or_else(|| E::of(|| truncated(LAYER, header_len, total)))?;
        Ok(Self { fixed, header, payload })
    }

    #[cold]
    fn wrong_start(first: u8) -> PacketError {
        if first >> 4 == 4 {
            let len = u64::from(first & 0x0f) * 4;
            bad(LAYER, "header length", len, "must be at least 20")
        } else {
            bad(LAYER, "version", first >> 4, "must be 4")
        }
    }

    /// Differentiated services code point (RFC 2474), 0 to 63.
    pub fn dscp(&self) -> u8 {
        self.fixed[1] >> 2
    }

    /// Congestion notification (RFC 3168), 0 to 3.
    pub fn ecn(&self) -> u8 {
        self.fixed[1] & 3
    }

    /// Header and payload.
    pub fn total_len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    /// What fragments of one packet have in common.
    pub fn identification(&self) -> u16 {
        be16(self.fixed, 4)
    }

    /// Whether routers may not fragment it.
    pub fn dont_fragment(&self) -> bool {
        self.fixed[6] & 0x40 != 0
    }

    /// Whether more fragments follow this one.
    pub fn more_fragments(&self) -> bool {
        self.fixed[6] & 0x20 != 0
    }

    /// Where the payload belongs in the whole packet's, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(be16(self.fixed, 6) & 0x1fff) * 8
    }

    /// Whether it is a part of a packet only.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        be16(self.fixed, 6) & 0x3fff != 0
    }

    /// How many routers it may still pass.
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// What it carries: see [`super::protocol`].
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// The header's checksum as it stands there.
    pub fn checksum(&self) -> u16 {
        be16(self.fixed, 10)
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from(field::<4>(self.fixed, 12))
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from(field::<4>(self.fixed, 16))
    }

    /// Both, for the checksums of what it carries.
    pub fn addresses(&self) -> Addresses {
        Addresses::V4 { from: self.source(), to: self.destination() }
    }

    /// Its options in order.
    pub fn options(&self) -> Ipv4Options<'a> {
        Ipv4Options(self.header.get(Self::HEADER_BYTES..).unwrap_or_default())
    }

    /// The whole header, options included.
    pub fn header(&self) -> &'a [u8] {
        self.header
    }

    /// What it carries.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Checks the header's checksum.
    ///
    /// # Errors
    /// [`PacketError::Checksum`].
    pub fn verify_checksum(&self) -> Result<(), PacketError> {
        verified(LAYER, self.checksum(), checksum(self.header))
    }
}

/// An option: its kind, and what follows kind and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Option<'a> {
    /// Number of the option, copy flag and class included.
    pub kind: u8,
    /// Its data.
    pub data: &'a [u8],
}

/// The options of a header, padding left out. Ends at the first one that cannot be read, with its error.
#[derive(Debug, Clone)]
pub struct Ipv4Options<'a>(&'a [u8]);

impl<'a> Iterator for Ipv4Options<'a> {
    type Item = Result<Ipv4Option<'a>, PacketError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = next_option("ipv4 option", &mut self.0)?;
        Some(next.map(|(kind, data)| Ipv4Option { kind, data }))
    }
}

/// The next option that is not padding: its kind and data. The length in it counts kind and length too. After an option
/// that cannot be read there is none.
pub(super) fn next_option<'a>(
    layer: &'static str,
    options: &mut &'a [u8],
) -> Option<Result<(u8, &'a [u8]), PacketError>> {
    const NO_OPERATION: u8 = 1;
    const END: u8 = 0;
    loop {
        let (kind, rest) = options.split_first()?;
        match *kind {
            END => return None,
            NO_OPERATION => *options = rest,
            kind => {
                let bytes = std::mem::take(options);
                return Some(split_option(layer, bytes).map(|(data, rest)| {
                    *options = rest;
                    (kind, data)
                }));
            }
        }
    }
}

fn split_option<'a>(
    layer: &'static str,
    bytes: &'a [u8],
) -> Result<(&'a [u8], &'a [u8]), PacketError> {
    let len = *bytes.get(1).ok_or_else(|| truncated(layer, 2, bytes.len()))?;
    if len < 2 {
        return Err(bad(layer, "length", len, "must be at least 2"));
    }
    let (option, rest) = bytes
        .split_at_checked(usize::from(len))
        .ok_or_else(|| truncated(layer, usize::from(len), bytes.len()))?;
    Ok((option.get(2..).unwrap_or_default(), rest))
}
