//! What the two sides of a transfer say to each other beside the bytes.
use bytes::Bytes;
use rkyv::rancor::Failure;
use straightway_wire::{MessageHeader, MessageType, Segments, encode_frame};

use super::SnapshotMark;
use crate::error::ClusterError;
use crate::ids::ObjectId;
use crate::store::{ObjectInfo, StoreError};

/// Largest frame that is no chunk.
pub(crate) const MAX_TALK: usize = 64 << 10;
/// Room for the words of a failure.
const MAX_WORDS: usize = 512;

/// What somebody opens a stream for.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Opening {
    /// To send an object.
    Push { id: [u8; 16], info: ObjectInfo },
    /// To fetch one, from an offset on: so many bytes at most.
    Pull { id: [u8; 16], offset: u64, len: Option<u64> },
    /// To fetch a snapshot; 0: the newest.
    PullSnapshot { index: u64 },
}

/// What the other side says.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Answer {
    /// It is stored; objects with this digest.
    Stored { digest: [u8; 32] },
    /// The object follows.
    Found { info: ObjectInfo },
    /// The snapshot follows.
    FoundSnapshot { mark: SnapshotMark },
    /// It is not here.
    Missing,
    /// There is no room.
    Full { len: Option<u64> },
    /// The bytes are not those that were announced.
    Digest,
    /// It cannot be done.
    Failed { words: String },
}

/// What follows the end.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Trailer {
    /// Bytes that were sent.
    pub(crate) len: u64,
    /// Their SHA-256; of a part of an object none is known.
    pub(crate) digest: Option<[u8; 32]>,
}

impl From<StoreError> for Answer {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { len } => Self::Full { len },
            StoreError::Digest => Self::Digest,
            StoreError::Failed { what, source } => Self::failed(&format_args!("{what}: {source}")),
        }
    }
}

impl Answer {
    pub(crate) fn failed(why: &dyn std::fmt::Display) -> Self {
        let mut words = why.to_string();
        words.truncate(words.floor_char_boundary(MAX_WORDS));
        Self::Failed { words }
    }

    /// The error that it stands for.
    pub(crate) fn into_error(self) -> ClusterError {
        match self {
            Self::Full { len } => StoreError::Full { len }.into(),
            Self::Digest => StoreError::Digest.into(),
            Self::Missing => ClusterError::Refused { reason: "it is not there".to_owned() },
            Self::Failed { words } => ClusterError::Refused { reason: words },
            other => invalid(&format_args!("{other:?} where it answers nothing")),
        }
    }
}

pub(crate) fn invalid(reason: &dyn std::fmt::Display) -> ClusterError {
    ClusterError::Invalid { what: "a transfer", reason: reason.to_string() }
}

pub(crate) fn object(id: [u8; 16]) -> ObjectId {
    ObjectId::from_bytes(id)
}

macro_rules! talk {
    ($($type:ty, $encode:ident, $decode:ident, $kind:ident;)*) => {$(
        /// Writes it as a frame.
        pub(crate) fn $encode(out: &mut Segments, value: &$type) -> Result<(), ClusterError> {
            let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(value).map_err(|error| invalid(&error))?;
            if bytes.len() > MAX_TALK {
                return Err(invalid(&"its description is too long"));
            }
            let payload = Bytes::from(bytes.into_vec());
            Ok(encode_frame(out, &MessageHeader::new(MessageType::$kind), payload)?)
        }

        /// Reads a frame's payload.
        pub(crate) fn $decode(payload: &[u8]) -> Result<$type, ClusterError> {
            rkyv::from_bytes::<$type, Failure>(payload)
                .map_err(|_| invalid(&"a description that makes no sense"))
        }
    )*};
}
talk! {
    Opening, encode_opening, decode_opening, Request;
    Answer, encode_answer, decode_answer, Response;
    Trailer, encode_trailer, decode_trailer, Request;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use straightway_wire::{MIN_HEADER_SIZE, QUIC_CUT};

    fn info() -> ObjectInfo {
        ObjectInfo {
            key: "a/b".to_owned(),
            len: Some(7),
            digest: Some([1; 32]),
            content_type: "text/plain".to_owned(),
            tags: vec!["x".to_owned(), "y".to_owned()],
            expires_ms: 9,
            ..ObjectInfo::default()
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        let mark = SnapshotMark { index: 3, term: 2, len: None };
        for opening in [
            Opening::Push { id: [1; 16], info: info() },
            Opening::Pull { id: [2; 16], offset: 77, len: Some(3) },
            Opening::PullSnapshot { index: 0 },
        ] {
            let mut out = Segments::new(QUIC_CUT);
            encode_opening(&mut out, &opening).expect("encoded");
            let frame = out.finish().concat();
            assert_eq!(decode_opening(&frame[MIN_HEADER_SIZE..]).expect("valid"), opening);
        }
        for answer in [
            Answer::Stored { digest: [1; 32] },
            Answer::Found { info: info() },
            Answer::FoundSnapshot { mark },
            Answer::Missing,
            Answer::Full { len: Some(1) },
            Answer::failed(&"x".repeat(10_000)),
        ] {
            let mut out = Segments::new(QUIC_CUT);
            encode_answer(&mut out, &answer).expect("encoded");
            let frame = out.finish().concat();
            assert_eq!(decode_answer(&frame[MIN_HEADER_SIZE..]).expect("valid"), answer);
        }
    }

    proptest! {
        #[test]
        fn descriptions_of_anything_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // What matters is that it comes to an end without a panic.
            let _ = (decode_opening(&bytes), decode_answer(&bytes), decode_trailer(&bytes));
        }
    }
}
