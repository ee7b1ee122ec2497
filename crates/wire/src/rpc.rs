//! Calls and their answers, as payloads of [`MessageType::Request`] and [`MessageType::Response`].
//!
//! ```text
//! Request   service_len u8 | method_len u8 | service | method | payload
//! Response  flags u8 (1 success, 2 payload, 4 error) | 0 | error_len u16 LE | error | payload
//! ```
//! They are for answers that fit into a frame of 64 KiB. What is longer is sent beside the messages.
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::WireError;
use crate::frame::{begin_frame, end_frame};
use crate::header::{MessageHeader, RequestId};
use crate::kind::MessageType;
use crate::limits::LARGE_MESSAGE_THRESHOLD;
use crate::segments::Segments;

const SUCCESS: u8 = 1;
const HAS_PAYLOAD: u8 = 2;
const HAS_ERROR: u8 = 4;
/// Longest text of an error; the rest of a longer one is not sent.
const MAX_ERROR: usize = 1024;

/// Ids of requests: eight bytes of the process, eight that count.
#[derive(Debug)]
pub struct RequestIds {
    prefix: [u8; 8],
    next: AtomicU64,
}

impl RequestIds {
    /// With a random prefix, so that ids from before a restart are not taken for new ones.
    ///
    /// # Errors
    /// [`WireError::Io`] if the system has no random bytes.
    pub fn new() -> Result<Self, WireError> {
        let mut prefix = [0; 8];
        getrandom::fill(&mut prefix).map_err(|error| WireError::Io {
            step: "asking the system for random bytes",
            source: std::io::Error::other(error),
        })?;
        Ok(Self::with_prefix(prefix))
    }

    /// With a prefix of the caller's, for runs that can be repeated.
    pub const fn with_prefix(prefix: [u8; 8]) -> Self {
        Self { prefix, next: AtomicU64::new(0) }
    }

    /// One that was not given before.
    pub fn next_id(&self) -> RequestId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.prefix);
        id[8..].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        id
    }
}

/// A call that owns its parts; [`RpcRequestView`] is the form without copies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RpcRequest {
    /// Who is called.
    pub service: String,
    /// For what.
    pub method: String,
    /// The arguments.
    pub payload: Vec<u8>,
}

impl RpcRequest {
    /// Appends the payload of a request.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for names of more than 255 bytes.
    pub fn encode(&self, out: &mut Segments) -> Result<(), WireError> {
        put_names(out, &self.service, &self.method)?;
        out.push_copy(&self.payload);
        Ok(())
    }

    /// Reads a payload, and copies it.
    ///
    /// # Errors
    /// As [`RpcRequestView::decode`].
    pub fn decode(payload: &Bytes) -> Result<Self, WireError> {
        let view = RpcRequestView::decode(payload.clone())?;
        let (service, method) = (view.service().to_owned(), view.method().to_owned());
        Ok(Self { service, method, payload: view.payload().to_vec() })
    }
}

/// An answer that owns its parts; [`RpcResponseView`] is the form without copies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RpcResponse {
    /// Whether it was done.
    pub success: bool,
    /// The result.
    pub payload: Option<Vec<u8>>,
    /// Why it was not done.
    pub error: Option<String>,
}

impl RpcResponse {
    /// Appends the payload of a response.
    pub fn encode(&self, out: &mut Segments) {
        put_answer(out, self.success, self.payload.is_some(), self.error.as_deref());
        out.push_copy(self.payload.as_deref().unwrap_or_default());
    }

    /// Reads a payload, and copies it.
    ///
    /// # Errors
    /// As [`RpcResponseView::decode`].
    pub fn decode(payload: &Bytes) -> Result<Self, WireError> {
        let view = RpcResponseView::decode(payload.clone())?;
        Ok(Self {
            success: view.success(),
            payload: view.payload().map(|payload| payload.to_vec()),
            error: view.error().map(str::to_owned),
        })
    }
}

/// A call as it lies in its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcRequestView {
    raw: Bytes,
    service_end: usize,
    method_end: usize,
}

impl RpcRequestView {
    /// Reads the payload of a request, and copies nothing.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Invalid`].
    pub fn decode(raw: Bytes) -> Result<Self, WireError> {
        let cut = |needed| WireError::Truncated { what: "a request", needed, found: raw.len() };
        let [service, method, ..] = raw[..] else { return Err(cut(2)) };
        let service_end = 2 + usize::from(service);
        let method_end = service_end + usize::from(method);
        let names = raw.get(2..method_end).ok_or_else(|| cut(method_end))?;
        let (service, method) = names.split_at(service_end - 2);
        text("a service's name", service)?;
        text("a method's name", method)?;
        Ok(Self { raw, service_end, method_end })
    }

    /// Who is called.
    pub fn service(&self) -> &str {
        checked(&self.raw[2..self.service_end])
    }

    /// For what.
    pub fn method(&self) -> &str {
        checked(&self.raw[self.service_end..self.method_end])
    }

    /// The arguments, a slice of the frame.
    pub fn payload(&self) -> Bytes {
        self.raw.slice(self.method_end..)
    }
}

/// An answer as it lies in its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcResponseView {
    raw: Bytes,
    flags: u8,
    error_end: usize,
}

impl RpcResponseView {
    /// Reads the payload of a response, and copies nothing.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Invalid`].
    pub fn decode(raw: Bytes) -> Result<Self, WireError> {
        let cut = |needed| WireError::Truncated { what: "a response", needed, found: raw.len() };
        let [flags, _, low, high, ..] = raw[..] else { return Err(cut(4)) };
        let error_end = 4 + usize::from(u16::from_le_bytes([low, high]));
        text("an error's text", raw.get(4..error_end).ok_or_else(|| cut(error_end))?)?;
        let contradicts = (flags & HAS_PAYLOAD == 0 && raw.len() > error_end)
            || (flags & HAS_ERROR == 0 && error_end > 4);
        if contradicts {
            let reason = "its flags contradict its parts".to_owned();
            return Err(WireError::Invalid { what: "a response", reason });
        }
        Ok(Self { raw, flags, error_end })
    }

    /// Whether it was done.
    pub fn success(&self) -> bool {
        self.flags & SUCCESS != 0
    }

    /// The result, a slice of the frame.
    pub fn payload(&self) -> Option<Bytes> {
        (self.flags & HAS_PAYLOAD != 0).then(|| self.raw.slice(self.error_end..))
    }

    /// Why it was not done.
    pub fn error(&self) -> Option<&str> {
        (self.flags & HAS_ERROR != 0).then(|| checked(&self.raw[4..self.error_end]))
    }
}

/// What a service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RpcReply {
    /// Done, with this result.
    Ok(Bytes),
    /// Not done, and why.
    Err(String),
}

impl RpcReply {
    fn put_head(self, out: &mut Segments) -> Option<Bytes> {
        match self {
            Self::Ok(result) => {
                put_answer(out, true, true, None);
                Some(result)
            }
            Self::Err(error) => {
                put_answer(out, false, false, Some(&error));
                None
            }
        }
    }
}

/// Writes a call as one frame, its arguments by reference. Of `header`, the type is set here.
///
/// # Errors
/// [`WireError::TooLarge`]: names of more than 255 bytes, or a payload of more than 64 KiB.
pub fn encode_request(
    out: &mut Segments,
    header: &MessageHeader,
    service: &str,
    method: &str,
    payload: Bytes,
) -> Result<(), WireError> {
    small(2 + service.len() + method.len() + payload.len())?;
    let start = out.mark();
    let header = MessageHeader { msg_type: MessageType::Request, ..*header };
    let frame = begin_frame(out, &header);
    put_names(out, service, method).inspect_err(|_| out.truncate(start))?;
    out.push(payload);
    end_frame(out, frame)
}

/// Writes an answer as one frame, its result by reference.
///
/// # Errors
/// [`WireError::TooLarge`]: a payload of more than 64 KiB.
pub fn encode_response(
    out: &mut Segments,
    id: RequestId,
    reply: RpcReply,
) -> Result<(), WireError> {
    if let RpcReply::Ok(result) = &reply {
        small(4 + result.len())?;
    }
    let frame = begin_frame(out, &MessageHeader::new(MessageType::Response).with_request_id(id));
    if let Some(result) = reply.put_head(out) {
        out.push(result);
    }
    end_frame(out, frame)
}

fn small(len: usize) -> Result<(), WireError> {
    if len <= LARGE_MESSAGE_THRESHOLD {
        return Ok(());
    }
    let limit = LARGE_MESSAGE_THRESHOLD as u64;
    Err(WireError::TooLarge { what: "a call's payload", len: len as u64, limit })
}

fn put_names(out: &mut Segments, service: &str, method: &str) -> Result<(), WireError> {
    let short = |name: &str| {
        let too_large =
            WireError::TooLarge { what: "a call's name", len: name.len() as u64, limit: 255 };
        u8::try_from(name.len()).map_err(|_| too_large)
    };
    let lens = [short(service)?, short(method)?];
    out.put_slice(&lens);
    out.put_slice(service.as_bytes());
    out.put_slice(method.as_bytes());
    Ok(())
}

fn put_answer(out: &mut Segments, success: bool, payload: bool, error: Option<&str>) {
    let flag = |set, flag| if set { flag } else { 0 };
    let flags =
        flag(success, SUCCESS) | flag(payload, HAS_PAYLOAD) | flag(error.is_some(), HAS_ERROR);
    let error = shortened(error.unwrap_or_default(), MAX_ERROR);
    let len = u16::try_from(error.len()).unwrap_or_default().to_le_bytes();
    out.put_slice(&[flags, 0, len[0], len[1]]);
    out.put_slice(error.as_bytes());
}

/// As much of a text as fits, in whole characters.
pub(crate) fn shortened(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

fn text(what: &'static str, bytes: &[u8]) -> Result<(), WireError> {
    let checked = std::str::from_utf8(bytes).map(|_| ());
    checked.map_err(|error| WireError::Invalid { what, reason: error.to_string() })
}

/// What was checked when it was read.
fn checked(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
