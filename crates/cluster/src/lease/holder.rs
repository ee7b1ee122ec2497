//! The member's side.
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::gate::{LeaseGate, LeaseHeld, NoLease};
use super::{Ask, BootTime, Grant};

/// Asks that are remembered, and grants that wait until their index is applied.
const REMEMBERED: usize = 8;
/// No grant counts for longer, whatever it says: less is always safe.
const LONGEST: Duration = Duration::from_mins(1);

/// Asks for leases and holds them. Every member has one, the leader too: it asks itself.
///
/// ```
/// use std::time::Duration;
/// use straightway_cluster::lease::{BootTime, Grant, LENGTH, LeaseHolder};
///
/// let mut holder = LeaseHolder::new(1);
/// let asked = BootTime(1_000_000_000);
/// let ask = holder.ask(asked);
/// let now = asked.after(Duration::from_millis(3));
/// let grant = Grant { seq: ask.seq, length_ms: 2000, min_applied: 7, term: 1 };
/// assert!(holder.granted(&grant, now));
/// assert!(holder.may_serve(now).is_err(), "7 is not applied");
/// holder.applied(7);
/// let _held = holder.may_serve(now)?;
/// assert_eq!(holder.until(), Some(asked.after(LENGTH)));
/// # Ok::<(), straightway_cluster::lease::NoLease>(())
/// ```
#[derive(Debug)]
pub struct LeaseHolder {
    gate: Arc<LeaseGate>,
    next_seq: u64,
    /// Number and moment of the last asks.
    asks: VecDeque<(u64, BootTime)>,
    /// Grants whose index is not applied: it, and until when they last.
    waiting: VecDeque<(u64, BootTime)>,
    applied: u64,
    term: u64,
}

impl LeaseHolder {
    /// A holder without a lease. `boot` counts the starts of this node, or is random: its lower 32 bits must differ from
    /// start to start, so that no ask has a number that was used before.
    pub fn new(boot: u64) -> Self {
        Self {
            gate: Arc::new(LeaseGate::new()),
            next_seq: boot << 32,
            asks: VecDeque::with_capacity(REMEMBERED),
            waiting: VecDeque::with_capacity(REMEMBERED),
            applied: 0,
            term: 0,
        }
    }

    /// What those who serve look at.
    pub fn gate(&self) -> Arc<LeaseGate> {
        self.gate.clone()
    }

    /// An ask, to be sent to the leader. The lease that it brings counts from `now`, which must not lie after the sending.
    pub fn ask(&mut self, now: BootTime) -> Ask {
        let seq = self.next_seq;
        self.next_seq = self.next_seq.wrapping_add(1);
        if self.asks.len() >= REMEMBERED {
            self.asks.pop_front();
        }
        self.asks.push_back((seq, now));
        Ask { seq, applied: self.applied }
    }

    /// A grant has come. `false`: it counts for nothing, because nobody asked, it is over, or a later leader has been heard.
    pub fn granted(&mut self, grant: &Grant, now: BootTime) -> bool {
        if grant.term < self.term {
            return false;
        }
        let Some(place) = self.asks.iter().position(|(seq, _)| *seq == grant.seq) else {
            return false;
        };
        let Some((_, asked)) = self.asks.remove(place) else { return false };
        self.term = grant.term;
        let until = asked.after(grant.length().min(LONGEST));
        if until <= now {
            return false;
        }
        if self.applied >= grant.min_applied {
            self.gate.extend(until);
        } else {
            if self.waiting.len() >= REMEMBERED {
                self.waiting.pop_front();
            }
            self.waiting.push_back((grant.min_applied, until));
        }
        true
    }

    /// The log is applied up to `index`, and whoever looks up a key from now on sees it.
    pub fn applied(&mut self, index: u64) {
        self.applied = self.applied.max(index);
        let (applied, gate) = (self.applied, &self.gate);
        self.waiting.retain(|(min_applied, until)| {
            let good = applied >= *min_applied;
            if good {
                gate.extend(*until);
            }
            !good
        });
    }

    /// As [`LeaseGate::may_serve`].
    ///
    /// # Errors
    /// [`NoLease`].
    pub fn may_serve(&self, now: BootTime) -> Result<LeaseHeld, NoLease> {
        self.gate.may_serve(now)
    }

    /// Gives up the lease, and all that was asked for: this node stops, or cannot go on. It may ask again.
    pub fn revoke(&mut self) {
        self.gate.close();
        self.asks.clear();
        self.waiting.clear();
    }

    /// Until when it may serve; `None`: never had a lease, or gave it up.
    pub fn until(&self) -> Option<BootTime> {
        self.gate.until()
    }
}

#[cfg(test)]
mod tests {
    use super::super::LENGTH;
    use super::*;

    fn grant(seq: u64, min_applied: u64, term: u64) -> Grant {
        Grant { seq, length_ms: 2000, min_applied, term }
    }

    fn at(ms: u64) -> BootTime {
        BootTime(ms * 1_000_000)
    }

    #[test]
    fn a_lease_counts_from_its_ask_and_ends_to_the_nanosecond() {
        let mut holder = LeaseHolder::new(7);
        assert_eq!(holder.may_serve(at(0)), Err(NoLease::Never));
        let ask = holder.ask(at(100));
        assert_eq!(ask, Ask { seq: 7 << 32, applied: 0 });
        assert!(holder.granted(&grant(ask.seq, 0, 1), at(900)));
        assert!(!holder.granted(&grant(ask.seq, 0, 1), at(900)), "once only");
        let last = BootTime(at(2100).0 - 1);
        assert!(holder.may_serve(last).is_ok());
        assert_eq!(holder.until(), Some(at(100).after(LENGTH)));
        let ago = Duration::from_nanos(5);
        assert_eq!(holder.may_serve(BootTime(last.0 + 6)), Err(NoLease::Expired { ago }));
    }

    #[test]
    fn a_grant_that_waits_for_its_index_does_not_end_the_one_before() {
        let mut holder = LeaseHolder::new(1);
        holder.applied(5);
        let (first, second) = (holder.ask(at(0)), holder.ask(at(500)));
        assert!(holder.granted(&grant(second.seq, 9, 1), at(510)));
        assert!(holder.may_serve(at(510)).is_err());
        assert!(holder.granted(&grant(first.seq, 5, 1), at(520)));
        assert_eq!(holder.until(), Some(at(2000)));
        holder.applied(8);
        assert_eq!(holder.until(), Some(at(2000)));
        holder.applied(9);
        assert_eq!(holder.until(), Some(at(2500)));
    }

    #[test]
    fn what_is_old_foreign_or_over_counts_for_nothing() {
        let mut holder = LeaseHolder::new(1);
        let asks: Vec<_> = (0..20).map(|n| holder.ask(at(n))).collect();
        assert!(!holder.granted(&grant(asks[0].seq, 0, 1), at(30)), "forgotten");
        assert!(!holder.granted(&grant(asks[19].seq + 1, 0, 1), at(30)), "never asked");
        assert!(!holder.granted(&grant(asks[19].seq, 0, 1), at(2019)), "over");
        assert!(holder.granted(&grant(asks[18].seq, 0, 4), at(30)));
        assert!(!holder.granted(&grant(asks[17].seq, 0, 3), at(30)), "of an older term");
        let long = Grant { length_ms: u32::MAX, ..grant(asks[16].seq, 0, 4) };
        assert!(holder.granted(&long, at(30)));
        assert_eq!(holder.until(), Some(at(16).after(LONGEST)));
    }

    #[test]
    fn giving_up_forgets_what_was_asked_for() {
        let mut holder = LeaseHolder::new(1);
        let asks = [holder.ask(at(0)), holder.ask(at(1)), holder.ask(at(2))];
        assert!(holder.granted(&grant(asks[0].seq, 0, 1), at(3)));
        assert!(holder.granted(&grant(asks[1].seq, 6, 1), at(3)));
        holder.revoke();
        holder.applied(6);
        assert!(!holder.granted(&grant(asks[2].seq, 0, 1), at(3)));
        assert_eq!(holder.may_serve(at(3)), Err(NoLease::Never));
        assert_eq!(holder.until(), None);
    }
}
