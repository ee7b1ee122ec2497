//! What was refused: counted by reason, and told in one line a second at the most.
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Why something was refused or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The key belongs to no member.
    Stranger,
    /// More connections from one address, or from all, than are let in.
    RateLimited,
    /// Too many handshakes under way.
    HalfOpen,
    /// A protocol that is not spoken here.
    WrongAlpn,
    /// The handshake failed, or took too long.
    Handshake,
    /// No `Hello`, or one that does not fit.
    Hello,
    /// Bytes that are no frame, or a frame over the limit.
    Frame,
    /// A frame that has no place on its lane, or content that is not valid.
    Message,
    /// A Raft message that no member sends: it would have misled this node, or stopped it.
    RaftMessage,
    /// More calls at once than are answered.
    Calls,
    /// A ticket that is unknown, used, expired or not proven.
    Ticket,
}

const REASONS: [(Refusal, &str); 11] = [
    (Refusal::Stranger, "strangers"),
    (Refusal::RateLimited, "rate_limited"),
    (Refusal::HalfOpen, "half_open"),
    (Refusal::WrongAlpn, "wrong_alpn"),
    (Refusal::Handshake, "handshakes"),
    (Refusal::Hello, "hellos"),
    (Refusal::Frame, "frames"),
    (Refusal::Message, "messages"),
    (Refusal::RaftMessage, "raft_messages"),
    (Refusal::Calls, "calls"),
    (Refusal::Ticket, "tickets"),
];
const QUIET: Duration = Duration::from_secs(1);

impl Refusal {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        REASONS[self as usize].1
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Told {
    at: Option<Instant>,
    count: u64,
}

/// Counts by reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    counts: [AtomicU64; REASONS.len()],
    told: Mutex<[Told; REASONS.len()]>,
}

impl Refusals {
    /// Counts one, and tells of it if nothing was told of its like for a second.
    pub(crate) fn count(&self, why: Refusal, detail: impl fmt::Display) {
        if let Some(more) = self.count_at(why, Instant::now()) {
            tracing::warn!(reason = why.name(), count = more, "refused: {detail}");
        }
    }

    /// The number to be told, if it is time to.
    fn count_at(&self, why: Refusal, now: Instant) -> Option<u64> {
        let total = self.counts[why as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let told = &mut self.told.lock()[why as usize];
        if told.at.is_some_and(|at| now.saturating_duration_since(at) < QUIET) {
            return None;
        }
        let more = total.saturating_sub(told.count);
        *told = Told { at: Some(now), count: total };
        Some(more)
    }

    /// How often, by name.
    pub(crate) fn all(&self) -> Vec<(Refusal, u64)> {
        let read =
            |(why, _): (Refusal, _)| (why, self.counts[why as usize].load(Ordering::Relaxed));
        REASONS.map(read).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_little_is_told() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.count_at(Refusal::Frame, start), Some(1));
        for milliseconds in 0..999 {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(refusals.count_at(Refusal::Frame, now), None);
        }
        assert_eq!(refusals.count_at(Refusal::Stranger, start), Some(1), "another reason");
        assert_eq!(refusals.count_at(Refusal::Frame, start + QUIET), Some(1000));
        let all = refusals.all();
        assert!(all.contains(&(Refusal::Frame, 1001)) && all.contains(&(Refusal::Stranger, 1)));
    }

    #[test]
    fn each_reason_has_its_name() {
        for (at, (why, name)) in REASONS.iter().enumerate() {
            assert_eq!((*why as usize, why.name()), (at, *name));
        }
    }
}
