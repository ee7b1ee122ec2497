//! How long to wait before dialling again. Time is the caller's.
use std::time::Duration;

/// Waits before dialling: doubled each time, with jitter so that nodes do not dial in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    seed: u64,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration, seed: u64) -> Self {
        Self { first, most, next: first, seed: seed | 1 }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Three quarters to five quarters of the present wait.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        // Xorshift: enough to tell nodes apart.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let eighths = 6 + u32::try_from(self.seed % 5).unwrap_or(0);
        wait * eighths / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_differ() {
        let (first, most) = (Duration::from_millis(50), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most, 7);
        for expected in [50, 100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let wait = backoff.wait();
            assert!(
                wait >= expected * 3 / 4 && wait <= expected * 5 / 4,
                "{wait:?} of {expected:?}"
            );
        }
        backoff.reset();
        assert!(backoff.wait() <= first * 5 / 4);
        let mut other = Backoff::new(first, most, 8);
        let waits = |backoff: &mut Backoff| (0..8).map(|_| backoff.wait()).collect::<Vec<_>>();
        backoff.reset();
        assert_ne!(waits(&mut backoff), waits(&mut other));
    }
}
