//! Threads that wait for a buffer to come back.
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sync::{AtomicUsize, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    threads: AtomicUsize,
    lock: Mutex<()>,
    came_back: Condvar,
}

impl Waiting {
    /// Tries until it succeeds or the time is over. A buffer that comes back wakes all: one that is large is room for
    /// several, and one that is too small for the first may do for the second.
    pub(crate) fn until<T>(
        &self,
        at_most: Duration,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now().checked_add(at_most);
        // Announced before the first attempt, and the lock held from there to the wait: whoever gives a buffer back
        // after that attempt sees the announcement, and can only notify once this thread waits.
        self.threads.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock();
        let result = loop {
            if let Some(result) = attempt() {
                break Some(result);
            }
            match deadline {
                Some(deadline) => {
                    if self.came_back.wait_until(&mut guard, deadline).timed_out() {
                        break attempt();
                    }
                }
                None => self.came_back.wait(&mut guard),
            }
        };
        drop(guard);
        self.threads.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// A buffer came back.
    pub(crate) fn wake(&self) {
        if self.threads.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock());
            self.came_back.notify_all();
        }
    }
}
