//! Which regions are free, which belong to which segment, and where the next extent goes.
//!
//! A segment is a run of adjacent regions that is filled from its start and freed as a whole. Bookkeeping only: no I/O
//! happens here, so the lock around it is never held across any.
use std::collections::BTreeMap;
use std::ops::Range;

use crate::core::UNIT_BYTES;
use crate::format::location::Location;

/// What a segment is filled with, and by whom: objects that die together share segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Small objects on their first life.
    SmallProbation,
    /// Large objects on their first life.
    LargeProbation,
    /// Small objects that were used and copied forward.
    SmallMain,
    /// Large objects that were used and copied forward.
    LargeMain,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::SmallProbation, Self::LargeProbation, Self::SmallMain, Self::LargeMain];

    /// The byte that stands for it on disk.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The kind behind a byte from the disk.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    pub(crate) fn is_main(self) -> bool {
        matches!(self, Self::SmallMain | Self::LargeMain)
    }

    /// Where a used object of this kind goes when its segment is reclaimed.
    pub(crate) fn promoted(self) -> Self {
        match self {
            Self::SmallProbation | Self::SmallMain => Self::SmallMain,
            Self::LargeProbation | Self::LargeMain => Self::LargeMain,
        }
    }
}

/// Space for one extent. Its segment is pinned for the writer by whoever made the reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) leader: u32,
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// A segment was opened or grew: to be journaled before anything in it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) seq: u64,
    pub(crate) first: u32,
    pub(crate) regions: u32,
    pub(crate) kind: Kind,
    /// The regions that it did not have before.
    pub(crate) gained_from: u32,
    /// The segment that was open before, now sealed.
    pub(crate) sealed: Option<u32>,
}

/// A run of regions.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) first: u32,
    pub(crate) regions: u32,
    pub(crate) seq: u64,
    /// Order of reclaim; renewed when the segment gets a second chance.
    pub(crate) age: u64,
    pub(crate) kind: Kind,
    /// Absolute offset of the first byte not yet reserved.
    pub(crate) cursor: u64,
    pub(crate) open: bool,
    pub(crate) draining: bool,
    pub(crate) live_bytes: u64,
    /// Index slots that were filled from this segment; some may have moved on since.
    pub(crate) slots: Vec<u32>,
}

/// The map of the data area.
#[derive(Debug)]
pub(crate) struct SpaceMap {
    region_size: u64,
    data_offset: u64,
    owner: Vec<Option<u32>>,
    segments: BTreeMap<u32, Segment>,
    open: [Option<u32>; 4],
    next_seq: u64,
    next_age: u64,
}

/// A segment that is extended in place never grows past this many regions, so that pins and evictions stay small.
const MAX_EXTENDED_REGIONS: u32 = 4;

impl SpaceMap {
    pub(crate) fn new(regions: u32, region_size: u64, data_offset: u64) -> Self {
        Self {
            region_size,
            data_offset,
            owner: vec![None; regions as usize],
            segments: BTreeMap::new(),
            open: [None; 4],
            next_seq: 1,
            next_age: 1,
        }
    }

    /// Takes `len` bytes, aligned to `align`, from the open segment of `kind`, from that segment extended, or from a
    /// new one. `None`: no run of free regions is long enough.
    pub(crate) fn reserve(
        &mut self,
        kind: Kind,
        len: u64,
        align: u64,
    ) -> Option<(Reservation, Option<Opened>)> {
        if let Some(reservation) = self.reserve_in_open(kind, len, align) {
            return Some((reservation, None));
        }
        if let Some(opened) = self.extend_open(kind, len, align) {
            return self.reserve_in_open(kind, len, align).map(|r| (r, Some(opened)));
        }
        let wanted = self.regions_for(len);
        let first = self.free_run(wanted)?;
        let opened = self.open_segment(first, wanted, kind);
        self.reserve_in_open(kind, len, align).map(|r| (r, Some(opened)))
    }

    /// Gives back the unused end of a reservation, if nothing was reserved behind it.
    pub(crate) fn shrink(&mut self, reservation: &Reservation, used: u64) {
        if let Some(segment) = self.segments.get_mut(&reservation.leader) {
            let end = reservation.offset + reservation.len;
            if segment.seq == reservation.seq && segment.cursor == end {
                segment.cursor = reservation.offset + used;
            }
        }
    }

    /// Opens a segment over free regions, or over those that a reclaim has just freed.
    pub(crate) fn open_segment(&mut self, first: u32, regions: u32, kind: Kind) -> Opened {
        let sealed = self.open[kind as usize].take();
        if let Some(segment) = sealed.and_then(|leader| self.segments.get_mut(&leader)) {
            segment.open = false;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let cursor = self.region_offset(first);
        self.install(Segment {
            first,
            regions,
            seq,
            age: 0,
            kind,
            cursor,
            open: true,
            draining: false,
            live_bytes: 0,
            slots: Vec::new(),
        });
        self.renew(first);
        self.open[kind as usize] = Some(first);
        Opened { seq, first, regions, kind, gained_from: first, sealed }
    }

    /// Puts a segment in place, as recovery found it; it replaces whatever overlaps it.
    pub(crate) fn install(&mut self, segment: Segment) {
        let run = segment.first..segment.first + segment.regions;
        let overlapped: Vec<u32> =
            run.clone().filter_map(|r| self.owner.get(r as usize).copied().flatten()).collect();
        for leader in overlapped {
            if leader != segment.first {
                self.free(leader);
            }
        }
        self.free(segment.first);
        for region in run {
            if let Some(owner) = self.owner.get_mut(region as usize) {
                *owner = Some(segment.first);
            }
        }
        self.next_seq = self.next_seq.max(segment.seq + 1);
        self.next_age = self.next_age.max(segment.age + 1);
        if segment.open {
            self.open[segment.kind as usize] = Some(segment.first);
        }
        self.segments.insert(segment.first, segment);
    }

    /// Returns a segment's regions to the free ones.
    pub(crate) fn free(&mut self, leader: u32) {
        let Some(segment) = self.segments.remove(&leader) else { return };
        for region in segment.first..segment.first + segment.regions {
            if self.owner[region as usize] == Some(leader) {
                self.owner[region as usize] = None;
            }
        }
        for open in &mut self.open {
            if *open == Some(leader) {
                *open = None;
            }
        }
    }

    /// Stops filling a segment.
    pub(crate) fn close(&mut self, leader: u32) {
        if let Some(segment) = self.segments.get_mut(&leader) {
            segment.open = false;
        }
        for open in &mut self.open {
            if *open == Some(leader) {
                *open = None;
            }
        }
    }

    /// Gives a segment the youngest age.
    pub(crate) fn renew(&mut self, leader: u32) {
        let age = self.next_age;
        self.next_age += 1;
        if let Some(segment) = self.segments.get_mut(&leader) {
            segment.age = age;
        }
    }

    /// After a restart: the youngest open segment of each kind goes on at the next block, the others are closed.
    pub(crate) fn resume(&mut self, block: u64) {
        self.open = [None; 4];
        let mut youngest: [Option<(u64, u32)>; 4] = [None; 4];
        for segment in self.segments.values_mut() {
            segment.cursor = segment.cursor.next_multiple_of(block);
            let slot = &mut youngest[segment.kind as usize];
            if segment.open && slot.is_none_or(|(seq, _)| seq < segment.seq) {
                *slot = Some((segment.seq, segment.first));
            }
            segment.open = false;
        }
        for (_, leader) in youngest.into_iter().flatten() {
            if let Some(segment) = self.segments.get_mut(&leader) {
                segment.open = true;
                self.open[segment.kind as usize] = Some(leader);
            }
        }
    }

    /// Never hands out a sequence number below this one again.
    pub(crate) fn skip_seq_to(&mut self, seq: u64) {
        self.next_seq = self.next_seq.max(seq);
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(crate) fn segment(&self, leader: u32) -> Option<&Segment> {
        self.segments.get(&leader)
    }

    pub(crate) fn segment_mut(&mut self, leader: u32) -> Option<&mut Segment> {
        self.segments.get_mut(&leader)
    }

    /// The segment that a byte of the file belongs to.
    pub(crate) fn segment_at_mut(&mut self, offset: u64) -> Option<&mut Segment> {
        self.owner_at(offset).and_then(|leader| self.segments.get_mut(&leader))
    }

    /// The segment that a location means: `None` when it was freed since.
    pub(crate) fn segment_of_mut(&mut self, location: Location) -> Option<&mut Segment> {
        self.segment_at_mut(location.unit() * UNIT_BYTES)
            .filter(|segment| Location::seq_low(segment.seq) == location.seq_bits())
    }

    /// Whether the segment that a location means is still there.
    pub(crate) fn holds(&self, location: Location) -> bool {
        self.owner_at(location.unit() * UNIT_BYTES)
            .and_then(|leader| self.segments.get(&leader))
            .is_some_and(|segment| Location::seq_low(segment.seq) == location.seq_bits())
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.values()
    }

    pub(crate) fn free_regions(&self) -> u32 {
        u32::try_from(self.owner.iter().filter(|owner| owner.is_none()).count()).unwrap_or(u32::MAX)
    }

    pub(crate) fn total_regions(&self) -> u32 {
        u32::try_from(self.owner.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.live_bytes).sum()
    }

    /// How many regions a reservation of `len` bytes needs when it starts a segment.
    pub(crate) fn regions_for(&self, len: u64) -> u32 {
        u32::try_from(len.div_ceil(self.region_size).max(1)).unwrap_or(u32::MAX)
    }

    /// The segments that stand in the way of a run.
    pub(crate) fn leaders_in(&self, run: Range<u32>) -> Vec<u32> {
        let mut leaders: Vec<u32> =
            run.filter_map(|region| self.owner.get(region as usize).copied().flatten()).collect();
        leaders.dedup();
        leaders
    }

    pub(crate) fn region_offset(&self, region: u32) -> u64 {
        self.data_offset + u64::from(region) * self.region_size
    }

    /// The region that holds a byte of the file.
    pub(crate) fn region_of(&self, offset: u64) -> Option<u32> {
        let region = offset.checked_sub(self.data_offset)? / self.region_size;
        u32::try_from(region).ok().filter(|region| (*region as usize) < self.owner.len())
    }

    fn owner_at(&self, offset: u64) -> Option<u32> {
        self.region_of(offset).and_then(|region| self.owner[region as usize])
    }

    fn segment_end(&self, segment: &Segment) -> u64 {
        self.region_offset(segment.first + segment.regions)
    }

    fn reserve_in_open(&mut self, kind: Kind, len: u64, align: u64) -> Option<Reservation> {
        let leader = self.open[kind as usize]?;
        let end = self.segment_end(self.segments.get(&leader)?);
        let segment = self.segments.get_mut(&leader)?;
        let offset = segment.cursor.next_multiple_of(align);
        let new_cursor = offset.checked_add(len)?;
        if new_cursor > end {
            return None;
        }
        segment.cursor = new_cursor;
        Some(Reservation { leader, seq: segment.seq, offset, len })
    }

    /// Grows the open segment over the free regions right behind it, so that its end is not wasted.
    fn extend_open(&mut self, kind: Kind, len: u64, align: u64) -> Option<Opened> {
        let leader = self.open[kind as usize]?;
        let segment = self.segments.get(&leader)?;
        let end = self.segment_end(segment);
        if segment.cursor >= end {
            return None;
        }
        let needed = segment.cursor.next_multiple_of(align).checked_add(len)?.checked_sub(end)?;
        let gain = self.regions_for(needed);
        let from = segment.first + segment.regions;
        let room = (from..from.checked_add(gain)?)
            .all(|region| self.owner.get(region as usize).is_some_and(Option::is_none));
        let cap = MAX_EXTENDED_REGIONS.max(self.regions_for(len) + 1);
        if !room || segment.regions + gain > cap {
            return None;
        }
        for region in from..from + gain {
            self.owner[region as usize] = Some(leader);
        }
        let segment = self.segments.get_mut(&leader)?;
        segment.regions += gain;
        Some(Opened {
            seq: segment.seq,
            first: segment.first,
            regions: segment.regions,
            kind,
            gained_from: from,
            sealed: None,
        })
    }

    /// The shortest run of free regions that is long enough: keeps long runs whole for large objects.
    fn free_run(&self, regions: u32) -> Option<u32> {
        let mut best: Option<(u32, u32)> = None;
        let mut start = None;
        let total = self.total_regions();
        for region in 0..=total {
            let free = self.owner.get(region as usize).is_some_and(Option::is_none);
            match (free, start) {
                (true, None) => start = Some(region),
                (false, Some(first)) => {
                    let len = region - first;
                    if len >= regions && best.is_none_or(|(shortest, _)| len < shortest) {
                        best = Some((len, first));
                    }
                    start = None;
                }
                _ => {}
            }
        }
        best.map(|(_, first)| first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REGION: u64 = 1 << 20;

    fn map(regions: u32) -> SpaceMap {
        SpaceMap::new(regions, REGION, 4096)
    }

    #[test]
    fn a_large_object_gets_one_contiguous_run_and_its_tail_is_used() {
        let mut map = map(8);
        let (big, opened) = map.reserve(Kind::LargeProbation, 2 * REGION + 10, 4096).expect("room");
        assert_eq!(opened.map(|o| o.regions), Some(3));
        let (next, opened) = map.reserve(Kind::LargeProbation, 4096, 4096).expect("room");
        assert!(opened.is_none());
        assert_eq!(next.leader, big.leader);
        assert_eq!(next.offset, (big.offset + big.len).next_multiple_of(4096));
    }

    #[test]
    fn an_open_segment_grows_over_free_neighbours_instead_of_wasting_its_end() {
        let mut map = map(8);
        let half = REGION / 2 + 4096;
        let (first, _) = map.reserve(Kind::LargeProbation, half, 4096).expect("room");
        let (second, opened) = map.reserve(Kind::LargeProbation, half, 4096).expect("room");
        assert_eq!(second.leader, first.leader);
        assert_eq!(second.offset, first.offset + half);
        assert_eq!(opened.map(|o| (o.regions, o.gained_from)), Some((2, 1)));
    }

    #[test]
    fn nothing_is_given_where_no_run_is_long_enough() {
        let mut map = map(4);
        assert!(map.reserve(Kind::LargeProbation, 5 * REGION, 4096).is_none());
        assert!(map.reserve(Kind::SmallProbation, 100, 64).is_some());
        assert!(map.reserve(Kind::LargeProbation, 4 * REGION, 4096).is_none());
        assert_eq!(map.free_regions(), 3);
    }

    #[test]
    fn the_unused_end_of_a_reservation_goes_back() {
        let mut map = map(4);
        let (r, _) = map.reserve(Kind::LargeProbation, REGION, 4096).expect("room");
        map.shrink(&r, 8192);
        let (next, _) = map.reserve(Kind::LargeProbation, 4096, 4096).expect("room");
        assert_eq!(next.offset, r.offset + 8192);
        map.shrink(&r, 4096);
        let (third, _) = map.reserve(Kind::LargeProbation, 4096, 4096).expect("room");
        assert_eq!(third.offset, next.offset + 4096, "what lies behind keeps its place");
    }

    proptest! {
        #[test]
        fn reservations_never_overlap_and_stay_inside(ops in proptest::collection::vec((0..4usize, 1..3 * REGION, any::<bool>()), 1..60)) {
            let mut map = map(16);
            let mut live: Vec<Reservation> = Vec::new();
            for (kind, len, free_oldest) in ops {
                if free_oldest && let Some(oldest) = map.segments().filter(|s| !s.open).min_by_key(|s| s.age).map(|s| s.first) {
                    map.free(oldest);
                    live.retain(|r| r.leader != oldest);
                }
                if let Some((r, _)) = map.reserve(Kind::ALL[kind], len, 64) {
                    prop_assert!(r.offset >= 4096 && r.offset + r.len <= 4096 + 16 * REGION);
                    for other in &live {
                        prop_assert!(r.offset + r.len <= other.offset || other.offset + other.len <= r.offset);
                    }
                    prop_assert_eq!(map.segment_at_mut(r.offset).map(|s| s.seq), Some(r.seq));
                    prop_assert_eq!(map.segment_at_mut(r.offset + r.len - 1).map(|s| s.seq), Some(r.seq));
                    live.push(r);
                }
            }
            let owned: u32 = map.segments().map(|s| s.regions).sum();
            prop_assert_eq!(owned + map.free_regions(), 16);
        }
    }
}
