//! How fast to send: a token bucket.
use std::time::Duration;

/// Spreads units (packets, or bytes) over time: so many a second, at most so many at once.
///
/// It has no clock of its own: `now` is any that does not go back. Nothing is lost to rounding, whatever the rate and
/// however often it is asked.
///
/// ```
/// use std::time::Duration;
/// use straightway_packet::batch::Pacer;
///
/// let mut pacer = Pacer::new(1000, 10);
/// let start = Duration::ZERO;
/// assert_eq!(pacer.take(start, 100), 10, "the burst");
/// assert_eq!(pacer.take(start, 1), 0);
/// assert_eq!(pacer.wait(start), Duration::from_millis(1), "until the next one");
/// assert_eq!(pacer.take(start + Duration::from_millis(5), 100), 5);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Pacer {
    /// Units a second.
    rate: u64,
    burst: u64,
    /// What may be sent, in units times nanoseconds: a whole number at every moment.
    credit: u128,
    /// Up to when the credit is counted; `None` before the first question.
    at: Option<Duration>,
}

/// What a unit costs.
const COST: u128 = 1_000_000_000;

impl Pacer {
    /// `rate` units a second, and up to `burst` of them at once; both count as at least 1.
    pub fn new(rate: u64, burst: u64) -> Self {
        let burst = burst.max(1);
        Self { rate: rate.max(1), burst, credit: u128::from(burst) * COST, at: None }
    }

    /// Takes up to `wanted` units; gives how many may be sent now.
    pub fn take(&mut self, now: Duration, wanted: u64) -> u64 {
        let since = now.saturating_sub(self.at.unwrap_or(now));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let earned = since.as_nanos().saturating_mul(u128::from(self.rate));
        self.credit = self.credit.saturating_add(earned).min(u128::from(self.burst) * COST);
        let taken = u64::try_from(self.credit / COST).unwrap_or(u64::MAX).min(wanted);
        self.credit -= u128::from(taken) * COST;
        taken
    }

    /// How long until the next unit may be sent.
    pub fn wait(&self, now: Duration) -> Duration {
        let since = now.saturating_sub(self.at.unwrap_or(now));
        let earned = since.as_nanos().saturating_mul(u128::from(self.rate));
        let missing = COST.saturating_sub(self.credit.saturating_add(earned));
        let nanoseconds = missing.div_ceil(u128::from(self.rate));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst_allow_and_never_less_than_asked_for_in_time(
            rate in 1..5_000_000_000u64, burst in 1..100u64,
            steps in proptest::collection::vec((0..10_000_000u64, 0..200u64), 1..60),
        ) {
            let mut pacer = Pacer::new(rate, burst);
            let (mut now, mut sent) = (Duration::ZERO, 0u128);
            for (pause, wanted) in steps {
                now += Duration::from_nanos(pause);
                let taken = pacer.take(now, wanted);
                prop_assert!(taken <= wanted.min(burst));
                sent += u128::from(taken);
                prop_assert!(sent <= u128::from(burst) + now.as_nanos() * u128::from(rate) / COST);
                if taken < wanted {
                    let wait = pacer.wait(now);
                    prop_assert!(wait > Duration::ZERO);
                    now += wait;
                    prop_assert_eq!(pacer.take(now, 1), 1, "after the wait there is one");
                    sent += 1;
                }
            }
        }
    }

    #[test]
    fn a_rate_that_divides_nothing_evenly_does_not_drift() {
        let mut pacer = Pacer::new(3, 2);
        let sent: u64 = (0..=10_000u64).map(|ms| pacer.take(Duration::from_millis(ms), 1)).sum();
        assert_eq!(sent, 2 + 30);
        assert_eq!(pacer.take(Duration::ZERO, 1), 0, "a clock that goes back earns nothing");
        assert_eq!(Pacer::new(0, 0).take(Duration::MAX, 9), 1);
    }
}
