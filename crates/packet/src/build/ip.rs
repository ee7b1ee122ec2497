//! What goes around a transport packet: IP, and Ethernet if wanted.
use super::Options;
use crate::addr::MacAddr;
use crate::checksum::checksum;
use crate::error::PacketError;
use crate::field::Writer;
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

    /// Writes the headers for `len` bytes of transport header and payload.
    #[inline]
    pub(super) fn write(
        &self,
        out: &mut Writer<'_>,
        protocol: u8,
        len: usize,
    ) -> Result<(), PacketError> {
        if let Some((source, destination)) = self.ethernet {
            out.put(&destination.0);
            out.put(&source.0);
            for tag in self.tags.iter().flatten() {
                out.put(&tag.kind.0.to_be_bytes());
                out.put(&tag.tci().to_be_bytes());
            }
        }
        match self.addresses {
            Addresses::V4 { from, to } => {
                let options = self.options.get();
                let header_len = 20 + options.len();
                let total = len_field("ipv4", header_len + len)?;
                let [total_high, total_low] = total.to_be_bytes();
                let [id_high, id_low] = self.identification.to_be_bytes();
                // Of 20 to 60 bytes in words of four: fits four bits.
                let words = u8::try_from(header_len / 4).unwrap_or(15);
                let flags = if self.dont_fragment { 0x40 } else { 0 };
                let mut header = [0; 60];
                let [s0, s1, s2, s3] = from.octets();
                let [d0, d1, d2, d3] = to.octets();
                header[..20].copy_from_slice(&[
                    0x40 | words,
                    self.traffic_class,
                    total_high,
                    total_low,
                    id_high,
                    id_low,
                    flags,
                    0,
                    self.ttl,
                    protocol,
                    0,
                    0,
                    s0,
                    s1,
                    s2,
                    s3,
                    d0,
                    d1,
                    d2,
                    d3,
                ]);
                header[20..header_len].copy_from_slice(options);
                let sum = checksum(&header[..header_len]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                self.put_type(out, EtherType::IPV4);
                out.put(&header[..header_len]);
            }
            Addresses::V6 { from, to } => {
                let len = len_field("ipv6", len)?;
                let class = u32::from(self.traffic_class) << 20;
                self.put_type(out, EtherType::IPV6);
                out.put(&(6 << 28 | class | self.flow_label).to_be_bytes());
                out.put(&len.to_be_bytes());
                out.put(&[protocol, self.ttl]);
                out.put(&from.octets());
                out.put(&to.octets());
            }
        }
        Ok(())
    }

    #[inline]
    fn put_type(&self, out: &mut Writer<'_>, ether_type: EtherType) {
        if self.ethernet.is_some() {
            out.put(&ether_type.0.to_be_bytes());
        }
    }
}

/// A length that has to fit 16 bits.
fn len_field(layer: &'static str, len: usize) -> Result<u16, PacketError> {
    u16::try_from(len).map_err(|_| PacketError::TooLong { layer, len, max: usize::from(u16::MAX) })
}
