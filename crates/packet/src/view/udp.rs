//! UDP (RFC 768).
use super::{Addresses, Fault, bad, protocol, truncated, verified};
use crate::checksum::Checksum;
use crate::error::PacketError;
use crate::field::be16;

/// A UDP datagram.
#[derive(Debug, Clone, Copy)]
pub struct Udp<'a> {
    header: &'a [u8; 8],
    payload: &'a [u8],
}

const LAYER: &str = "udp";

impl<'a> Udp<'a> {
    /// Bytes of the header.
    pub const HEADER_BYTES: usize = 8;

    /// Reads a datagram. What its length leaves out is left out.
    ///
    /// # Errors
    /// [`PacketError::Truncated`]; [`PacketError::BadField`] for a length below the header's.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::check(bytes)
    }

    #[inline]
    pub(super) fn check<E: Fault>(bytes: &'a [u8]) -> Result<Self, E> {
        let (header, behind) = bytes
            .split_first_chunk::<8>()
            .ok_or_else(|| E::of(|| truncated(LAYER, 8, bytes.len())))?;
        let len = usize::from(be16(header, 4));
        // A length below the header's wraps: it is longer than any payload, so that one check finds both kinds of error.
        let payload = behind.get(..len.wrapping_sub(Self::HEADER_BYTES));
        let payload = payload.ok_or_else(|| E::of(|| Self::wrong_length(len, bytes.len())))?;
        Ok(Self { header, payload })
    }

    #[cold]
    fn wrong_length(len: usize, have: usize) -> PacketError {
        if len < Self::HEADER_BYTES {
            bad(LAYER, "length", len as u64, "must be at least 8")
        } else {
            truncated(LAYER, len, have)
        }
    }

    /// The sender's port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        be16(self.header, 0)
    }

    /// The receiver's port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        be16(self.header, 2)
    }

    /// The checksum as it stands there; 0 over IPv4: there is none.
    pub fn checksum(&self) -> u16 {
        be16(self.header, 6)
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Checks the checksum. A missing one passes over IPv4 and fails over IPv6 (RFC 8200 §8.1).
    ///
    /// # Errors
    /// [`PacketError::Checksum`].
    pub fn verify_checksum(&self, addresses: &Addresses) -> Result<(), PacketError> {
        if self.checksum() == 0 && matches!(addresses, Addresses::V4 { .. }) {
            return Ok(());
        }
        let mut sum = Checksum::new();
        addresses.add_pseudo(&mut sum, protocol::UDP, Self::HEADER_BYTES + self.payload.len());
        sum.add(self.header);
        sum.add(self.payload);
        let sum = sum.finish();
        verified(LAYER, self.checksum(), if self.checksum() == 0 { sum.max(1) } else { sum })
    }
}
