//! What follows from the statistics.
use std::time::Duration;

use super::{OptimizationStrategy, TypeStats};

/// How a type is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Bytes to ask for at once; 0: the usual.
    pub reserve: u32,
    /// Whether buffers come from the pool that keeps them.
    pub pool: bool,
    /// Compress from this many bytes on; 0: never.
    pub compress_from: u16,
    /// How long encoded forms are kept, in milliseconds; 0: not at all.
    pub cache_ms: u16,
}

/// Messages after which a type counts as frequent.
const FREQUENT: u64 = 100;
/// Types whose messages are this large on average are compressed from there on ...
const COMPRESS_FROM: u16 = 1024;
/// ... and others from here: against a dictionary even short messages shrink.
const COMPRESS_SHORT_FROM: u16 = 64;
/// Compression is kept while it saves at least a fifth ...
const KEEPS_BELOW: f64 = 0.8;
/// ... and taken up again only if it saves a quarter.
const BEGINS_BELOW: f64 = 0.75;
/// Bytes after which the measured ratio is believed.
const BELIEVED_AFTER: u64 = 16 * 1024;
/// How long an encoded form is kept.
const CACHE_MS: u16 = 250;
/// Cheaper ones are not worth keeping.
const CACHE_ABOVE: Duration = Duration::from_millis(1);

/// The plan that the statistics ask for, given the one in force. Pure.
pub fn decide(stats: &TypeStats, now: Plan) -> Plan {
    if stats.measured == 0 {
        return now;
    }
    // The largest lately, not the mean: the mean is too small for half of the messages. Some way above what is needed
    // before it is lowered, so that it does not move with every message.
    let wanted = u32::try_from(stats.recent_max.next_multiple_of(64)).unwrap_or(u32::MAX);
    let settled = now.reserve >= wanted && now.reserve / 2 <= wanted;
    let reserve = if settled { now.reserve } else { wanted };
    let large = stats.average_size > f64::from(COMPRESS_FROM);
    let pays = if stats.compressed_from < BELIEVED_AFTER {
        true
    } else {
        let ratio = stats.compressed_to as f64 / stats.compressed_from as f64;
        ratio < if now.compress_from > 0 { KEEPS_BELOW } else { BEGINS_BELOW }
    };
    let dear = stats.average_time > CACHE_ABOVE;
    let reused = stats.reused * 2 > stats.serialization_count;
    Plan {
        reserve,
        pool: now.pool || stats.serialization_count > FREQUENT,
        compress_from: match (pays, large) {
            (false, _) => 0,
            (true, true) => COMPRESS_FROM,
            (true, false) => COMPRESS_SHORT_FROM,
        },
        cache_ms: if dear || reused { CACHE_MS } else { 0 },
    }
}

impl Plan {
    pub(super) fn of(name: &str, strategies: &[OptimizationStrategy]) -> Self {
        let mut plan = Self::default();
        for strategy in strategies {
            match strategy {
                OptimizationStrategy::PreAllocate { type_name, size } if type_name == name => {
                    plan.reserve = u32::try_from(*size).unwrap_or(u32::MAX);
                }
                OptimizationStrategy::UsePool { type_name } if type_name == name => {
                    plan.pool = true;
                }
                OptimizationStrategy::Compress { type_name, threshold } if type_name == name => {
                    plan.compress_from = u16::try_from((*threshold).max(1)).unwrap_or(u16::MAX);
                }
                OptimizationStrategy::Cache { type_name, ttl } if type_name == name => {
                    plan.cache_ms = u16::try_from(ttl.as_millis().max(1)).unwrap_or(u16::MAX);
                }
                _ => {}
            }
        }
        plan
    }

    pub(super) fn strategies(self, type_name: &str) -> Vec<OptimizationStrategy> {
        let type_name = || type_name.to_owned();
        let size = self.reserve as usize;
        let pre =
            (size > 0).then(|| OptimizationStrategy::PreAllocate { type_name: type_name(), size });
        let pool = self.pool.then(|| OptimizationStrategy::UsePool { type_name: type_name() });
        let threshold = usize::from(self.compress_from);
        let compress = (threshold > 0)
            .then(|| OptimizationStrategy::Compress { type_name: type_name(), threshold });
        let ttl = Duration::from_millis(u64::from(self.cache_ms));
        let cache =
            (!ttl.is_zero()).then(|| OptimizationStrategy::Cache { type_name: type_name(), ttl });
        [pre, pool, compress, cache].into_iter().flatten().collect()
    }

    /// In one word: reserve 31 bits, pool 1, compress 16, cache 16.
    pub(super) fn pack(self) -> u64 {
        u64::from(self.reserve.min(u32::MAX >> 1)) << 33
            | u64::from(self.pool) << 32
            | u64::from(self.compress_from) << 16
            | u64::from(self.cache_ms)
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self {
            reserve: u32::try_from(word >> 33).unwrap_or(u32::MAX),
            pool: word >> 32 & 1 == 1,
            compress_from: u16::try_from(word >> 16 & 0xffff).unwrap_or(u16::MAX),
            cache_ms: u16::try_from(word & 0xffff).unwrap_or(u16::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(count: u64, size: u64, micros: u64) -> TypeStats {
        TypeStats {
            serialization_count: count,
            measured: count,
            average_size: size as f64,
            average_time: Duration::from_micros(micros),
            recent_max: size,
            ..TypeStats::default()
        }
    }

    #[test]
    fn each_strategy_follows_from_what_was_measured() {
        let none = Plan::default();
        assert_eq!(decide(&TypeStats::default(), none), none, "nothing is known");
        let small = decide(&stats(10, 200, 1), none);
        assert_eq!(small, Plan { reserve: 256, pool: false, compress_from: 64, cache_ms: 0 });
        assert!(decide(&stats(101, 200, 1), none).pool);
        assert_eq!(decide(&stats(10, 5000, 1), none).compress_from, 1024);
        assert_eq!(decide(&stats(10, 200, 1500), none).cache_ms, 250);
        let reused = TypeStats { reused: 6, ..stats(10, 200, 1) };
        assert_eq!(decide(&reused, none).cache_ms, 250);
    }

    #[test]
    fn compression_that_does_not_pay_ends_and_does_not_flap() {
        let on = Plan { compress_from: 1024, ..Plan::default() };
        let with_ratio = |percent: u64| TypeStats {
            compressed_from: 100_000,
            compressed_to: percent * 1000,
            ..stats(10, 5000, 1)
        };
        assert_eq!(decide(&with_ratio(95), on).compress_from, 0);
        assert_eq!(decide(&with_ratio(78), on).compress_from, 1024, "kept");
        assert_eq!(decide(&with_ratio(78), Plan::default()).compress_from, 0, "not taken up");
        assert_eq!(decide(&with_ratio(50), Plan::default()).compress_from, 1024);
    }

    #[test]
    fn a_reserve_does_not_move_with_every_message() {
        let now = Plan { reserve: 1024, ..Plan::default() };
        assert_eq!(decide(&stats(10, 700, 1), now).reserve, 1024);
        assert_eq!(decide(&stats(10, 1100, 1), now).reserve, 1152);
        assert_eq!(decide(&stats(10, 100, 1), now).reserve, 128);
    }

    #[test]
    fn plans_and_strategies_say_the_same() {
        let plan = Plan { reserve: 960, pool: true, compress_from: 1024, cache_ms: 250 };
        assert_eq!(Plan::unpack(plan.pack()), plan);
        assert_eq!(Plan::of("t", &plan.strategies("t")), plan);
        assert_eq!(Plan::of("other", &plan.strategies("t")), Plan::default());
    }
}
