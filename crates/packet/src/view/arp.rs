//! ARP for IPv4 over Ethernet (RFC 826).
use std::net::Ipv4Addr;

use super::{Fault, bad, truncated};
use crate::addr::MacAddr;
use crate::error::PacketError;
use crate::field::{be16, be32, field};

/// A question for, or an answer with, the link address of an IPv4 address.
#[derive(Debug, Clone, Copy)]
pub struct Arp<'a>(&'a [u8; 28]);

const LAYER: &str = "arp";

impl<'a> Arp<'a> {
    /// Reads a packet; what follows is padding.
    ///
    /// # Errors
    /// [`PacketError::Truncated`]; [`PacketError::BadField`] for anything but IPv4 over Ethernet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::check(bytes)
    }

    pub(super) fn check<E: Fault>(bytes: &'a [u8]) -> Result<Self, E> {
        let header =
            bytes.first_chunk::<28>().ok_or_else(|| E::of(|| truncated(LAYER, 28, bytes.len())))?;
        if be32(header, 0) != 0x0001_0800 {
            return Err(E::of(|| {
                bad(LAYER, "address types", be32(header, 0), "must be IPv4 over Ethernet")
            }));
        }
        if be16(header, 4) != 0x0604 {
            return Err(E::of(|| {
                bad(LAYER, "address lengths", be16(header, 4), "must be 6 and 4")
            }));
        }
        Ok(Self(header))
    }

    /// 1: a question, 2: an answer.
    pub fn operation(&self) -> u16 {
        be16(self.0, 6)
    }

    /// The sender's addresses.
    pub fn sender(&self) -> (MacAddr, Ipv4Addr) {
        (MacAddr(field(self.0, 8)), Ipv4Addr::from(field(self.0, 14)))
    }

    /// The addresses that it is about.
    pub fn target(&self) -> (MacAddr, Ipv4Addr) {
        (MacAddr(field(self.0, 18)), Ipv4Addr::from(field(self.0, 24)))
    }
}
