//! Latencies in a fixed number of counters: sixteen from each power of two to the next, so that no figure is off by more
//! than a sixteenth, however many are counted.

/// Ranges between two powers of two.
const PARTS: u64 = 1 << PART_BITS;
const PART_BITS: u32 = 4;
const BUCKETS: usize = (64 - PART_BITS as usize + 1) << PART_BITS;

/// Counted latencies.
///
/// ```
/// use straightway::bench::Latencies;
///
/// let mut latencies = Latencies::default();
/// for ns in 1..=10_000 {
///     latencies.note(ns);
/// }
/// assert_eq!((latencies.count(), latencies.max_ns()), (10_000, 10_000));
/// let median = latencies.percentile_ns(50.0);
/// assert!((5_000..=5_000 + 5_000 / 16).contains(&median));
/// ```
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: Box<[u64]>,
    count: u64,
    max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0, max_ns: 0 }
    }
}

/// Which counter takes this latency.
fn bucket(ns: u64) -> usize {
    if ns < PARTS {
        return usize::try_from(ns).unwrap_or(0);
    }
    let power = ns.ilog2();
    let part = (ns >> (power - PART_BITS)) & (PARTS - 1);
    let index = u64::from(power - PART_BITS + 1) * PARTS + part;
    usize::try_from(index).unwrap_or(BUCKETS - 1).min(BUCKETS - 1)
}

/// The longest latency that a counter takes.
fn longest(bucket: usize) -> u64 {
    let (row, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    if row == 0 {
        return part;
    }
    let shift = row - 1;
    let first = (PARTS + part) << shift;
    first + ((1 << shift) - 1)
}

impl Latencies {
    /// Counts one.
    pub fn note(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds what others counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// A latency within which that share of them lies (nearest rank), at most a sixteenth too long; 0 when there are none.
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within the count"
        )]
        let rank =
            ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut before = 0;
        for (at, count) in self.counts.iter().enumerate() {
            before += count;
            if before >= rank {
                return longest(at).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// How many lie in each of the ranges from one power of two to the next, with the lower bound of each in
    /// nanoseconds; empty ranges at the ends are left out.
    pub fn histogram(&self) -> Vec<(u64, u64)> {
        let mut powers = [0u64; 64];
        for (at, count) in self.counts.iter().enumerate() {
            powers[longest(at).max(1).ilog2() as usize] += count;
        }
        let used = |count: &u64| *count > 0;
        let (Some(first), Some(last)) =
            (powers.iter().position(used), powers.iter().rposition(used))
        else {
            return Vec::new();
        };
        (first..=last).map(|power| (1 << power, powers[power])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_counter_ends_where_the_next_one_begins() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(longest(BUCKETS - 1), u64::MAX);
        for at in 0..BUCKETS - 1 {
            assert_eq!(bucket(longest(at)), at);
            assert_eq!(bucket(longest(at) + 1), at + 1);
        }
    }

    #[test]
    fn nothing_counted_is_nothing() {
        let none = Latencies::default();
        assert_eq!((none.count(), none.max_ns(), none.percentile_ns(99.0)), (0, 0, 0));
        assert!(none.histogram().is_empty());
    }

    #[test]
    fn ranges_go_from_one_power_of_two_to_the_next() {
        let mut latencies = Latencies::default();
        for ns in [0, 1, 5, 7, 20] {
            latencies.note(ns);
        }
        assert_eq!(latencies.histogram(), [(1, 2), (2, 0), (4, 2), (8, 0), (16, 1)]);
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_list_and_a_sixteenth(
            times in proptest::collection::vec(any::<u64>().prop_map(|ns| ns >> (ns % 64)), 1..200),
            percent in 0.0..=100.0f64,
            split: prop::sample::Index,
        ) {
            let (left, right) = times.split_at(split.index(times.len()));
            let count = |times: &[u64]| {
                let mut latencies = Latencies::default();
                for ns in times {
                    latencies.note(*ns);
                }
                latencies
            };
            let mut latencies = count(left);
            latencies.merge(&count(right));
            let mut sorted = times.clone();
            sorted.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
            let rank = ((percent / 100.0 * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let (exact, got) = (sorted[rank - 1], latencies.percentile_ns(percent));
            prop_assert!(got >= exact && got - exact <= exact / 16, "{got} for {exact}");
            prop_assert_eq!(latencies.count(), times.len() as u64);
            prop_assert_eq!(Some(&latencies.max_ns()), sorted.last());
            prop_assert_eq!(latencies.histogram().iter().map(|(_, count)| count).sum::<u64>(), times.len() as u64);
        }
    }
}
