//! Makes room: one thread that frees the oldest segments, after copying forward what was used in them.
//!
//! A victim goes through four steps: it is marked as draining (readers may still pin it), its used objects are copied
//! to a main segment and moved in the index, its freeing is journaled and flushed (so that what is dropped here cannot
//! come back after a crash when a newer version was stored meanwhile), and it becomes free when its last pin is gone.
//! A segment most of which is in use is not copied but given a second chance where it is.
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::commit::Change;
use crate::core::{BLOCK, BLOCK_BYTES, Core, Held, UNIT_BYTES};
use crate::format::extent;
use crate::format::location::Location;
use crate::meta::Version;
use crate::observe::Removal;
use crate::pack::Pack;
use crate::policy::{self, SegmentView};
use crate::segment::space::{Kind, Segment, SpaceMap};

/// What the reclaimer is asked for.
#[derive(Debug)]
pub(crate) struct Reclaim {
    state: Mutex<State>,
    changed: Condvar,
    /// Writers wait and nothing can be reclaimed: overdue pins are to be given up.
    pressed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    requests: VecDeque<Request>,
    nudged: bool,
    stop: bool,
}

#[derive(Debug)]
struct Request {
    kind: Kind,
    len: u64,
    align: u64,
    deadline: Instant,
    reply: oneshot::Sender<Held>,
}

/// Writers that may wait for space at once; more are turned away.
const MAX_WAITING: usize = 1024;
/// How often a draining segment is looked at again when nobody says that a pin was dropped.
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// A segment is spared rather than copied when at least this share of its live bytes is in use.
const SPARE_SHARE: (u64, u64) = (1, 2);

impl Reclaim {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            pressed: AtomicBool::new(false),
        }
    }

    /// Whether writers wait because everything is pinned.
    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// Whether no writer is waiting, so that taking space at once is fair.
    pub(crate) fn nobody_waits(&self) -> bool {
        self.state.lock().requests.is_empty()
    }

    /// Queues a request for space; `None` when too many wait already.
    pub(crate) fn ask(
        &self,
        core: &Core,
        kind: Kind,
        len: u64,
        align: u64,
    ) -> Option<oneshot::Receiver<Held>> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.state.lock();
        if state.stop || state.requests.len() >= MAX_WAITING {
            return None;
        }
        let deadline = Instant::now() + core.pin_wait;
        state.requests.push_back(Request { kind, len, align, deadline, reply });
        self.changed.notify_all();
        Some(answer)
    }

    /// Something changed that may let the reclaimer go on.
    pub(crate) fn nudge(&self) {
        let mut state = self.state.lock();
        if !state.requests.is_empty() {
            state.nudged = true;
            self.changed.notify_all();
        }
    }

    /// Starts the reclaimer when free regions run low.
    pub(crate) fn nudge_if_low(&self, core: &Core) {
        if core.space.lock().map.free_regions() < low_water(core.layout.regions) {
            self.state.lock().nudged = true;
            self.changed.notify_all();
        }
    }

    /// Ends the reclaimer's thread; waiting writers are turned away.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stop = true;
        state.requests.clear();
        self.changed.notify_all();
    }
}

/// Regions that are kept free ahead of need.
fn low_water(regions: u32) -> u32 {
    (regions / 32).clamp(2, 16).min(regions / 4)
}

/// The reclaimer's thread: returns after [`Reclaim::stop`].
pub(crate) fn run(core: &Arc<Core>) {
    let pack = match Pack::new(core) {
        Ok(pack) => pack,
        Err(error) => return tracing::error!(%error, "no buffer to copy small objects in"),
    };
    let mut reclaimer = Reclaimer { core, draining: Vec::new(), pack };
    loop {
        let wanted = {
            let mut state = core.reclaim.state.lock();
            let idle = state.requests.is_empty() && !state.nudged && !state.stop;
            if idle && reclaimer.draining.is_empty() {
                core.reclaim.changed.wait(&mut state);
            } else if !state.nudged && !state.stop {
                core.reclaim.changed.wait_for(&mut state, DRAIN_POLL);
            }
            if state.stop {
                return;
            }
            state.nudged = false;
            let now = Instant::now();
            state.requests.retain(|request| !request.reply.is_closed() && request.deadline > now);
            state.requests.front().map(|request| request.len)
        };
        reclaimer.free_drained();
        match wanted {
            Some(len) => reclaimer.serve(len),
            None => reclaimer.fill_up(),
        }
    }
}

struct Reclaimer<'a> {
    core: &'a Arc<Core>,
    /// Emptied segments that readers still hold.
    draining: Vec<u32>,
    /// Small objects on their way to a main segment.
    pack: Pack,
}

/// An object that was copied and not yet moved in the index.
struct Copied {
    hash: u64,
    from: Location,
    to: Location,
    held: Held,
}

impl Reclaimer<'_> {
    /// Gives space to the writer that has waited longest, making room first if there is none.
    fn serve(&mut self, len: u64) {
        if self.hand_over() {
            self.core.reclaim.pressed.store(false, Ordering::Relaxed);
            return;
        }
        let regions = self.core.space.lock().map.regions_for(len);
        if let Some(run) = self.pick_unused(regions) {
            self.empty(run);
            self.free_drained();
            self.hand_over();
        } else {
            self.core.reclaim.pressed.store(true, Ordering::Relaxed);
        }
    }

    /// Frees ahead of need.
    fn fill_up(&mut self) {
        let target = low_water(self.core.layout.regions);
        for _ in 0..target {
            let (free, emptied) = {
                let map = &self.core.space.lock().map;
                (
                    map.free_regions(),
                    self.draining
                        .iter()
                        .filter_map(|l| map.segment(*l))
                        .map(|s| s.regions)
                        .sum::<u32>(),
                )
            };
            if free + emptied >= target {
                return;
            }
            let Some(run) = self.pick_unused(1) else { return };
            self.empty(run);
            self.free_drained();
        }
    }

    /// Tries to satisfy the first request from what is free.
    fn hand_over(&self) -> bool {
        let mut state = self.core.reclaim.state.lock();
        let Some(request) = state.requests.front() else { return true };
        let Some(reservation) = self.core.try_reserve(request.kind, request.len, request.align)
        else {
            return false;
        };
        let held = Held::new(self.core.clone(), reservation);
        let unclaimed =
            state.requests.pop_front().and_then(|request| request.reply.send(held).err());
        state.nudged = true;
        drop(state);
        if let Some(held) = unclaimed {
            held.shrink(0);
        }
        true
    }

    /// As [`Self::pick`], passing over segments that are spared. Gives up sparing after one round of them all.
    fn pick_unused(&self, regions: u32) -> Option<Range<u32>> {
        for _ in 0..self.core.layout.regions {
            let run = self.pick(regions)?;
            let leaders = self.core.space.lock().map.leaders_in(run.clone());
            let spared = leaders.iter().filter(|leader| self.spare(**leader)).count();
            if spared == 0 {
                return Some(run);
            }
        }
        self.pick(regions)
    }

    /// The run of regions whose loss costs least.
    fn pick(&self, regions: u32) -> Option<Range<u32>> {
        let mut space = self.core.space.lock();
        let views = self.views(&space.map);
        let total = space.map.total_regions();
        if let Some(run) = policy::pick_run(&views, total, regions) {
            return Some(run);
        }
        // Nothing but open segments is left: close those that nobody is writing to.
        let idle: Vec<u32> = views
            .iter()
            .filter(|view| view.open && !view.pinned)
            .map(|view| view.first_region)
            .collect();
        for leader in idle {
            space.map.close(leader);
            self.core.pins.seal(leader);
        }
        let views = self.views(&space.map);
        policy::pick_run(&views, total, regions)
    }

    fn views(&self, map: &SpaceMap) -> Vec<SegmentView> {
        map.segments()
            .map(|segment| SegmentView {
                first_region: segment.first,
                regions: segment.regions,
                age: segment.age,
                main: segment.kind.is_main(),
                live_bytes: segment.live_bytes,
                pinned: self.core.pins.is_pinned(segment.first),
                open: segment.open,
                draining: segment.draining,
            })
            .collect()
    }

    /// Empties every segment in a run; what is left to wait for is the pins.
    fn empty(&mut self, run: Range<u32>) {
        let leaders = self.core.space.lock().map.leaders_in(run);
        for leader in leaders {
            if self.empty_segment(leader) {
                self.draining.push(leader);
            }
        }
    }

    fn empty_segment(&mut self, leader: u32) -> bool {
        let segment = {
            let mut space = self.core.space.lock();
            match space.map.segment_mut(leader) {
                // One that was opened since the run was picked is in use: the next pick knows.
                Some(segment) if !segment.draining && !segment.open => {
                    segment.draining = true;
                    segment.clone()
                }
                _ => return false,
            }
        };
        self.core.pins.drain(leader);
        let extents = self.extents(&segment);
        self.copy_used_forward(&segment, &extents);
        let free = Change::Free { seq: segment.seq, first: leader };
        if let Err(error) = self.core.committer.commit_blocking(free, None) {
            tracing::error!(%error, "the freeing of a segment could not be journaled; it stays");
            if let Some(segment) = self.core.space.lock().map.segment_mut(leader) {
                segment.draining = false;
            }
            return false;
        }
        for (hash, location) in extents {
            if self.core.index.remove_if(hash, location) {
                self.evicted(location, segment.seq);
            }
        }
        true
    }

    fn evicted(&self, location: Location, seq: u64) {
        self.core.counters.evictions.add(1);
        let version = Version { unit: location.unit(), seq };
        if let Some(entry) = self.core.entries.find(version) {
            self.core.entries.remove(version);
            self.core.observer.removed(&entry.meta.key, Removal::Evicted);
        }
    }

    /// The extents of a segment that the index still points to.
    fn extents(&self, segment: &Segment) -> Vec<(u64, Location)> {
        let start =
            self.core.layout.data_offset + u64::from(segment.first) * self.core.layout.region_size;
        let end = start + u64::from(segment.regions) * self.core.layout.region_size;
        let inside = |location: &Location| {
            (start..end).contains(&(location.unit() * UNIT_BYTES))
                && location.seq_bits() == Location::seq_low(segment.seq)
        };
        segment
            .slots
            .iter()
            .filter_map(|slot| self.core.index.at(*slot))
            .filter(|(_, location)| inside(location))
            .collect()
    }

    /// Copies what was read since it was written to a main segment. Best effort: what does not fit is dropped.
    fn copy_used_forward(&mut self, segment: &Segment, extents: &[(u64, Location)]) {
        let used = extents.iter().filter(|(_, location)| location.freq() > 0);
        // Copying may cost at most half a segment, or reclaiming would gain too little.
        let mut budget = u64::from(segment.regions) * self.core.layout.region_size / 2;
        let mut copied = Vec::new();
        for (hash, location) in used {
            let bytes = location.size_units() * UNIT_BYTES;
            if bytes > budget {
                continue;
            }
            budget -= bytes;
            match self.copy_forward(segment, *hash, *location) {
                Ok(one) => copied.extend(one),
                Err(error) => tracing::debug!(%error, "an object was not copied forward"),
            }
        }
        if let Err(error) = self.pack.flush(self.core) {
            return tracing::warn!(%error, "used objects could not be copied forward; they are evicted");
        }
        for Copied { hash, from, to, held } in copied {
            let change = Change::Move { hash, from, to, units: to.size_units() };
            if let Err(error) = self.core.committer.commit_blocking(change, Some(held)) {
                tracing::debug!(%error, "a copied object was not moved");
            }
        }
    }

    fn copy_forward(
        &mut self,
        segment: &Segment,
        hash: u64,
        from: Location,
    ) -> io::Result<Option<Copied>> {
        let core = self.core;
        let offset = from.unit() * UNIT_BYTES;
        let mut head = core.aligned(BLOCK)?;
        head.set_len(core.header_read_len(offset)).map_err(io::Error::other)?;
        core.device.read_at(&mut head, offset)?;
        let version = Version { unit: from.unit(), seq: segment.seq };
        let Some(entry) = core.parse_header(&head, version) else { return Ok(None) };
        if entry.meta.is_expired(core.clock.now_ms()) || core.rules.is_purged(&entry) {
            return Ok(None);
        }
        let kind = segment.kind.promoted();
        let small = kind == Kind::SmallMain;
        let (len, align) = if small {
            (entry.extent_len, UNIT_BYTES)
        } else {
            (entry.extent_len.next_multiple_of(BLOCK_BYTES), core.align)
        };
        // Only space that is free now: waiting for the reclaimer would be waiting for ourselves.
        let Some(reservation) = core.try_reserve(kind, len, align) else { return Ok(None) };
        let held = Held::new(core.clone(), reservation);
        if small {
            let room = self.pack.room(core, reservation.offset, entry.extent_len)?;
            core.device.read_at(room, offset)?;
            extent::rewrite_seq(room, reservation.seq).map_err(io::Error::other)?;
        } else {
            copy_extent(core, offset, &held, entry.extent_len)?;
        }
        let to = Location::new(reservation.offset / UNIT_BYTES, reservation.seq, entry.units());
        Ok(Some(Copied { hash, from, to: to.with_freq(from.freq().saturating_sub(1)), held }))
    }

    /// Frees the emptied segments that nobody reads any more.
    fn free_drained(&mut self) {
        let core = self.core;
        self.draining.retain(|leader| {
            // The pin word first: once it says free no reader gets in, and no writer until the map says so too.
            let freed = core.pins.try_free(*leader);
            if freed {
                core.space.lock().map.free(*leader);
            }
            !freed
        });
    }

    /// Spares a segment most of whose bytes were read since it was last considered: it becomes the youngest, and its
    /// objects have to be read again to be spared again.
    fn spare(&self, leader: u32) -> bool {
        let Some(segment) = self.core.space.lock().map.segment(leader).cloned() else {
            return false;
        };
        let extents = self.extents(&segment);
        let used: u64 = extents
            .iter()
            .filter(|(_, l)| l.freq() > 0)
            .map(|(_, l)| l.size_units() * UNIT_BYTES)
            .sum();
        let capacity = u64::from(segment.regions) * self.core.layout.region_size;
        if used * SPARE_SHARE.1 < capacity * SPARE_SHARE.0 {
            return false;
        }
        for (hash, location) in extents {
            self.core.index.cool(hash, location);
        }
        self.core.space.lock().map.renew(leader);
        true
    }
}

/// Copies a large extent piece by piece; its header is written again under the new segment's number.
fn copy_extent(core: &Core, from: u64, held: &Held, extent_len: u64) -> io::Result<()> {
    let mut buffer = core.aligned(64 * 1024)?;
    let mut done = 0;
    while done < extent_len {
        let step = usize::try_from(extent_len - done).unwrap_or(usize::MAX).min(buffer.capacity());
        buffer.set_len(step.next_multiple_of(BLOCK)).map_err(io::Error::other)?;
        core.device.read_at(&mut buffer[..step], from + done)?;
        buffer[step..].fill(0);
        if done == 0 {
            extent::rewrite_seq(&mut buffer, held.reservation.seq).map_err(io::Error::other)?;
        }
        core.device.write_at(&buffer, held.reservation.offset + done)?;
        done += step as u64;
    }
    Ok(())
}
