//! Link-layer addresses.
use std::fmt;
use std::str::FromStr;

use crate::error::PacketError;

/// A 48-bit address of IEEE 802.
///
/// ```
/// # use straightway_packet::MacAddr;
/// let address: MacAddr = "02:00:00:00:00:0a".parse()?;
/// assert_eq!(address.0[5], 10);
/// assert_eq!(address.to_string(), "02:00:00:00:00:0a");
/// # Ok::<(), straightway_packet::PacketError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group, broadcast included.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// As a number: the first byte is the highest of 48 bits.
    #[inline]
    pub(crate) fn number(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&self.0);
        u64::from_be_bytes(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl FromStr for MacAddr {
    type Err = PacketError;

    fn from_str(text: &str) -> Result<Self, PacketError> {
        let wrong = PacketError::BadField {
            layer: "ethernet",
            field: "address length",
            value: text.len() as u64,
            rule: "must be six pairs of hexadecimal digits with colons between",
        };
        let mut address = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut address {
            let pair = pairs.next().filter(|pair| {
                pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit())
            });
            match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
                Some(value) => *byte = value,
                None => return Err(wrong),
            }
        }
        if pairs.next().is_some() { Err(wrong) } else { Ok(Self(address)) }
    }
}
