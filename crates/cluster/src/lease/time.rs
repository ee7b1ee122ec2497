//! Time as the lease and the mesh count it.
use std::time::Duration;

/// Nanoseconds of a clock that never goes back and runs on while the machine sleeps; see [`boot_clock`](super::boot_clock).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// So much later; the end of time at most.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }

    /// How long it is since `earlier`; nothing if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
