//! Messages as programs hold them.
use std::borrow::Cow;

use bytes::Bytes;

use crate::frame::Frame;
use crate::header::{MIN_HEADER_SIZE, MessageHeader, RequestId};
use crate::kind::MessageType;
use crate::limits::should_stream;

/// The form of a message that is shared and sent: cheap to clone, its payload by reference.
pub type SharedMessage = Frame;

/// A message whose payload is borrowed or owned.
///
/// For callers that build or look at one message. What is kept, shared or forwarded is a [`SharedMessage`]: a `Cow` has
/// no room for reference-counted bytes.
///
/// ```
/// use straightway_wire::{MessageType, ZeroCopyMessage};
///
/// let data = b"raft message payload";
/// let message = ZeroCopyMessage::new_borrowed(MessageType::RaftMessage, None, data);
/// assert_eq!(message.payload.as_ptr(), data.as_ptr());
/// assert!(!message.is_large_message());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZeroCopyMessage<'a> {
    /// What the payload is.
    pub msg_type: MessageType,
    /// Connects request and response.
    pub request_id: Option<RequestId>,
    /// The bytes.
    pub payload: Cow<'a, [u8]>,
    /// Bytes on the wire as one frame: header and payload. `u32::MAX` if it is larger than messages can be.
    pub total_size: u32,
}

impl<'a> ZeroCopyMessage<'a> {
    /// Borrows the payload.
    pub fn new_borrowed(
        msg_type: MessageType,
        request_id: Option<RequestId>,
        payload: &'a [u8],
    ) -> Self {
        Self::new(msg_type, request_id, Cow::Borrowed(payload))
    }

    /// Takes the payload over: without a copy if nobody else holds its memory and it begins where the memory does,
    /// otherwise with one. [`SharedMessage`] never copies.
    pub fn new_owned(
        msg_type: MessageType,
        request_id: Option<RequestId>,
        payload: Bytes,
    ) -> ZeroCopyMessage<'static> {
        ZeroCopyMessage::new(msg_type, request_id, Cow::Owned(Vec::from(payload)))
    }

    fn new(msg_type: MessageType, request_id: Option<RequestId>, payload: Cow<'a, [u8]>) -> Self {
        let head = MIN_HEADER_SIZE + request_id.map_or(0, |id| id.len());
        let total_size = u32::try_from(payload.len().saturating_add(head)).unwrap_or(u32::MAX);
        Self { msg_type, request_id, payload, total_size }
    }

    /// Whether it is sent in chunks: more than 65,536 bytes.
    #[inline]
    pub fn is_large_message(&self) -> bool {
        should_stream(self.payload.len())
    }

    /// A message that borrows nothing; copies what was borrowed.
    pub fn into_owned(self) -> ZeroCopyMessage<'static> {
        let Self { msg_type, request_id, payload, total_size } = self;
        let payload = Cow::Owned(payload.into_owned());
        ZeroCopyMessage { msg_type, request_id, payload, total_size }
    }

    /// The header of this message.
    pub fn header(&self) -> MessageHeader {
        let payload_len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        MessageHeader {
            request_id: self.request_id,
            payload_len,
            ..MessageHeader::new(self.msg_type)
        }
    }

    /// The form that is shared and sent; copies only what was borrowed.
    pub fn into_shared(self) -> SharedMessage {
        let header = self.header();
        Frame { header, payload: Bytes::from(self.payload.into_owned()) }
    }
}

/// A payload in whatever form it is at hand; none is copied for being in it.
#[derive(Debug, Clone)]
pub enum Payload<'a> {
    /// Somebody else's: copied when it is encoded.
    Borrowed(&'a [u8]),
    /// Shared.
    Shared(Bytes),
}

impl Payload<'_> {
    /// Its length.
    pub fn len(&self) -> usize {
        match self {
            Self::Borrowed(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes; what was borrowed is copied, and counted.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => {
                straightway_buffer::count_copied(bytes.len(), straightway_buffer::Reason::Gather);
                Bytes::copy_from_slice(bytes)
            }
            Self::Shared(bytes) => bytes,
        }
    }
}

impl From<Bytes> for Payload<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LARGE_MESSAGE_THRESHOLD;

    #[test]
    fn what_is_owned_by_nobody_else_is_not_copied() {
        let vec = vec![7; 1000];
        let place = vec.as_ptr();
        let message = ZeroCopyMessage::new_owned(MessageType::Response, Some([1; 16]), vec.into());
        assert_eq!(message.payload.as_ptr(), place);
        let shared = message.into_owned().into_shared();
        assert_eq!(shared.payload.as_ptr(), place);
        let held = shared.payload.clone();
        let message = ZeroCopyMessage::new_owned(MessageType::Response, None, shared.payload);
        assert_ne!(message.payload.as_ptr(), place, "somebody holds it");
        let message = ZeroCopyMessage::new_owned(MessageType::Response, None, held);
        assert_eq!(message.payload.as_ptr(), place, "nobody else does");
    }

    #[test]
    fn large_begins_above_64_kib() {
        let bytes = vec![0; LARGE_MESSAGE_THRESHOLD + 1];
        let large = |payload| {
            ZeroCopyMessage::new_borrowed(MessageType::RaftMessage, None, payload)
                .is_large_message()
        };
        assert!(!large(&bytes[1..]));
        assert!(large(&bytes));
    }

    #[test]
    fn the_size_is_that_of_the_frame() {
        for id in [None, Some([9; 16])] {
            let message = ZeroCopyMessage::new_borrowed(MessageType::Request, id, b"payload");
            let mut out = crate::Segments::default();
            crate::encode_frame_borrowed(&mut out, &message.header(), &message.payload)
                .expect("small");
            assert_eq!(out.len_bytes(), message.total_size as usize);
        }
    }
}
