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
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;

use crate::stats::PoolStats;

/// The classes.
pub const SIZES: [usize; 3] = [256, 512, 1500];
/// Buffers of each class that a thread keeps.
pub const PER_CLASS: usize = 32;
/// A buffer that has grown beyond this is not kept: it would hold on to memory that its class does not need.
const LARGEST_KEPT: usize = 2 * SIZES[2];

#[derive(Default)]
struct Local {
    idle: [Vec<BytesMut>; 3],
    stats: PoolStats,
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local::default());
}

/// An empty buffer with room for at least `size` bytes: of the smallest class that has it (a size equal to a class's
/// fits it), above 1500 one of its own.
///
/// # Panics
/// For sizes that there is no memory for, as [`BytesMut`] does.
pub fn get_buffer(size: usize) -> BytesMut {
    let taken = LOCAL.try_with(|local| {
        let mut local = local.try_borrow_mut().ok()?;
        let Local { idle, stats } = &mut *local;
        let Some(class) = SIZES.iter().position(|class| size <= *class) else {
            stats.oversize += 1;
            return None;
        };
        if let Some(buffer) = idle[class].pop() {
            stats.hits += 1;
            return Some(buffer);
        }
        stats.misses += 1;
        Some(BytesMut::with_capacity(SIZES[class]))
    });
    // Without the thread's pool, which is gone when the thread is ending, a buffer is a buffer all the same.
    taken.ok().flatten().unwrap_or_else(|| BytesMut::with_capacity(size))
}

/// Gives a buffer back to this thread's pool. Any will do: it is kept in the largest class that it still has the room
/// for, after what was split off or advanced over is reclaimed if nobody else holds it; what is too small, too large
/// or too many is freed.
pub fn return_buffer(mut buffer: BytesMut) {
    buffer.clear();
    // The memory behind it may be larger than it shows: split off, advanced over, or grown.
    if buffer.try_reclaim(LARGEST_KEPT + 1) {
        let counted = LOCAL.try_with(|local| {
            if let Ok(mut local) = local.try_borrow_mut() {
                local.stats.drops += 1;
            }
        });
        counted.unwrap_or_default();
        return;
    }
    let capacity = buffer.capacity();
    // As it was taken, or else what can be reclaimed of it: nothing is allocated for that, and it fails if the memory is
    // shared or too small.
    let class = SIZES.iter().position(|size| *size == capacity);
    let class =
        class.or_else(|| (0..SIZES.len()).rev().find(|class| buffer.try_reclaim(SIZES[*class])));
    let kept = LOCAL.try_with(|local| {
        let Ok(mut local) = local.try_borrow_mut() else { return };
        let Local { idle, stats } = &mut *local;
        match class.filter(|_| buffer.capacity() <= LARGEST_KEPT).map(|class| &mut idle[class]) {
            Some(idle) if idle.len() < PER_CLASS => {
                stats.returns += 1;
                idle.push(buffer);
            }
            _ => stats.drops += 1,
        }
    });
    // A thread that is ending keeps nothing.
    kept.unwrap_or_default();
}

/// As [`get_buffer`], in a wrapper that gives the buffer back by itself.
pub fn take_buffer(size: usize) -> PacketBuffer {
    PacketBuffer { buffer: get_buffer(size), kept_out: false }
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
pub struct PacketBuffer {
    buffer: BytesMut,
    kept_out: bool,
}

impl PacketBuffer {
    /// Keeps the buffer out of the pool.
    pub fn into_inner(mut self) -> BytesMut {
        self.kept_out = true;
        std::mem::take(&mut self.buffer)
    }
}

impl Deref for PacketBuffer {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.buffer
    }
}

impl DerefMut for PacketBuffer {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }
}

impl Drop for PacketBuffer {
    fn drop(&mut self) {
        if !self.kept_out {
            return_buffer(std::mem::take(&mut self.buffer));
        }
    }
}
