//! The serve lease: until when a member may serve what it has without asking anybody.
//!
//! ```text
//! member                                leader
//! ask {seq, applied} at t  ──────────>  a majority confirms that it still leads, since the ask came
//!                          <──────────  grant {seq, length, min_applied = what is committed now}; records now + 1.1 length
//! serves until t + length, once min_applied is applied
//!
//! purge at p: committed ──> acknowledged when each member has reported p as applied, or its recorded lease is over
//! ```
//! Why an acknowledged purge is served by nobody:
//! - A grant *sent after* the purge was committed wants it applied. So one matters only if it was sent before, and then the
//!   leader has recorded it, for longer than the member counts it: the member began to count earlier, when it asked, and the
//!   margin is more than clocks differ. It holds as long as no leader's clock runs 1.1 times as fast as a member's.
//! - *Another leader* may have sent it. It was still confirmed after the ask had come, so the ask is older than the new
//!   leader's election, and the grant is over when the new leader has waited for 1.1 lengths. It need not wait if all members
//!   have reported the purge as applied, and none was removed so recently that it may still hold a grant: whoever processes
//!   a removal notes when, and a leader grants only when it has processed all removals up to the confirmed index.
//! - *A new leader* grants nothing before an entry of its own term is committed: before, it may not know of all that its
//!   predecessors committed. Raft answers no read before that either.
//! - *A restarted member* has no lease, and asks under numbers that it never used, so that nothing granted to its last life
//!   counts. It may have applied less than it once reported; it gets no lease before it has caught up.
//!
//! The package `models` explores the protocol in every order of events, and shows for each of these rules what happens
//! without it.
mod clock;
mod gate;
mod holder;
mod message;
pub(crate) mod sync;
mod table;
#[cfg(test)]
mod tests;
mod time;

use std::time::Duration;

pub use clock::boot_clock;
pub use gate::{LeaseGate, LeaseHeld, NoLease};
pub use holder::LeaseHolder;
pub use message::{Ask, Grant};
pub use table::{LeaseTable, Wait};
pub use time::BootTime;

/// How long a lease lasts, counted from the ask.
pub const LENGTH: Duration = Duration::from_secs(2);
/// How often a member asks, whether or not it was answered: a lost ask or answer, or two in a row, cost it nothing.
pub const ASK_EVERY: Duration = Duration::from_millis(500);

/// How long a leader takes a lease to last: a tenth longer, more than clocks differ by.
pub const fn recorded(length: Duration) -> Duration {
    let Some(eleven) = length.checked_mul(11) else { return Duration::MAX };
    match eleven.checked_div(10) {
        Some(recorded) => recorded,
        None => Duration::MAX,
    }
}
