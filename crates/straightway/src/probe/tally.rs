//! What came back of a series of probes. No clock and no socket: times are given in.

/// A series of probes with consecutive numbers, and the answers to them.
///
/// ```
/// use straightway::probe::Tally;
///
/// let mut tally = Tally::starting_at(7);
/// for n in 0..4 {
///     tally.sent(n * 1000);
/// }
/// for (id, at) in [(7, 500), (9, 2600), (8, 2700)] {
///     assert!(tally.answered(id, at));
/// }
/// assert!(!tally.answered(9, 2800), "a second answer is none");
/// assert_eq!((tally.sent_count(), tally.received(), tally.lost(), tally.reordered()), (4, 3, 1, 1));
/// assert_eq!(tally.round_trips().percentile_ns(50.0), 600);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tally {
    first: u32,
    /// When each probe was sent, in nanoseconds; `None` once it is answered.
    waiting: Vec<Option<u64>>,
    highest: Option<u32>,
    reordered: u64,
    round_trips: Vec<u64>,
}

impl Tally {
    /// A series whose first probe has this number.
    pub fn starting_at(first: u32) -> Self {
        Self { first, ..Self::default() }
    }

    /// The next probe was sent.
    pub fn sent(&mut self, at_ns: u64) {
        self.waiting.push(Some(at_ns));
    }

    /// An answer came; `false` when it belongs to no probe that waits.
    pub fn answered(&mut self, id: u32, at_ns: u64) -> bool {
        let index = id.wrapping_sub(self.first);
        let slot = usize::try_from(index).ok().and_then(|index| self.waiting.get_mut(index));
        let Some(sent) = slot.and_then(Option::take) else { return false };
        self.round_trips.push(at_ns.saturating_sub(sent));
        if self.highest.is_some_and(|highest| highest > index) {
            self.reordered += 1;
        } else {
            self.highest = Some(index);
        }
        true
    }

    /// Probes sent.
    pub fn sent_count(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Probes answered.
    pub fn received(&self) -> u64 {
        self.round_trips.len() as u64
    }

    /// Probes not answered.
    pub fn lost(&self) -> u64 {
        self.sent_count() - self.received()
    }

    /// Answers that came after the answer to a later probe.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// The round trips.
    pub fn round_trips(&self) -> RoundTrips {
        RoundTrips::new(self.round_trips.clone())
    }
}

/// Round trips, from the shortest to the longest.
#[derive(Debug, Clone, Default)]
pub struct RoundTrips(Vec<u64>);

impl RoundTrips {
    /// Of these times, in nanoseconds.
    pub fn new(mut times_ns: Vec<u64>) -> Self {
        times_ns.sort_unstable();
        Self(times_ns)
    }

    /// All of them, sorted.
    pub fn sorted_ns(&self) -> &[u64] {
        &self.0
    }

    /// The time within which that share of the answers came (nearest rank); 0 when there were none.
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within the list"
        )]
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(0)
    }

    /// How many lie in each of the ranges from one power of two to the next, with the lower bound of each in
    /// nanoseconds; empty ranges at the ends are left out.
    pub fn histogram(&self) -> Vec<(u64, u64)> {
        let mut counts = [0u64; 64];
        for time in &self.0 {
            counts[time.max(&1).ilog2() as usize] += 1;
        }
        let used = |count: &u64| *count > 0;
        let (Some(first), Some(last)) =
            (counts.iter().position(used), counts.iter().rposition(used))
        else {
            return Vec::new();
        };
        (first..=last).map(|power| (1 << power, counts[power])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times = RoundTrips::new((1..=100).rev().collect());
        for (percent, expected) in
            [(0.0, 1), (1.0, 1), (50.0, 50), (99.0, 99), (99.5, 100), (100.0, 100)]
        {
            assert_eq!(times.percentile_ns(percent), expected, "{percent}");
        }
        assert_eq!(RoundTrips::default().percentile_ns(50.0), 0);
        assert!(RoundTrips::default().histogram().is_empty());
        assert_eq!(
            RoundTrips::new(vec![0, 1, 5, 7, 20]).histogram(),
            [(1, 2), (2, 0), (4, 2), (8, 0), (16, 1)]
        );
    }

    proptest! {
        #[test]
        fn books_balance_whatever_answers_come(first: u32, sent in 0..50u64, answers in proptest::collection::vec((0..60u32, 0..1000u64), 0..100)) {
            let mut tally = Tally::starting_at(first);
            (0..sent).for_each(|n| tally.sent(n));
            let good = answers.into_iter().filter(|(id, at)| tally.answered(first.wrapping_add(*id), *at)).count() as u64;
            prop_assert_eq!((tally.sent_count(), tally.received(), tally.received() + tally.lost()), (sent, good, sent));
            prop_assert!(tally.reordered() < good.max(1));
            prop_assert_eq!(tally.round_trips().histogram().iter().map(|(_, count)| count).sum::<u64>(), good);
        }
    }
}
