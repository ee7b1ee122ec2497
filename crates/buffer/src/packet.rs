//! Packet buffers of 256, 512 and 1500 bytes as `BytesMut`, 32 of each for every thread.
//!
//! For code that builds into [`BytesMut`]. Nothing here is shared between threads, so nothing is locked: a buffer that
//! comes back on another thread stays there.
//!
//! ```
//! use straightway_buffer::packet::{get_buffer, return_buffer, take_buffer};
//!
//! let mut buffer = get_buffer(300);
//! buffer.extend_from_slice(b"straight");
//! return_buffer(buffer);
//! let mut cannot_be_forgotten = take_buffer(300);
//! cannot_be_forgotten.extend_from_slice(b"way");
//! ```
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;

use crate::stats::PoolStats;

/// The classes.
pub const SIZES: [usize; 3] = [256, 512, 1500];
/// Buffers of each class that a thread keeps.
pub const PER_CLASS: usize = 32;
/// A buffer that has grown beyond this is not kept: it would hold on to memory that its class does not need.
const LARGEST_KEPT: usize = 2 * SIZES[2];

struct Local {
    idle: [Vec<BytesMut>; 3],
    stats: PoolStats,
}

thread_local! {
    static LOCAL: RefCell<Local> =
        const { RefCell::new(Local { idle: [const { Vec::new() }; 3], stats: PoolStats::ZERO }) };
}

/// An empty buffer with room for at least `size` bytes: of the smallest class that has it (a size equal to a class's
/// fits it), above 1500 one of its own.
///
/// # Panics
/// For sizes that there is no memory for, as [`BytesMut`] does.
#[inline]
pub fn get_buffer(size: usize) -> BytesMut {
    let taken = LOCAL.try_with(|local| {
        let Local { idle, stats } = &mut *local.try_borrow_mut().ok()?;
        let class = SIZES.iter().position(|class| size <= *class)?;
        let idle = &mut idle[class];
        let last = idle.len().checked_sub(1)?;
        stats.hits += 1;
        // Not `pop`, which takes the buffer apart to see whether there is one: it would be moved field by field.
        Some(idle.swap_remove(last))
    });
    taken.ok().flatten().unwrap_or_else(|| allocate(size))
}

#[cold]
fn allocate(size: usize) -> BytesMut {
    let class = SIZES.into_iter().find(|class| size <= *class);
    let counted = LOCAL.try_with(|local| {
        if let Ok(mut local) = local.try_borrow_mut() {
            let Local { stats, .. } = &mut *local;
            *(if class.is_some() { &mut stats.misses } else { &mut stats.oversize }) += 1;
        }
    });
    // Without the thread's pool, which is gone when the thread is ending, a buffer is a buffer all the same.
    counted.unwrap_or_default();
    BytesMut::with_capacity(class.unwrap_or(size))
}

/// Gives a buffer back to this thread's pool. Any will do: it is kept in the largest class that it still has the room
/// for, after what was split off or advanced over is reclaimed if nobody else holds it; what is too small, too large
/// or too many is freed.
pub fn return_buffer(mut buffer: BytesMut) {
    give_back(&mut buffer);
}

/// Moves a buffer into this thread's pool, or leaves it to be freed. By reference, so that it is moved once: a buffer
/// that was just written to is read in larger pieces when it is moved, for which the processor has to wait.
fn give_back(buffer: &mut BytesMut) {
    if !buffer.is_empty() {
        buffer.clear();
    }
    let class = class_of(buffer);
    let kept = LOCAL.try_with(|local| {
        let Ok(mut local) = local.try_borrow_mut() else { return };
        let Local { idle, stats } = &mut *local;
        match class.map(|class| &mut idle[class]) {
            Some(idle) if idle.len() < PER_CLASS => {
                stats.returns += 1;
                idle.push(std::mem::take(buffer));
            }
            _ => stats.drops += 1,
        }
    });
    // A thread that is ending keeps nothing.
    kept.unwrap_or_default();
}

/// The largest class that an empty buffer has the room for; `None`: it has too little memory, or too much.
#[inline]
fn class_of(buffer: &mut BytesMut) -> Option<usize> {
    // The memory behind it may be larger than it shows: split off, advanced over, or grown.
    if buffer.try_reclaim(LARGEST_KEPT + 1) {
        return None;
    }
    // As it was taken, or else what can be reclaimed of it: nothing is allocated for that, and it fails if the memory is
    // shared or too small.
    let capacity = buffer.capacity();
    SIZES
        .iter()
        .position(|size| *size == capacity)
        .or_else(|| (0..SIZES.len()).rev().find(|class| buffer.try_reclaim(SIZES[*class])))
        .filter(|_| buffer.capacity() <= LARGEST_KEPT)
}

/// As [`get_buffer`], in a wrapper that gives the buffer back by itself.
#[inline]
pub fn take_buffer(size: usize) -> PacketBuffer {
    PacketBuffer(get_buffer(size))
}

/// What this thread's pool has done. `high_water_bytes` stays 0: nobody counts what other threads hold.
pub fn stats() -> PoolStats {
    let counted = LOCAL.try_with(|local| {
        let local = local.borrow();
        let held = local.idle.iter().flatten().map(|buffer| buffer.capacity() as u64).sum();
        PoolStats { bytes_held: held, ..local.stats }
    });
    let mut stats = counted.unwrap_or_default();
    stats.allocations = stats.misses + stats.oversize;
    stats.outstanding =
        (stats.hits + stats.allocations).saturating_sub(stats.returns + stats.drops);
    stats
}

/// A [`BytesMut`] that goes back to the pool of the thread that drops it.
#[derive(Debug)]
pub struct PacketBuffer(BytesMut);

impl PacketBuffer {
    /// Keeps the buffer out of the pool.
    pub fn into_inner(self) -> BytesMut {
        // What stays behind has no memory: nothing is lost when it is not dropped.
        std::mem::take(&mut ManuallyDrop::new(self).0)
    }
}

impl Deref for PacketBuffer {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.0
    }
}

impl DerefMut for PacketBuffer {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.0
    }
}

impl Drop for PacketBuffer {
    fn drop(&mut self) {
        give_back(&mut self.0);
    }
}
