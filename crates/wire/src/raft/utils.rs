//! Messages of the kinds that travel most: `straightway_wire::raft_utils`.
use raft::prelude::Message;

use super::serialize_raft_message_fast;
use crate::error::WireError;
use crate::header::RequestId;
use crate::kind::MessageType;
use crate::message::ZeroCopyMessage;

/// A Raft message as one to be sent, in one allocation. Where entries are not to be copied,
/// [`serialize_raft_message_vectored`](super::serialize_raft_message_vectored) writes into the frame itself.
///
/// ```
/// use straightway_wire::raft_utils::{create_heartbeat_message, create_raft_rpc_request};
/// use straightway_wire::raft_utils::{is_heartbeat_message, should_stream_message};
///
/// let raft = raft::prelude::Message { to: 2, from: 1, term: 7, ..Default::default() };
/// let message = create_raft_rpc_request(&raft, Some([1; 16]))?;
/// assert!(!is_heartbeat_message(&message) && !should_stream_message(&message));
/// assert!(is_heartbeat_message(&create_heartbeat_message()));
/// # Ok::<(), straightway_wire::WireError>(())
/// ```
pub fn create_raft_rpc_request(
    raft_message: &Message,
    request_id: Option<RequestId>,
) -> Result<ZeroCopyMessage<'static>, WireError> {
    let payload = serialize_raft_message_fast(raft_message)?;
    Ok(ZeroCopyMessage::new_owned(MessageType::RaftMessage, request_id, payload))
}

/// A sign of life of a connection: a header and nothing behind it. Raft's own heartbeats are Raft messages.
#[inline]
pub fn create_heartbeat_message() -> ZeroCopyMessage<'static> {
    ZeroCopyMessage::new_borrowed(MessageType::Heartbeat, None, &[])
}

/// Whether it is a sign of life.
#[inline]
pub fn is_heartbeat_message(message: &ZeroCopyMessage<'_>) -> bool {
    message.msg_type == MessageType::Heartbeat
}

/// Whether it has to be sent in chunks, so that others can pass.
#[inline]
pub fn should_stream_message(message: &ZeroCopyMessage<'_>) -> bool {
    message.is_large_message()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft::prelude::Entry;

    use super::*;
    use crate::limits::LARGE_MESSAGE_THRESHOLD;
    use crate::raft::deserialize_raft_message_fast;

    #[test]
    fn a_request_holds_the_message_where_it_was_written() {
        let entry =
            |len| Entry { index: 1, term: 1, data: Bytes::from(vec![7; len]), ..Entry::default() };
        for (len, streamed) in [(100, false), (LARGE_MESSAGE_THRESHOLD, true)] {
            let raft = Message { term: 1, entries: vec![entry(len)].into(), ..Message::default() };
            let request = create_raft_rpc_request(&raft, Some([3; 16])).expect("encoded");
            assert_eq!(request.msg_type, MessageType::RaftMessage);
            assert_eq!(request.request_id, Some([3; 16]));
            assert_eq!(should_stream_message(&request), streamed);
            assert!(!is_heartbeat_message(&request));
            let place = request.payload.as_ptr();
            let payload = request.into_shared().payload;
            assert_eq!(payload.as_ptr(), place);
            assert_eq!(deserialize_raft_message_fast(payload).expect("sound"), raft);
        }
        let alive = create_heartbeat_message();
        assert!(is_heartbeat_message(&alive) && alive.payload.is_empty());
        assert_eq!(alive.total_size, 16);
    }
}
