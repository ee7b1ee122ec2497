//! What whoever serves looks at: one number.
//!
//! A grant is good as soon as its index is applied, and stays so, because what is applied stays applied. So only the end
//! of the longest grant that is good has to be published. It is stored with `Release` after the effects of that index are
//! visible, and loaded with `Acquire` before anything is looked up: who sees the end of a grant sees all that it wants
//! applied.
use std::fmt;
use std::time::Duration;

use super::sync::{AtomicU64, Ordering};
use super::time::BootTime;

/// The read side of a [`LeaseHolder`](super::LeaseHolder): may this node serve now?
#[derive(Debug)]
pub struct LeaseGate {
    /// Up to when, in nanoseconds; 0: no lease yet.
    until: AtomicU64,
}

/// The answer to [`LeaseGate::may_serve`]: nothing else makes one.
///
/// It must be had *before* the key is looked up. In between, the node may be paused for as long as it likes: what it finds
/// then was current at some moment after the request came. The other way round, what was looked up may have been purged
/// long before the request, and the lease be a new one.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct LeaseHeld(());

/// Why a node may not serve what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLease {
    /// It never had a lease since it started, or gave it up.
    Never,
    /// Its lease has run out: it hears no leader, or has not applied what the leader wants applied.
    Expired {
        /// How long ago.
        ago: Duration,
    },
}

impl fmt::Display for NoLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => {
                f.write_str("this node has no lease from a leader and cannot know what is purged")
            }
            Self::Expired { ago } => {
                write!(f, "this node's lease ran out {ago:?} ago and it cannot know what is purged")
            }
        }
    }
}

impl std::error::Error for NoLease {}

impl LeaseGate {
    pub(super) fn new() -> Self {
        Self { until: AtomicU64::new(0) }
    }

    /// Whether this node may serve at `now`, which was read after the request came. One load.
    ///
    /// # Errors
    /// [`NoLease`]: ask the leader for the current index and wait until it is applied, or do not serve.
    #[inline]
    pub fn may_serve(&self, now: BootTime) -> Result<LeaseHeld, NoLease> {
        let until = BootTime(self.until.load(Ordering::Acquire));
        if now < until {
            return Ok(LeaseHeld(()));
        }
        Err(if until.0 == 0 { NoLease::Never } else { NoLease::Expired { ago: now.since(until) } })
    }

    /// Up to when; `None`: never had one, or gave it up.
    pub fn until(&self) -> Option<BootTime> {
        Some(BootTime(self.until.load(Ordering::Acquire))).filter(|until| until.0 > 0)
    }

    /// A grant has become good.
    pub(super) fn extend(&self, until: BootTime) {
        self.until.fetch_max(until.0, Ordering::AcqRel);
    }

    pub(super) fn close(&self) {
        self.until.store(0, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;

    /// Whoever is let in by a grant sees what the grant wants applied.
    #[test]
    fn a_grant_is_seen_after_what_it_wants_applied() {
        loom::model(|| {
            let gate = Arc::new(LeaseGate::new());
            let purged = Arc::new(AtomicU64::new(0));
            let reader = {
                let (gate, purged) = (gate.clone(), purged.clone());
                loom::thread::spawn(move || {
                    // At 5 only the second grant is still good.
                    if gate.may_serve(BootTime(5)).is_ok() {
                        assert_eq!(purged.load(Ordering::Relaxed), 1);
                    }
                })
            };
            gate.extend(BootTime(4));
            purged.store(1, Ordering::Relaxed);
            gate.extend(BootTime(8));
            reader.join().expect("the reader is content");
            gate.close();
            assert_eq!(gate.may_serve(BootTime(0)), Err(NoLease::Never));
        });
    }
}
