//! What a frame carries.
use crate::error::WireError;

/// What a frame carries. The numbers are on the wire: they do not change, and are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum MessageType {
    /// A call that is to be answered.
    Request = 0,
    /// The answer to a [`MessageType::Request`], with its id.
    Response = 1,
    /// A message of Raft, as `eraftpb` writes it.
    RaftMessage = 2,
    /// A sign of life. With an id it asks for an echo.
    Heartbeat = 3,
    /// What went wrong with the peer's message.
    Error = 4,
    /// Who speaks, first on every connection.
    Hello = 5,
    /// A long message begins: its header, without a payload.
    StreamBegin = 6,
    /// The next part of a long message.
    StreamChunk = 7,
    /// A long message is complete, or given up.
    StreamEnd = 8,
    /// The last frame, and why.
    Close = 9,
}

impl MessageType {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Request,
        Self::Response,
        Self::RaftMessage,
        Self::Heartbeat,
        Self::Error,
        Self::Hello,
        Self::StreamBegin,
        Self::StreamChunk,
        Self::StreamEnd,
        Self::Close,
    ];

    /// Whether it is a part of a chunked message.
    pub const fn is_part(self) -> bool {
        matches!(self, Self::StreamBegin | Self::StreamChunk | Self::StreamEnd)
    }
}

impl TryFrom<u8> for MessageType {
    type Error = WireError;

    fn try_from(number: u8) -> Result<Self, WireError> {
        let known = Self::ALL.get(usize::from(number)).copied();
        known.ok_or(WireError::UnknownType { found: number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_types() {
        for number in 0..=u8::MAX {
            match MessageType::try_from(number) {
                Ok(kind) => assert_eq!(kind as u8, number),
                Err(error) => {
                    assert!(number > 9);
                    assert!(matches!(error, WireError::UnknownType { found } if found == number));
                }
            }
        }
    }
}
