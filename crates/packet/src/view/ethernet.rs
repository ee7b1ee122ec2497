//! Ethernet II, with up to two VLAN tags (IEEE 802.1Q, 802.1ad).
use super::{Fault, truncated};
use crate::addr::MacAddr;
use crate::error::PacketError;
use crate::field::{be16, field};

/// What an Ethernet frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// A customer's VLAN tag.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// A provider's VLAN tag.
    pub const PROVIDER_VLAN: Self = Self(0x88a8);
    /// The node's own messages.
    pub const OVERLAY: Self = Self(0x3030);

    #[inline]
    fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::PROVIDER_VLAN)
    }
}

/// A VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// Which kind of tag: [`EtherType::VLAN`] or [`EtherType::PROVIDER_VLAN`].
    pub kind: EtherType,
    /// Priority, 0 to 7.
    pub priority: u8,
    /// Whether it may be dropped first.
    pub drop_eligible: bool,
    /// The VLAN, 0 to 4095.
    pub id: u16,
}

impl VlanTag {
    pub(crate) fn read(kind: EtherType, tci: u16) -> Self {
        let [high, _] = tci.to_be_bytes();
        Self { kind, priority: high >> 5, drop_eligible: high & 0x10 != 0, id: tci & 0x0fff }
    }

    /// As it stands in a frame, behind the addresses.
    pub(crate) fn bytes(self) -> [u8; 4] {
        let ([k0, k1], [t0, t1]) = (self.kind.0.to_be_bytes(), self.tci().to_be_bytes());
        [k0, k1, t0, t1]
    }

    fn tci(self) -> u16 {
        u16::from(self.priority & 7) << 13 | u16::from(self.drop_eligible) << 12 | self.id & 0x0fff
    }
}

/// An Ethernet frame.
#[derive(Debug, Clone, Copy)]
pub struct Ethernet<'a> {
    header: &'a [u8; 14],
    /// Each tag's control information and the type that follows it.
    tags: &'a [u8],
    ether_type: EtherType,
    payload: &'a [u8],
}

const LAYER: &str = "ethernet";
/// Two tags: a provider's and a customer's.
const MAX_TAG_BYTES: usize = 8;

impl<'a> Ethernet<'a> {
    /// Bytes of the header without tags.
    pub const HEADER_BYTES: usize = 14;

    /// Reads a frame, without preamble and checksum.
    ///
    /// # Errors
    /// [`PacketError::Truncated`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::check(bytes)
    }

    #[inline]
    pub(super) fn check<E: Fault>(bytes: &'a [u8]) -> Result<Self, E> {
        let (header, payload) = bytes
            .split_first_chunk::<14>()
            .ok_or_else(|| E::of(|| truncated(LAYER, Self::HEADER_BYTES, bytes.len())))?;
        // What most frames carry is asked for first, and as it lies there.
        if field(header, 12) == EtherType::IPV4.0.to_be_bytes() {
            return Ok(Self { header, tags: &[], ether_type: EtherType::IPV4, payload });
        }
        let ether_type = EtherType(be16(header, 12));
        if ether_type.is_tag() {
            return Self::tagged(header, payload);
        }
        Ok(Self { header, tags: &[], ether_type, payload })
    }

    #[inline]
    fn tagged<E: Fault>(header: &'a [u8; 14], behind: &'a [u8]) -> Result<Self, E> {
        let mut ether_type = EtherType(be16(header, 12));
        let mut len = 0;
        while ether_type.is_tag() && len < MAX_TAG_BYTES {
            let short = || E::of(|| truncated("vlan", len + 4, behind.len()));
            let tag = behind.get(len..len + 4).ok_or_else(short)?;
            ether_type = EtherType(be16(tag, 2));
            len += 4;
        }
        let (tags, payload) = behind.split_at_checked(len).unwrap_or_default();
        Ok(Self { header, tags, ether_type, payload })
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> MacAddr {
        MacAddr(field(self.header, 0))
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> MacAddr {
        MacAddr(field(self.header, 6))
    }

    /// Its VLAN tags, outermost first.
    pub fn tags(&self) -> impl Iterator<Item = VlanTag> + use<'a> {
        let (first, tags) = (EtherType(be16(self.header, 12)), self.tags);
        let mut kind = first;
        tags.chunks_exact(4).map(move |tag| {
            let read = VlanTag::read(kind, be16(tag, 0));
            kind = EtherType(be16(tag, 2));
            read
        })
    }

    /// What it carries, behind the tags.
    #[inline]
    pub fn ether_type(&self) -> EtherType {
        self.ether_type
    }

    /// What follows header and tags; short frames are padded to 46 bytes on the link.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
