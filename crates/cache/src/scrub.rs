//! Verifies stored bytes in the background, at a bounded rate, so that damage is found before a reader meets it.
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::core::Core;
use crate::iter::ObjectIter;

/// How the scrubber's thread is told to stop.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// Pause between two walks over all objects.
const REST: Duration = Duration::from_mins(1);

impl Scrub {
    pub(crate) fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }

    /// Waits; `false` when it is time to stop.
    fn pause(&self, length: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped && !length.is_zero() {
            self.changed.wait_for(&mut stopped, length);
        }
        !*stopped
    }
}

/// The scrubber's thread: returns after [`Scrub::stop`], at once when the rate is zero.
pub(crate) fn run(core: &Arc<Core>) {
    if core.scrub_rate == 0 {
        return;
    }
    while core.scrub.pause(REST) {
        let mut walk = ObjectIter::new(core.clone(), 0);
        let (started, mut done) = (Instant::now(), 0u64);
        while let Some(object) = walk.next_pinned_blocking() {
            let Ok(object) = object else { continue };
            // By windows, so that neither the rate nor the end of the node waits for a large object. Damage is counted,
            // logged and dropped where it is found.
            let mut keep_on = true;
            let mut watched = |bytes: u64| {
                done += bytes;
                core.counters.scrubbed_bytes.add(bytes);
                let due = Duration::from_secs_f64(done as f64 / core.scrub_rate as f64);
                keep_on = core.scrub.pause(due.saturating_sub(started.elapsed()));
                // A writer that waits for the object's place comes first.
                keep_on && !object.is_revoked() && !core.reclaim.is_pressed()
            };
            drop(object.verify_blocking(&mut watched));
            if !keep_on {
                return;
            }
        }
    }
}
