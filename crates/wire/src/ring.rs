//! A bounded queue between many readers of connections and the one thread that owns Raft.
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use crossbeam_queue::ArrayQueue;

/// A ring with room for so many things and so many bytes. Pushing and popping take no lock, and at worst spin for as long
/// as another takes to finish in the same place; what does not fit is given back to whoever pushes. Whoever pops and finds
/// nothing says so ([`Ring::may_sleep`]), and only then is woken, by the function that the ring was made with.
///
/// ```
/// use straightway_wire::Ring;
///
/// let ring = Ring::new(16, 1000, || {});
/// assert!(ring.try_push("message", 900).is_ok());
/// assert_eq!(ring.try_push("another", 101), Err("another"));
/// assert_eq!(ring.pop(), Some("message"));
/// ```
pub struct Ring<T> {
    queue: ArrayQueue<(T, usize)>,
    bytes: AtomicUsize,
    max_bytes: usize,
    refused: AtomicU64,
    sleeping: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("len", &self.queue.len())
            .field("capacity", &self.queue.capacity())
            .field("bytes", &self.bytes)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

impl<T> Ring<T> {
    /// A ring for `capacity` things (at least one) of `max_bytes` together; `wake` wakes whoever pops.
    pub fn new(capacity: usize, max_bytes: usize, wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            queue: ArrayQueue::new(capacity.max(1)),
            bytes: AtomicUsize::new(0),
            max_bytes,
            refused: AtomicU64::new(0),
            sleeping: AtomicBool::new(false),
            wake: Box::new(wake),
        }
    }

    /// Puts something in that holds `bytes`, or gives it back. A single thing may hold more than the ring's bytes, if it
    /// has them to itself: it could never pass otherwise.
    pub fn try_push(&self, item: T, bytes: usize) -> Result<(), T> {
        let room = |held: usize| {
            let sum = held.checked_add(bytes)?;
            (held == 0 || sum <= self.max_bytes).then_some(sum)
        };
        if self.bytes.fetch_update(Ordering::AcqRel, Ordering::Relaxed, room).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(item);
        }
        if let Err((item, _)) = self.queue.push((item, bytes)) {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(item);
        }
        // Either this sees the sleeper, or the sleeper sees what was pushed: see `may_sleep`.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            (self.wake)();
        }
        Ok(())
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<T> {
        let (item, bytes) = self.queue.pop()?;
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        Some(item)
    }

    /// Asked by the one who pops, after it found nothing: `true` promises that the next push will wake it.
    pub fn may_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            return true;
        }
        self.sleeping.store(false, Ordering::Relaxed);
        false
    }

    /// Things in it.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes that those hold.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How often something was given back.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_bounded_queue(
            steps in prop::collection::vec(prop::option::of(0..60_usize), 0..200),
            capacity in 1..6_usize,
        ) {
            let ring = Ring::new(capacity, 100, || {});
            let mut model = VecDeque::new();
            for (index, step) in steps.into_iter().enumerate() {
                let held: usize = model.iter().map(|(_, bytes)| *bytes).sum();
                if let Some(bytes) = step {
                    let fits = model.len() < capacity && (held == 0 || held + bytes <= 100);
                    prop_assert_eq!(ring.try_push(index, bytes).is_ok(), fits);
                    model.extend(fits.then_some((index, bytes)));
                } else {
                    prop_assert_eq!(ring.pop(), model.pop_front().map(|(index, _)| index));
                }
                prop_assert_eq!(ring.len(), model.len());
                prop_assert_eq!(ring.bytes(), model.iter().map(|(_, bytes)| *bytes).sum::<usize>());
            }
        }
    }

    #[test]
    fn what_is_larger_than_all_passes_alone() {
        let ring = Ring::new(4, 100, || {});
        assert_eq!(ring.try_push(1, 500), Ok(()));
        assert_eq!(ring.try_push(2, 1), Err(2));
        assert_eq!(ring.pop(), Some(1));
        assert_eq!(ring.try_push(2, 1), Ok(()));
        assert_eq!(ring.try_push(3, usize::MAX), Err(3));
        assert_eq!(ring.refused(), 2);
    }

    /// Were a wake-up lost, this would never end.
    #[test]
    fn many_push_one_pops_and_no_wake_up_is_lost() {
        const EACH: usize = 20_000;
        let popper = thread::current();
        let ring = Arc::new(Ring::new(64, 10_000, move || popper.unpark()));
        let pushers: Vec<_> = (0..3)
            .map(|pusher| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    for index in 0..EACH {
                        let mut item = (pusher, index);
                        while let Err(back) = ring.try_push(item, index % 300) {
                            item = back;
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 3];
        while next.iter().sum::<usize>() < 3 * EACH {
            match ring.pop() {
                Some((pusher, index)) => {
                    assert_eq!(index, next[pusher], "in order");
                    next[pusher] += 1;
                }
                None if ring.may_sleep() => thread::park(),
                None => {}
            }
            assert!(ring.bytes() <= 10_000);
        }
        for pusher in pushers {
            pusher.join().expect("done");
        }
        assert_eq!((ring.bytes(), ring.len()), (0, 0));
    }
}
