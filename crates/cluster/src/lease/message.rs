//! What member and leader tell each other, as bytes: little-endian, of fixed length.
use std::time::Duration;

use crate::error::ClusterError;

/// A member asks for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Its number, which the member never uses again, not in another life either.
    pub seq: u64,
    /// Up to where the member has applied the log.
    pub applied: u64,
}

/// A leader grants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The ask that is answered.
    pub seq: u64,
    /// How long it lasts, in milliseconds, from the moment of the ask.
    pub length_ms: u32,
    /// What the member must have applied before it may serve.
    pub min_applied: u64,
    /// The leader's term.
    pub term: u64,
}

impl Ask {
    /// Bytes that it takes.
    pub const BYTES: usize = 16;

    /// As bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..].copy_from_slice(&self.applied.to_le_bytes());
        bytes
    }

    /// The reverse of [`Ask::encode`].
    ///
    /// # Errors
    /// [`ClusterError::Invalid`] for any other length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ClusterError> {
        match bytes.as_chunks() {
            ([seq, applied], []) => {
                Ok(Self { seq: u64::from_le_bytes(*seq), applied: u64::from_le_bytes(*applied) })
            }
            _ => Err(wrong_length("ask for a lease", bytes, Self::BYTES)),
        }
    }
}

impl Grant {
    /// Bytes that it takes.
    pub const BYTES: usize = 28;

    /// How long it lasts.
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.length_ms.into())
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.min_applied.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.term.to_le_bytes());
        bytes[24..].copy_from_slice(&self.length_ms.to_le_bytes());
        bytes
    }

    /// The reverse of [`Grant::encode`].
    ///
    /// # Errors
    /// [`ClusterError::Invalid`] for any other length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ClusterError> {
        let wrong = || wrong_length("grant of a lease", bytes, Self::BYTES);
        let (numbers, rest) = bytes.as_chunks();
        let ([seq, min_applied, term], Ok(length)) = (numbers, rest.try_into()) else {
            return Err(wrong());
        };
        Ok(Self {
            seq: u64::from_le_bytes(*seq),
            length_ms: u32::from_le_bytes(length),
            min_applied: u64::from_le_bytes(*min_applied),
            term: u64::from_le_bytes(*term),
        })
    }
}

fn wrong_length(what: &'static str, bytes: &[u8], expected: usize) -> ClusterError {
    ClusterError::Invalid { what, reason: format!("{} bytes instead of {expected}", bytes.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_survive_their_bytes_and_no_other_length_does(
            numbers: [u64; 3], length_ms: u32, other in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let [seq, applied, term] = numbers;
            let ask = Ask { seq, applied };
            let grant = Grant { seq, length_ms, min_applied: applied, term };
            prop_assert_eq!(Ask::decode(&ask.encode()).unwrap(), ask);
            prop_assert_eq!(Grant::decode(&grant.encode()).unwrap(), grant);
            prop_assert_eq!(Ask::decode(&other).is_ok(), other.len() == Ask::BYTES);
            prop_assert_eq!(Grant::decode(&other).is_ok(), other.len() == Grant::BYTES);
        }
    }

    #[test]
    fn bytes_are_as_written_down() {
        let grant = Grant { seq: 1, length_ms: 2000, min_applied: 3, term: 4 };
        let expected = [
            &[1, 0, 0, 0, 0, 0, 0, 0][..],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[0xd0, 7, 0, 0],
        ];
        assert_eq!(grant.encode()[..], expected.concat());
    }
}
