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

/// In boxes, so that a pointer is moved and not what it points to: a [`BytesMut`] is written one word at a time and moved two
/// at a time, and a processor that is to read a pair of which one word was just written waits for the write.
type Stack = Vec<Box<BytesMut>>;

struct Local {
    /// Without room until [`END`] is there to free what they hold.
    idle: [Stack; 3],
    /// Boxes whose buffer was handed out by value.
    empty: Stack,
    stats: PoolStats,
}

impl Local {
    const NEW: Self =
        Self { idle: [const { Vec::new() }; 3], empty: Vec::new(), stats: PoolStats::ZERO };
}

thread_local! {
    /// Never dropped, so that taking and giving back need not ask whether it still lives: `END` empties it.
    static LOCAL: RefCell<ManuallyDrop<Local>> =
        const { RefCell::new(ManuallyDrop::new(Local::NEW)) };
    static END: End = const { End };
}

/// Frees what a thread keeps when the thread ends.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let emptied = with_local(|local| {
            let stats = local.stats;
            std::mem::replace(local, Local { stats, ..Local::NEW })
        });
        drop(emptied);
    }
}

/// `None`: it is in use further up the stack.
#[inline]
fn with_local<R>(act: impl FnOnce(&mut Local) -> R) -> Option<R> {
    let done = LOCAL.try_with(|local| Some(act(&mut **local.try_borrow_mut().ok()?)));
    done.ok().flatten()
}

/// An empty buffer with room for at least `size` bytes: of the smallest class that has it (a size equal to a class's
/// fits it), above 1500 one of its own.
///
/// # Panics
/// For sizes that there is no memory for, as [`BytesMut`] does.
#[inline]
pub fn get_buffer(size: usize) -> BytesMut {
    let Some(mut boxed) = take(size) else { return allocate(size) };
    let buffer = std::mem::take(&mut *boxed);
    with_local(|Local { empty, .. }| {
        if has_room(empty) {
            empty.push(boxed);
        }
    });
    buffer
}

#[inline]
fn take(size: usize) -> Option<Box<BytesMut>> {
    with_local(|local| {
        let class = SIZES.iter().position(|class| size <= *class)?;
        let boxed = local.idle[class].pop()?;
        local.stats.hits += 1;
        Some(boxed)
    })
    .flatten()
}

#[cold]
fn allocate(size: usize) -> BytesMut {
    let class = SIZES.into_iter().find(|class| size <= *class);
    with_local(|Local { stats, .. }| {
        *(if class.is_some() { &mut stats.misses } else { &mut stats.oversize }) += 1;
    });
    BytesMut::with_capacity(class.unwrap_or(size))
}

/// Gives a buffer back to this thread's pool. Any will do: it is kept in the largest class that it still has the room
/// for, after what was split off or advanced over is reclaimed if nobody else holds it; what is too small, too large
/// or too many is freed.
#[inline]
pub fn return_buffer(mut buffer: BytesMut) {
    let mut boxed = with_local(|local| local.empty.pop()).flatten().unwrap_or_default();
    std::mem::swap(&mut *boxed, &mut buffer);
    give_back(boxed);
}

fn give_back(mut boxed: Box<BytesMut>) {
    boxed.clear();
    let class = class_of(&mut boxed);
    let mut boxed = Some(boxed);
    with_local(|Local { idle, stats, .. }| {
        let stack = idle.get_mut(class?).filter(|stack| has_room(stack))?;
        stack.push(boxed.take()?);
        stats.returns += 1;
        Some(())
    });
    if let Some(boxed) = boxed {
        give_back_further(boxed, class);
    }
}

/// The first of a thread is kept all the same, the others are freed.
#[cold]
fn give_back_further(boxed: Box<BytesMut>, class: Option<usize>) {
    let mut boxed = Some(boxed);
    with_local(|local| {
        let is_set_up = class.is_some() && local.set_up();
        let Local { idle, stats, .. } = local;
        let stack = class.filter(|_| is_set_up).and_then(|class| idle.get_mut(class));
        if let Some(stack) = stack.filter(|stack| has_room(stack)) {
            stack.extend(boxed.take());
            stats.returns += 1;
        } else {
            stats.drops += 1;
        }
    });
}

/// A vector that would have to grow has none: what that takes would be in the way.
#[inline]
fn has_room(stack: &Stack) -> bool {
    stack.len() < PER_CLASS && stack.len() < stack.capacity()
}

impl Local {
    /// `false`: the thread is ending, and keeps nothing.
    fn set_up(&mut self) -> bool {
        let lives = END.try_with(|_| ()).is_ok();
        for stack in self.idle.iter_mut().chain([&mut self.empty]).filter(|_| lives) {
            stack.reserve_exact(PER_CLASS - stack.len());
        }
        lives
    }
}

/// The largest class that an empty buffer has the room for; `None`: it has too little memory, or too much.
#[inline]
fn class_of(buffer: &mut BytesMut) -> Option<usize> {
    // The memory behind it may be larger than it shows: split off, advanced over, or grown.
    if buffer.try_reclaim(LARGEST_KEPT + 1) {
        return None;
    }
    let capacity = buffer.capacity();
    SIZES.iter().position(|size| *size == capacity).or_else(|| class_of_changed(buffer))
}

/// Of one that does not show what it was taken with: by what can be reclaimed of it. Nothing is allocated for that, and it
/// fails if the memory is shared or too small.
#[cold]
fn class_of_changed(buffer: &mut BytesMut) -> Option<usize> {
    (0..SIZES.len())
        .rev()
        .find(|class| buffer.try_reclaim(SIZES[*class]))
        .filter(|_| buffer.capacity() <= LARGEST_KEPT)
}

/// As [`get_buffer`], in a wrapper that gives the buffer back by itself. Faster: the [`BytesMut`] stays where it is.
#[inline]
pub fn take_buffer(size: usize) -> PacketBuffer {
    PacketBuffer(Some(take(size).unwrap_or_else(|| allocate_boxed(size))))
}

#[cold]
fn allocate_boxed(size: usize) -> Box<BytesMut> {
    Box::new(allocate(size))
}

/// What this thread's pool has done. `high_water_bytes` stays 0: nobody counts what other threads hold.
pub fn stats() -> PoolStats {
    let counted = with_local(|local| {
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
pub struct PacketBuffer(Option<Box<BytesMut>>);

impl PacketBuffer {
    /// Keeps the buffer out of the pool.
    pub fn into_inner(mut self) -> BytesMut {
        self.0.take().map(|boxed| *boxed).unwrap_or_default()
    }
}

impl Deref for PacketBuffer {
    type Target = BytesMut;

    #[inline]
    fn deref(&self) -> &BytesMut {
        match &self.0 {
            Some(boxed) => boxed,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl DerefMut for PacketBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut BytesMut {
        match &mut self.0 {
            Some(boxed) => boxed,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl Drop for PacketBuffer {
    #[inline]
    fn drop(&mut self) {
        if let Some(boxed) = self.0.take() {
            give_back(boxed);
        }
    }
}
