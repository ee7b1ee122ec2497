//! What goes around a transport packet: IP, and Ethernet if wanted.
use std::net::Ipv4Addr;

use super::{MAX_HEADERS, Options};
use crate::addr::MacAddr;
use crate::checksum::checksum;
use crate::error::PacketError;
use crate::view::{Addresses, EtherType, VlanTag};

#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope {
    pub(super) ethernet: Option<(MacAddr, MacAddr)>,
    pub(super) tags: [Option<VlanTag>; 2],
    pub(super) addresses: Addresses,
    pub(super) ttl: u8,
    pub(super) traffic_class: u8,
    pub(super) identification: u16,
    pub(super) dont_fragment: bool,
    pub(super) flow_label: u32,
    pub(super) options: Options,
}

impl Envelope {
    pub(super) fn new(addresses: Addresses) -> Self {
        Self {
            ethernet: None,
            tags: [None; 2],
            addresses,
            ttl: 64,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
            flow_label: 0,
            options: Options::none(),
        }
    }

    #[inline]
    fn link_len(&self) -> usize {
        match self.ethernet {
            Some(_) => 14 + 4 * self.tags.iter().flatten().count(),
            None => 0,
        }
    }

    #[inline]
    pub(super) fn header_len(&self) -> usize {
        let ip = match self.addresses {
            Addresses::V4 { .. } => 20 + self.options.get().len(),
            Addresses::V6 { .. } => 40,
        };
        self.link_len() + ip
    }

    /// Writes the headers for `len` bytes of transport header and payload; gives their own length.
    #[inline]
    pub(super) fn write(
        &self,
        out: &mut [u8; MAX_HEADERS],
        protocol: u8,
        len: usize,
    ) -> Result<usize, PacketError> {
        let at = self.write_link(out);
        let (ether_type, end) = match self.addresses {
            Addresses::V4 { from, to } => {
                let header_len = 20 + self.options.get().len();
                let total = len_field("ipv4", header_len + len)?;
                let header = &mut out[at..at + header_len];
                self.write_v4(header, total, protocol, from, to);
                (EtherType::IPV4, at + header_len)
            }
            Addresses::V6 { from, to } => {
                let len = len_field("ipv6", len)?;
                let class = u32::from(self.traffic_class) << 20;
                let header = &mut out[at..at + 40];
                header[..4].copy_from_slice(&(6 << 28 | class | self.flow_label).to_be_bytes());
                header[4..6].copy_from_slice(&len.to_be_bytes());
                header[6] = protocol;
                header[7] = self.ttl;
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
                (EtherType::IPV6, at + 40)
            }
        };
        if at > 0 {
            out[at - 2..at].copy_from_slice(&ether_type.0.to_be_bytes());
        }
        Ok(end)
    }

    /// Ethernet's header and tags, but for the last type; gives their length.
    #[inline]
    fn write_link(&self, out: &mut [u8; MAX_HEADERS]) -> usize {
        let Some((source, destination)) = self.ethernet else { return 0 };
        out[..6].copy_from_slice(&destination.0);
        out[6..12].copy_from_slice(&source.0);
        let mut at = 12;
        for tag in self.tags.iter().flatten() {
            out[at..at + 4].copy_from_slice(&tag.bytes());
            at += 4;
        }
        at + 2
    }

    #[inline]
    fn write_v4(&self, header: &mut [u8], total: u16, protocol: u8, from: Ipv4Addr, to: Ipv4Addr) {
        let [total_high, total_low] = total.to_be_bytes();
        let [id_high, id_low] = self.identification.to_be_bytes();
        // Of 20 to 60 bytes in words of four: fits four bits.
        let words = u8::try_from(header.len() / 4).unwrap_or(15);
        let flags = if self.dont_fragment { 0x40 } else { 0 };
        let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (from.octets(), to.octets());
        let (fixed, options) = header.split_at_mut(20);
        #[rustfmt::skip]
        fixed.copy_from_slice(&[
            0x40 | words, self.traffic_class, total_high, total_low,
            id_high, id_low, flags, 0,
            self.ttl, protocol, 0, 0,
            s0, s1, s2, s3,
            d0, d1, d2, d3,
        ]);
        options.copy_from_slice(self.options.get());
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A length that has to fit 16 bits.
fn len_field(layer: &'static str, len: usize) -> Result<u16, PacketError> {
    u16::try_from(len).map_err(|_| PacketError::TooLong { layer, len, max: usize::from(u16::MAX) })
}
