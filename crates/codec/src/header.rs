//! What stands in front of an archive.
//!
//! ```text
//!  0  "SW"   2 layout = 1   3 flags
//!  4  type id u32           8 type version u16   10 priority u8   11 format u8
//! 12  ttl ms u32 (0 none)  16 offset u64         24 unix time us u64      32 payload
//! ```
//! Integers are little-endian. 32 bytes keep the archive aligned relative to the message's start, for readers that fill
//! an aligned buffer; this build's archives need no alignment.
use crate::error::CodecError;

/// Length of a header.
pub const HEADER_BYTES: usize = 32;

const MAGIC: [u8; 2] = *b"SW";
const LAYOUT: u8 = 1;

/// How this build lays archives out: little-endian, unaligned, 32-bit relative pointers. The upper half is free.
pub(crate) const FORMAT: u8 = 0b0000_1011;

/// How urgent a message is. Higher goes first.
pub type Priority = u8;

/// What a header says about its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// The payload is a zstd frame around the archive.
    pub const ZSTD: Self = Self(1);
    /// An extension of [`crate::Envelope`] stands between header and archive.
    pub const EXTENDED: Self = Self(4);
    /// Overtook others: its offset says nothing about what was seen before.
    pub const URGENT: Self = Self(16);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is like.
    pub flags: Flags,
    /// Which type ([`crate::type_id`] of its name).
    pub type_id: u32,
    /// Which version of the type.
    pub version: u16,
    /// Urgency.
    pub priority: Priority,
    /// Lifetime in milliseconds from `time_us`; 0: none.
    pub ttl_ms: u32,
    /// Place in the sender's stream.
    pub offset: u64,
    /// When it was sent, in microseconds since the Unix epoch.
    pub time_us: u64,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = LAYOUT;
        bytes[3] = self.flags.0;
        bytes[4..8].copy_from_slice(&self.type_id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10] = self.priority;
        bytes[11] = FORMAT;
        bytes[12..16].copy_from_slice(&self.ttl_ms.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..].copy_from_slice(&self.time_us.to_le_bytes());
        bytes
    }

    /// Splits a message into its header and payload.
    ///
    /// # Errors
    /// [`CodecError::Truncated`], [`CodecError::NotAMessage`], [`CodecError::Format`].
    pub fn parse(message: &[u8]) -> Result<(Self, &[u8]), CodecError> {
        let (head, payload) = message
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(CodecError::Truncated { needed: HEADER_BYTES, found: message.len() })?;
        if head[..2] != MAGIC {
            return Err(CodecError::NotAMessage { reason: "it does not begin with SW" });
        }
        if head[2] != LAYOUT {
            return Err(CodecError::NotAMessage { reason: "its header has another layout" });
        }
        // The upper half says nothing yet, and nothing of the layout when it does.
        if head[11] & 0x0f != FORMAT & 0x0f {
            return Err(CodecError::Format { found: head[11], expected: FORMAT });
        }
        let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let header = Self {
            flags: Flags(head[3]),
            type_id: u32_at(4),
            version: u16_at(8),
            priority: head[10],
            ttl_ms: u32_at(12),
            offset: u64_at(16),
            time_us: u64_at(24),
        };
        Ok((header, payload))
    }

    /// Sets flags in the bytes of a message, which must begin with a header.
    pub fn set_flags(message: &mut [u8], flags: Flags) {
        if let Some(byte) = message.get_mut(3) {
            *byte |= flags.0;
        }
    }

    /// When the message is worth nothing any more, in milliseconds since the Unix epoch.
    pub fn expires_ms(&self) -> Option<u64> {
        (self.ttl_ms != 0).then(|| (self.time_us / 1000).saturating_add(u64::from(self.ttl_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back(type_id: u32, version: u16, priority: u8, ttl_ms: u32, offset: u64, time_us: u64, flags: u8, rest in proptest::collection::vec(any::<u8>(), 0..40)) {
            let header = Header { flags: Flags(flags), type_id, version, priority, ttl_ms, offset, time_us };
            let mut message = header.encode().to_vec();
            message.extend_from_slice(&rest);
            let (back, payload) = Header::parse(&message).expect("sound");
            prop_assert_eq!((back, payload), (header, &rest[..]));
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), genuine: bool) {
            if genuine && bytes.len() > 12 {
                bytes[..3].copy_from_slice(b"SW\x01");
                bytes[11] = FORMAT;
            }
            prop_assert_eq!(Header::parse(&bytes).is_ok(), genuine && bytes.len() >= HEADER_BYTES);
        }
    }

    /// Golden bytes: what is on the wire does not change by accident.
    #[test]
    fn the_layout_is_frozen() {
        let header = Header {
            flags: Flags::ZSTD.with(Flags::URGENT),
            type_id: 0x0102_0304,
            version: 5,
            priority: 6,
            ttl_ms: 7,
            offset: 8,
            time_us: 9,
        };
        let expected = [
            b'S', b'W', 1, 17, 4, 3, 2, 1, 5, 0, 6, 0x0b, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0,
            0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(header.encode(), expected);
        let mut foreign = expected;
        foreign[11] = 0x07;
        assert!(matches!(Header::parse(&foreign), Err(CodecError::Format { found: 7, .. })));
    }
}
