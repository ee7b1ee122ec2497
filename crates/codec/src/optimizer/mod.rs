//! Watches how types are written and says how to write the next one: what is decided here is done by the
//! [`Encoder`](crate::Encoder) with the next message of the type.
//!
//! After the first few only one message in 64 is measured, so that watching costs nothing that could be measured; decisions are a pure
//! function of the statistics ([`decide()`]), with hysteresis, and are published in one atomic word.
mod decide;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

pub use decide::{Plan, decide};

/// What the optimizer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OptimizerMode {
    /// Nothing: every type is written in the same way.
    Off,
    /// It measures, and shows what it would do.
    Observe,
    /// It does it.
    #[default]
    On,
}

/// What is known about a type. Times and sizes are of the measured messages.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TypeStats {
    /// Messages written.
    pub serialization_count: u64,
    /// Of those, measured.
    pub measured: u64,
    /// Time that the measured ones took.
    pub total_serialization_time: Duration,
    /// Bytes that they took.
    pub total_size: u64,
    /// Mean size in bytes.
    pub average_size: f64,
    /// Mean time.
    pub average_time: Duration,
    /// Largest size lately: falls by a sixteenth with each smaller one.
    pub recent_max: u64,
    /// Bytes before compression, of those that were compressed.
    pub compressed_from: u64,
    /// Bytes after compression.
    pub compressed_to: u64,
    /// Messages that were asked for again while an encoded form was still fresh.
    pub reused: u64,
}

/// A way to write a type that pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptimizationStrategy {
    /// Ask for a buffer of this size at once.
    PreAllocate {
        /// Which type.
        type_name: String,
        /// Bytes.
        size: usize,
    },
    /// Take buffers from the pool that keeps them.
    UsePool {
        /// Which type.
        type_name: String,
    },
    /// Compress from this size on.
    Compress {
        /// Which type.
        type_name: String,
        /// Bytes.
        threshold: usize,
    },
    /// Keep encoded forms.
    Cache {
        /// Which type.
        type_name: String,
        /// For how long.
        ttl: Duration,
    },
}

/// Statistics and plans by type. Shared by all threads that write.
#[derive(Debug)]
pub struct SerializationOptimizer {
    mode: OptimizerMode,
    /// A handful: looking through them is faster than hashing a name.
    slots: RwLock<Vec<Arc<Slot>>>,
}

/// One type's place.
#[derive(Debug)]
pub(crate) struct Slot {
    name: &'static str,
    mode: OptimizerMode,
    count: AtomicU64,
    plan: AtomicU64,
    stats: Mutex<TypeStats>,
}

/// One message in this many is measured.
const SAMPLE_EVERY: u64 = 64;
/// The first ones are all measured, to learn quickly.
const LEARN_FROM: u64 = 128;

impl SerializationOptimizer {
    /// An optimizer without experience.
    pub fn new(mode: OptimizerMode) -> Self {
        Self { mode, slots: RwLock::default() }
    }

    /// Whether it acts.
    pub fn mode(&self) -> OptimizerMode {
        self.mode
    }

    pub(crate) fn slot(&self, name: &'static str) -> Arc<Slot> {
        if let Some(slot) = self.find(name) {
            return slot;
        }
        let mut slots = self.slots.write();
        // Another thread may have been faster.
        if let Some(slot) = slots.iter().find(|slot| slot.name == name) {
            return slot.clone();
        }
        let slot = Arc::new(Slot {
            name,
            mode: self.mode,
            count: AtomicU64::new(0),
            plan: AtomicU64::new(0),
            stats: Mutex::default(),
        });
        slots.push(slot.clone());
        slot
    }

    fn find(&self, name: &str) -> Option<Arc<Slot>> {
        // The same name is the same piece of memory, nearly always.
        let same = |slot: &&Arc<Slot>| std::ptr::eq(slot.name, name) || slot.name == name;
        self.slots.read().iter().find(same).cloned()
    }

    /// Tells of a message that was written elsewhere.
    pub fn record_serialization(&self, type_name: &'static str, size: usize, took: Duration) {
        let slot = self.slot(type_name);
        slot.count.fetch_add(1, Ordering::Relaxed);
        slot.record(size, took);
    }

    /// What is known about a type.
    pub fn stats(&self, type_name: &str) -> Option<TypeStats> {
        self.find(type_name).map(|slot| slot.stats())
    }

    /// What would pay for a type, from what is known now.
    pub fn optimize_type(&self, type_name: &str) -> Vec<OptimizationStrategy> {
        let Some(slot) = self.find(type_name) else { return Vec::new() };
        decide(&slot.stats(), slot.plan()).strategies(type_name)
    }

    /// Puts strategies in force for a type, in place of those in force; the optimizer goes on from there. Does nothing
    /// unless the mode is [`OptimizerMode::On`].
    pub fn apply_optimizations(
        &self,
        type_name: &'static str,
        strategies: &[OptimizationStrategy],
    ) {
        if self.mode == OptimizerMode::On {
            let plan = Plan::of(type_name, strategies);
            self.slot(type_name).plan.store(plan.pack(), Ordering::Relaxed);
        }
    }

    /// What is in force for each type (or would be, were the mode [`OptimizerMode::On`]), with what is known about it.
    pub fn report(&self) -> Vec<(&'static str, TypeStats, Plan)> {
        let mut report: Vec<_> =
            self.slots.read().iter().map(|slot| (slot.name, slot.stats(), slot.plan())).collect();
        report.sort_by_key(|(name, ..)| *name);
        report
    }
}

impl Slot {
    /// What is to be done with the next message, and whether it is to be measured.
    pub(crate) fn next(&self) -> (Plan, bool) {
        if self.mode == OptimizerMode::Off {
            return (Plan::default(), false);
        }
        // Not one locked step: under a race a message more or less is counted, and none is held up.
        let turn = self.count.load(Ordering::Relaxed);
        self.count.store(turn + 1, Ordering::Relaxed);
        (self.in_force(), turn < LEARN_FROM || turn.is_multiple_of(SAMPLE_EVERY))
    }

    /// What is to be done with a message: nothing in particular unless the optimizer acts.
    pub(crate) fn in_force(&self) -> Plan {
        if self.mode == OptimizerMode::On { self.plan() } else { Plan::default() }
    }

    /// What the statistics ask for.
    fn plan(&self) -> Plan {
        Plan::unpack(self.plan.load(Ordering::Relaxed))
    }

    /// Whether a payload of this length is worth compressing. What did not pay is tried again now and then.
    pub(crate) fn compresses(&self, len: usize) -> bool {
        if self.mode != OptimizerMode::On {
            return true;
        }
        let from = usize::from(self.plan().compress_from);
        let again = self.count.load(Ordering::Relaxed).is_multiple_of(SAMPLE_EVERY);
        if from == 0 { again } else { len >= from }
    }

    pub(crate) fn record(&self, size: usize, took: Duration) {
        let mut stats = self.stats.lock();
        stats.measured += 1;
        stats.total_serialization_time += took;
        stats.total_size += size as u64;
        let falling = stats.recent_max - stats.recent_max / 16;
        stats.recent_max = falling.max(size as u64);
        let known = self.with_means(*stats);
        self.plan.store(decide(&known, self.plan()).pack(), Ordering::Relaxed);
    }

    pub(crate) fn record_compression(&self, from: usize, to: usize) {
        let mut stats = self.stats.lock();
        stats.compressed_from += from as u64;
        stats.compressed_to += to as u64;
    }

    pub(crate) fn record_reuse(&self) {
        self.stats.lock().reused += 1;
    }

    fn stats(&self) -> TypeStats {
        self.with_means(*self.stats.lock())
    }

    fn with_means(&self, stats: TypeStats) -> TypeStats {
        let measured = stats.measured.max(1);
        TypeStats {
            serialization_count: self.count.load(Ordering::Relaxed),
            average_size: stats.total_size as f64 / measured as f64,
            average_time: stats.total_serialization_time
                / u32::try_from(measured).unwrap_or(u32::MAX),
            ..stats
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_observes_does_nothing() {
        for (mode, acts) in [
            (OptimizerMode::Off, false),
            (OptimizerMode::Observe, false),
            (OptimizerMode::On, true),
        ] {
            let optimizer = SerializationOptimizer::new(mode);
            let wanted = [OptimizationStrategy::UsePool { type_name: "t".to_owned() }];
            optimizer.apply_optimizations("t", &wanted);
            assert_eq!(optimizer.slot("t").in_force().pool, acts, "{mode:?}");
            // Slow to write: kept for a while, by who acts.
            optimizer.record_serialization("t", 100, Duration::from_millis(5));
            assert_eq!(optimizer.slot("t").in_force().cache_ms > 0, acts, "{mode:?}");
            let shown = optimizer.optimize_type("t");
            assert!(shown.iter().any(|it| matches!(it, OptimizationStrategy::Cache { .. })));
        }
    }
}
