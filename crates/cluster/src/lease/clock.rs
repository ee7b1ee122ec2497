//! The clock of the lease.
use rustix::time::{ClockId, clock_gettime};

use super::BootTime;

/// A lease must run out while the machine sleeps: this clock counts sleep.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
/// Elsewhere the monotonic clock counts sleep (macOS), or a machine that sleeps is no server.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The time since the machine was started, its sleep included. Reads a page that the kernel shares, no system call.
///
/// A virtual machine that is stopped from outside and continued does not see the time between, unless its host tells it:
/// of all pauses this is the one that a lease does not survive safely.
pub fn boot_clock() -> BootTime {
    let now = clock_gettime(CLOCK);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}
