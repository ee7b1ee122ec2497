//! What makes a message one of a member: a counter, the member's number, and a code that only the two of them can make.
//!
//! ```text
//! 0  46 or 52 message, as `straightway_packet::overlay` has it
//! +0  1 version: 1    +1  8 counter    +9  8 sender    +17  16 BLAKE3 of all before, keyed           big-endian
//! ```
//! The key is that of one direction between two members under one secret, so that a message sent back to its sender, or
//! passed on to another member, is a forgery there. The counter goes up with each message under a key and is taken once.
use super::Datagram;
use crate::ids::RaftId;

/// Bytes behind the message.
pub(super) const TRAILER_BYTES: usize = 33;
/// The longest datagram: a reply.
pub const MAX_DATAGRAM: usize = 52 + TRAILER_BYTES;

const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;

/// A secret of two members, as each direction uses it.
#[derive(Clone)]
pub(super) struct Keys {
    secret: [u8; 32],
    send: [u8; 32],
    receive: [u8; 32],
    counter: u64,
    window: Window,
}

impl Keys {
    pub(super) fn new(secret: [u8; 32], me: RaftId, peer: RaftId) -> Self {
        let direction = |from: RaftId, to: RaftId| {
            let mut hasher = blake3::Hasher::new_keyed(&secret);
            hasher.update(b"straightway mesh 1").update(&from.to_be_bytes());
            *hasher.update(&to.to_be_bytes()).finalize().as_bytes()
        };
        let (send, receive) = (direction(me, peer), direction(peer, me));
        Self { secret, send, receive, counter: 0, window: Window::default() }
    }

    pub(super) fn is_of(&self, secret: &[u8; 32]) -> bool {
        self.secret == *secret
    }

    /// Puts the trailer behind a message. `None`: it has no room, or the counter has come to its end.
    pub(super) fn seal(&mut self, datagram: &mut Datagram, me: RaftId) -> Option<()> {
        self.counter = self.counter.checked_add(1)?;
        let mut trailer = [0; TRAILER_BYTES];
        trailer[0] = VERSION;
        trailer[1..9].copy_from_slice(&self.counter.to_be_bytes());
        trailer[9..17].copy_from_slice(&me.to_be_bytes());
        let mac = mac(&self.send, datagram, &trailer[..17]);
        trailer[17..].copy_from_slice(&mac);
        datagram.extend_from(&trailer).ok()
    }

    /// Whether the peer made it under this secret.
    pub(super) fn proves(&self, sealed: &Sealed<'_>) -> bool {
        let expected = mac(&self.receive, sealed.message, &sealed.trailer[..17]);
        // All bytes are looked at, whichever differs first.
        let pairs = expected.iter().zip(&sealed.trailer[17..]);
        pairs.fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }

    /// Takes a counter for the first time; `false`: it was taken, or is too old to know.
    pub(super) fn take(&mut self, counter: u64) -> bool {
        self.window.take(counter)
    }
}

/// No secret in a log.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("counter", &self.counter).finish_non_exhaustive()
    }
}

fn mac(key: &[u8; 32], message: &[u8], head: &[u8]) -> [u8; MAC_BYTES] {
    let hash = blake3::Hasher::new_keyed(key).update(message).update(head).finalize();
    let mut mac = [0; MAC_BYTES];
    mac.copy_from_slice(&hash.as_bytes()[..MAC_BYTES]);
    mac
}

/// A datagram, taken apart and not yet believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed<'a> {
    pub(super) message: &'a [u8],
    trailer: &'a [u8; TRAILER_BYTES],
}

impl<'a> Sealed<'a> {
    pub(super) fn split(datagram: &'a [u8]) -> Option<Self> {
        let (message, trailer) = datagram.split_last_chunk()?;
        matches!(message.len(), 46 | 52).then_some(Self { message, trailer })
    }

    pub(super) fn is_of_this_version(&self) -> bool {
        self.trailer[0] == VERSION
    }

    pub(super) fn counter(&self) -> u64 {
        self.number(1)
    }

    pub(super) fn sender(&self) -> RaftId {
        self.number(9)
    }

    fn number(&self, at: usize) -> u64 {
        self.trailer[at..at + 8].iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }
}

/// Which counters were taken: the highest, and which of the 63 before it.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    highest: u64,
    /// Bit n: `highest - n`.
    taken: u64,
}

impl Window {
    fn take(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let further = u32::try_from(counter - self.highest).unwrap_or(u32::MAX);
            self.taken = self.taken.checked_shl(further).unwrap_or(0) | 1;
            self.highest = counter;
            return true;
        }
        let bit = u32::try_from(self.highest - counter).ok().and_then(|n| 1u64.checked_shl(n));
        // 0 is never sent.
        match bit {
            Some(bit) if counter > 0 && self.taken & bit == 0 => {
                self.taken |= bit;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_counter_is_taken_once_and_never_when_it_is_64_behind(
            counters in prop::collection::vec(prop_oneof![0..200u64, any::<u64>(), (u64::MAX - 70)..], 1..200),
        ) {
            let (mut window, mut taken) = (Window::default(), HashSet::new());
            for counter in counters {
                let highest = taken.iter().max().copied().unwrap_or(0);
                let expected = counter > 0 && !taken.contains(&counter)
                    && (counter > highest || highest - counter < 64);
                prop_assert_eq!(window.take(counter), expected, "{} after {}", counter, highest);
                if expected {
                    taken.insert(counter);
                }
            }
        }

        #[test]
        fn what_is_sealed_is_proven_and_nothing_else(
            secret: [u8; 32], message: [u8; 52], short: bool, flip in 0..85usize * 8, ids: (u64, u64),
        ) {
            let (me, peer) = ids;
            prop_assume!(me != peer);
            let len = if short { 46 } else { 52 };
            let mut datagram = Datagram::new();
            datagram.extend_from(&message[..len]).unwrap();
            let mut mine = Keys::new(secret, me, peer);
            mine.seal(&mut datagram, me).unwrap();
            let total = datagram.len();
            let sealed = Sealed::split(&datagram).unwrap();
            let theirs = Keys::new(secret, peer, me);
            prop_assert!(theirs.proves(&sealed) && sealed.is_of_this_version());
            prop_assert_eq!((sealed.sender(), sealed.counter(), sealed.message), (me, 1, &message[..len]));
            prop_assert!(!mine.proves(&sealed), "sent back");
            prop_assert!(!Keys::new(secret, peer, me.wrapping_add(1)).proves(&sealed), "another pair");
            let mut bent = datagram.clone();
            bent[flip % (total * 8) / 8] ^= 1 << (flip % 8);
            prop_assert!(!theirs.proves(&Sealed::split(&bent).unwrap()));
        }

        #[test]
        fn other_lengths_are_nothing(len in 0..200usize) {
            let bytes = vec![0; len];
            prop_assert_eq!(Sealed::split(&bytes).is_some(), len == 79 || len == 85);
        }
    }
}
