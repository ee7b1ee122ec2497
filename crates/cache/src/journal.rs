//! Where the journal's ring stands, and how the committer and the checkpoints wait for each other.
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::recover::Resume;

/// Blocks kept free between the head and the oldest needed block.
const MARGIN_BLOCKS: u64 = 16;
/// How long the journal may wait for checkpoints to make room.
const ROOM_WAIT: Duration = Duration::from_secs(30);

/// Where the journal's ring stands.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) epoch: u64,
    /// The next block to write; every block below it is applied to the index.
    head: AtomicU64,
    retention: Mutex<Retention>,
    moved: Condvar,
}

#[derive(Debug, Clone, Copy)]
struct Retention {
    /// The oldest block that a checkpoint still needs.
    from: u64,
    /// Where the newest checkpoint starts.
    newest: u64,
    /// The number of the newest checkpoint.
    number: u64,
    /// Somebody asked for a checkpoint.
    wanted: bool,
    /// The committer waits for room.
    full: bool,
    stop: bool,
}

impl Journal {
    pub(crate) fn new(epoch: u64, resume: &Resume) -> Self {
        let retention = Retention {
            from: resume.from,
            newest: resume.newest,
            number: resume.number,
            wanted: false,
            full: false,
            stop: false,
        };
        Self {
            epoch,
            head: AtomicU64::new(resume.head),
            retention: Mutex::new(retention),
            moved: Condvar::new(),
        }
    }

    /// The block that the next change will be in: what is below is applied.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Every block below `head` is applied to the index.
    pub(crate) fn applied_below(&self, head: u64) {
        self.head.store(head, Ordering::Release);
    }

    /// A checkpoint that starts at `start` is on the medium: the one before it is now the oldest.
    pub(crate) fn checkpointed(&self, number: u64, start: u64) {
        let mut retention = self.retention.lock();
        retention.number = number;
        retention.from = retention.newest;
        retention.newest = start;
        self.moved.notify_all();
    }

    /// The number that the next checkpoint gets; its parity picks the slot.
    pub(crate) fn next_checkpoint(&self) -> u64 {
        self.retention.lock().number + 1
    }

    /// Waits until a checkpoint is wanted; `false` when it is time to stop.
    pub(crate) fn wait_until_wanted(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut retention = self.retention.lock();
        while !retention.wanted && !retention.stop {
            if self.moved.wait_until(&mut retention, deadline).timed_out() {
                break;
            }
        }
        retention.wanted = false;
        !retention.stop
    }

    /// Asks for a checkpoint soon.
    pub(crate) fn want_checkpoint(&self) {
        self.retention.lock().wanted = true;
        self.moved.notify_all();
    }

    /// Whether a checkpoint would be of use: something was journaled since the newest one, or there is no room until the one
    /// before that is not needed any more.
    pub(crate) fn is_behind(&self) -> bool {
        let retention = self.retention.lock();
        self.head() > retention.newest || retention.full
    }

    /// Ends the checkpoint thread's waiting.
    pub(crate) fn stop(&self) {
        self.retention.lock().stop = true;
        self.moved.notify_all();
    }

    /// Waits for room for `blocks` more in a ring of so many; asks for checkpoints in good time.
    pub(crate) fn make_room(&self, blocks: u64, ring: u64) -> io::Result<()> {
        let deadline = Instant::now() + ROOM_WAIT;
        let mut retention = self.retention.lock();
        let head = self.head() + blocks;
        if head - retention.newest > ring / 3 && !retention.wanted {
            retention.wanted = true;
            self.moved.notify_all();
        }
        let mut late = false;
        while head + MARGIN_BLOCKS.min(ring / 8) - retention.from > ring {
            if late || retention.stop {
                retention.full = false;
                let what = "no checkpoint made room in the journal";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            // Each time: a checkpoint lets go of what is before the last one, which may have been nothing.
            (retention.wanted, retention.full) = (true, true);
            self.moved.notify_all();
            late = self.moved.wait_until(&mut retention, deadline).timed_out();
        }
        retention.full = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: u64 = 64;

    fn journal(from: u64, head: u64) -> Journal {
        let resume = Resume { head, from, newest: head, number: 2, gap: false, lost: false };
        Journal::new(1, &resume)
    }

    /// As the thread of the checkpoints does.
    fn checkpoints(journal: &Journal) {
        while journal.wait_until_wanted(Duration::from_hours(1)) {
            if journal.is_behind() {
                journal.checkpointed(journal.next_checkpoint(), journal.head());
            }
        }
    }

    #[test]
    fn a_full_ring_asks_for_a_checkpoint_however_new_the_last_one_is() {
        // The newest starts at the head, and the one before it, which took long, almost a ring behind.
        let journal = journal(10, 50);
        std::thread::scope(|scope| {
            scope.spawn(|| checkpoints(&journal));
            let room = journal.make_room(17, RING);
            journal.stop();
            room.expect("a checkpoint at the same place lets go of what the last but one needs");
        });
        assert!(!journal.is_behind(), "it is full no longer");
    }

    #[test]
    fn who_waits_for_room_is_told_when_no_more_checkpoints_come() {
        let journal = journal(10, 50);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| journal.make_room(17, RING));
            while !journal.is_behind() {
                std::thread::yield_now();
            }
            journal.stop();
            assert!(waiting.join().expect("no panic").is_err());
        });
    }
}
