//! Where a subscriber stands in the stream, and when it may try again to be there.
use std::collections::BTreeSet;
use std::time::Duration;

use straightway_codec::event::Subscribe;
use tokio::time::Instant;

/// The first pause before a new attempt is at most this long, and each next one twice as long ...
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After this long a connection counts as good, and the pauses begin again.
const GOOD_AFTER: Duration = Duration::from_mins(1);

/// Where a subscriber stands in the stream.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) epoch: Option<u64>,
    /// The first offset that was not seen.
    pub(super) next: Option<u64>,
    /// Offsets beyond that which came ahead of others.
    ahead: BTreeSet<u64>,
}

impl Place {
    /// The place that a subscription names.
    pub(super) fn of(wanted: &Subscribe) -> Self {
        Self { epoch: wanted.epoch, next: wanted.from, ahead: BTreeSet::new() }
    }

    /// Takes note of an event; whether it is new.
    pub(super) fn see(&mut self, offset: u64, urgent: bool) -> bool {
        let seen = self.next.is_some_and(|next| offset < next) || self.ahead.contains(&offset);
        if !urgent {
            self.advance(offset.saturating_add(1));
        } else if !seen {
            self.ahead.insert(offset);
        }
        !seen
    }

    fn advance(&mut self, to: u64) {
        let next = self.next.map_or(to, |next| next.max(to));
        self.next = Some(next);
        self.ahead = self.ahead.split_off(&next);
    }

    /// Takes note of a gap, which may lead back: to the start of another epoch.
    pub(super) fn skip(&mut self, to: u64, restarted: bool) {
        self.next = Some(to);
        self.ahead = if restarted { BTreeSet::new() } else { self.ahead.split_off(&to) };
    }

    /// A connection begins: this is the node's epoch, and `first` what it would send first if nothing was asked for.
    pub(super) fn meet(&mut self, epoch: u64, first: u64) {
        if self.epoch.is_some_and(|known| known != epoch) {
            // The gap that says so is on its way. Should it not arrive, nothing of this epoch was seen: from its start.
            *self = Self { next: Some(0), ..Self::default() };
        }
        self.epoch = Some(epoch);
        self.next.get_or_insert(first);
    }
}

/// When the next attempt to connect may begin. Kept, so that whoever gives up waiting and comes back neither waits anew
/// nor is let off.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Since a connection was good, that one included.
    attempts: u32,
    next: Option<Instant>,
}

impl Backoff {
    /// Until when to wait, if at all.
    pub(super) fn until(&self) -> Option<Instant> {
        self.next
    }

    /// An attempt begins.
    pub(super) fn begin(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.rest();
    }

    /// An attempt failed.
    pub(super) fn rest(&mut self) {
        self.next = Some(Instant::now() + pause(self.attempts.max(1)));
    }

    /// A connection was lost that had lasted so long. Good or not, there is a pause: a node that is restarted loses all
    /// its subscribers at once.
    pub(super) fn lost(&mut self, lasted: Duration) {
        if lasted > GOOD_AFTER {
            self.attempts = 1;
        }
        self.rest();
    }
}

/// A random pause, so that a restarted node's subscribers do not all come back at once.
fn pause(attempt: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(10)).min(LONGEST_PAUSE);
    let mut random = [0; 4];
    // Without randomness the longest pause is as good as any.
    if getrandom::fill(&mut random).is_err() {
        return most;
    }
    most.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_new_once_whatever_overtook_it() {
        let mut place = Place { next: Some(10), ..Place::default() };
        assert!(place.see(10, false) && !place.see(10, false) && !place.see(3, false));
        assert!(place.see(20, true), "ahead of others");
        assert!(place.see(11, false) && place.next == Some(12), "which are still missing");
        assert!(!place.see(20, true) && !place.see(20, false), "in its turn");
        assert_eq!((place.next, place.ahead.len()), (Some(21), 0));
    }

    #[test]
    fn offsets_of_another_epoch_are_new_again() {
        let mut place = Place::default();
        place.meet(1, 10);
        assert_eq!(place.next, Some(10), "nothing is missed before the first event");
        assert!(place.see(12, true));
        place.meet(2, 40);
        assert_eq!((place.epoch, place.next), (Some(2), Some(0)), "until the gap has come");
        place.skip(12, true);
        assert!(place.see(12, false));
        // Without an epoch to compare, the gap alone tells.
        let mut place = Place { next: Some(10), ..Place::default() };
        assert!(place.see(12, true));
        place.skip(1, true);
        assert!(place.see(12, false), "another event than the one that overtook");
        assert!(place.see(30, true));
        place.skip(20, false);
        assert!(!place.see(30, false), "the same");
    }

    #[test]
    fn pauses_grow_and_end_somewhere_and_are_never_left_out() {
        for attempt in 1..50 {
            assert!(pause(attempt) <= LONGEST_PAUSE);
        }
        assert!(pause(1) <= FIRST_PAUSE);
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(), None, "the first attempt is made at once");
        for _ in 0..20 {
            backoff.begin();
        }
        backoff.lost(Duration::from_secs(1));
        assert_eq!(backoff.attempts, 20);
        backoff.lost(2 * GOOD_AFTER);
        assert_eq!(backoff.attempts, 1, "it begins again");
        assert!(backoff.until().is_some(), "with a pause");
    }
}
