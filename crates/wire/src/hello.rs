//! Who speaks, and why a connection ends.
//!
//! ```text
//! Hello          minor u16 | 0 u16 | max_message u32 | features u64 | cluster [16] | storage [16] | raft id u64 | boot u64
//! Close, Error   code u16 | text
//! ```
//! Integers are little-endian. A later minor version may append to a Hello: what is not known is not looked at. The major
//! version is in the connection's ALPN.
use bytes::Bytes;

use crate::error::WireError;
use crate::frame::encode_frame_borrowed;
use crate::header::{MessageHeader, RequestId};
use crate::kind::MessageType;
use crate::limits::{DEFAULT_MAX_MESSAGE, LARGE_MESSAGE_THRESHOLD, MAX_MAX_MESSAGE};
use crate::rpc::shortened;
use crate::segments::Segments;

/// Bytes of a [`Hello`] of this minor version.
pub const HELLO_BYTES: usize = 64;
/// This build's minor version.
pub const MINOR: u16 = 0;
/// Longest text of a [`Notice`]; the rest of a longer one is not sent.
const MAX_TEXT: usize = 1024;

/// Who speaks: first on every connection, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Minor version: what is known beyond the first of this major version.
    pub minor: u16,
    /// What the speaker can do, as bits ([`crate::FEATURE_ZSTD`]); unknown ones are not looked at.
    pub features: u64,
    /// Which cluster.
    pub cluster: [u8; 16],
    /// The speaker's number in Raft, 0 if it has none yet.
    pub raft_id: u64,
    /// Which log.
    pub storage: [u8; 16],
    /// Counts the speaker's starts.
    pub boot: u64,
    /// Largest message that the speaker takes.
    pub max_message: u32,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            minor: MINOR,
            features: 0,
            cluster: [0; 16],
            raft_id: 0,
            storage: [0; 16],
            boot: 0,
            max_message: DEFAULT_MAX_MESSAGE,
        }
    }
}

/// What two speakers have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The lower minor version.
    pub minor: u16,
    /// What both can do.
    pub features: u64,
    /// Largest message that both take.
    pub max_message: u32,
}

impl Hello {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..2].copy_from_slice(&self.minor.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.max_message.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.features.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster);
        bytes[32..48].copy_from_slice(&self.storage);
        bytes[48..56].copy_from_slice(&self.raft_id.to_le_bytes());
        bytes[56..].copy_from_slice(&self.boot.to_le_bytes());
        bytes
    }

    /// Reads the payload of a Hello, of this minor version or a later one.
    ///
    /// # Errors
    /// [`WireError::Truncated`]; [`WireError::Invalid`] for a limit that no speaker can have.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let bytes = payload.first_chunk::<HELLO_BYTES>().ok_or(WireError::Truncated {
            what: "a hello",
            needed: HELLO_BYTES,
            found: payload.len(),
        })?;
        let hello = Self {
            minor: u16::from_le_bytes(array(bytes, 0)),
            max_message: u32::from_le_bytes(array(bytes, 4)),
            features: u64::from_le_bytes(array(bytes, 8)),
            cluster: array(bytes, 16),
            storage: array(bytes, 32),
            raft_id: u64::from_le_bytes(array(bytes, 48)),
            boot: u64::from_le_bytes(array(bytes, 56)),
        };
        if (hello.max_message as usize) < LARGE_MESSAGE_THRESHOLD {
            let reason = format!("messages of {} bytes at most are too short", hello.max_message);
            return Err(WireError::Invalid { what: "a hello", reason });
        }
        Ok(hello)
    }

    /// What this speaker and the other have in common.
    pub fn agree(&self, other: &Self) -> Agreed {
        Agreed {
            minor: self.minor.min(other.minor),
            features: self.features & other.features,
            max_message: self.max_message.min(other.max_message).min(MAX_MAX_MESSAGE),
        }
    }
}

fn array<const N: usize>(bytes: &[u8; HELLO_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Writes a Hello as a frame.
///
/// # Errors
/// None that a Hello could cause.
pub fn encode_hello(out: &mut Segments, hello: &Hello) -> Result<(), WireError> {
    encode_frame_borrowed(out, &MessageHeader::new(MessageType::Hello), &hello.encode())
}

/// What a peer says when it refuses something or leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// For programs.
    pub code: u16,
    /// For people.
    pub text: String,
}

impl Notice {
    /// Reads the payload of a Close or an Error. Text that is none is shown as well as it goes: it comes from a peer that
    /// is in trouble.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn decode(payload: &Bytes) -> Result<Self, WireError> {
        let [low, high, text @ ..] = &payload[..] else {
            let found = payload.len();
            return Err(WireError::Truncated { what: "a notice", needed: 2, found });
        };
        let text = &text[..text.len().min(MAX_TEXT)];
        let text = String::from_utf8_lossy(text).into_owned();
        Ok(Self { code: u16::from_le_bytes([*low, *high]), text })
    }
}

/// Writes the last frame of a connection.
///
/// # Errors
/// None that a notice could cause.
pub fn encode_close(out: &mut Segments, code: u16, text: &str) -> Result<(), WireError> {
    put(out, MessageHeader::new(MessageType::Close), code, text)
}

/// Writes what is wrong with the peer's message; `id` is that of its request, if it was one.
///
/// # Errors
/// None that a notice could cause.
pub fn encode_error(
    out: &mut Segments,
    id: Option<RequestId>,
    code: u16,
    text: &str,
) -> Result<(), WireError> {
    let header = MessageHeader { request_id: id, ..MessageHeader::new(MessageType::Error) };
    put(out, header, code, text)
}

fn put(out: &mut Segments, header: MessageHeader, code: u16, text: &str) -> Result<(), WireError> {
    let text = shortened(text, MAX_TEXT).as_bytes();
    let mut payload = [0; MAX_TEXT + 2];
    payload[..2].copy_from_slice(&code.to_le_bytes());
    payload[2..2 + text.len()].copy_from_slice(text);
    encode_frame_borrowed(out, &header, &payload[..2 + text.len()])
}
