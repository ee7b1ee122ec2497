//! ICMP (RFC 792) and ICMPv6 (RFC 4443).
use super::{Addresses, Fault, protocol, truncated, verified};
use crate::checksum::checksum;
use crate::error::PacketError;
use crate::field::be16;

/// Whose control messages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpVersion {
    /// IPv4's.
    V4,
    /// IPv6's.
    V6,
}

/// A control message.
#[derive(Debug, Clone, Copy)]
pub struct Icmp<'a> {
    version: IcmpVersion,
    header: &'a [u8; 8],
    message: &'a [u8],
}

/// An echo request or reply: what `ping` sends and gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Whether it is the reply.
    pub reply: bool,
    /// Which `ping`.
    pub identifier: u16,
    /// Which of its requests.
    pub sequence: u16,
}

impl<'a> Icmp<'a> {
    /// Bytes of the header, the four that differ by type included.
    pub const HEADER_BYTES: usize = 8;

    /// Reads a message, which goes to the end of `bytes`.
    ///
    /// # Errors
    /// [`PacketError::Truncated`].
    #[inline]
    pub fn parse(version: IcmpVersion, bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::check(version, bytes)
    }

    #[inline]
    pub(super) fn check<E: Fault>(version: IcmpVersion, bytes: &'a [u8]) -> Result<Self, E> {
        let short = || E::of(|| truncated("icmp", 8, bytes.len()));
        let header = bytes.first_chunk::<8>().ok_or_else(short)?;
        Ok(Self { version, header, message: bytes })
    }

    /// Type of the message.
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// Code within the type.
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// The checksum as it stands there.
    pub fn checksum(&self) -> u16 {
        be16(self.header, 2)
    }

    /// The four bytes of the header that mean something else in every type.
    pub fn rest_of_header(&self) -> [u8; 4] {
        crate::field::field(self.header, 4)
    }

    /// The echo that it is, if it is one.
    pub fn echo(&self) -> Option<Echo> {
        let reply = match (self.version, self.kind()) {
            (IcmpVersion::V4, 8) | (IcmpVersion::V6, 128) => false,
            (IcmpVersion::V4, 0) | (IcmpVersion::V6, 129) => true,
            _ => return None,
        };
        Some(Echo { reply, identifier: be16(self.header, 4), sequence: be16(self.header, 6) })
    }

    /// What follows the header: an echo's data, or the packet that an error is about.
    pub fn payload(&self) -> &'a [u8] {
        self.message.get(Self::HEADER_BYTES..).unwrap_or_default()
    }

    /// Checks the checksum, which covers the addresses for IPv6 only.
    ///
    /// # Errors
    /// [`PacketError::Checksum`].
    pub fn verify_checksum(&self, addresses: &Addresses) -> Result<(), PacketError> {
        let sum = match self.version {
            IcmpVersion::V4 => checksum(self.message),
            IcmpVersion::V6 => addresses.checksum(protocol::ICMPV6, self.message),
        };
        verified("icmp", self.checksum(), sum)
    }
}
