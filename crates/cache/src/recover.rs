//! Brings index and map back from the newest sound checkpoint and the journal behind it. No data is read.
use std::io;

use crate::core::{BLOCK_BYTES, UNIT_BYTES};
use crate::device::Device;
use crate::format::checkpoint::{
    Head, SegmentEntry, decode_entries, decode_rules, decode_segments,
};
use crate::format::journal::{BlockView, Record};
use crate::format::layout::Layout;
use crate::format::location::Location;
use crate::format::rule::Rule;
use crate::index::Index;
use crate::segment::space::{Kind, Segment, SpaceMap};

/// What recovery found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) map: SpaceMap,
    pub(crate) journal: Resume,
    pub(crate) purges: Purges,
    /// What of the metadata was damaged, in words.
    pub(crate) damage: Vec<String>,
}

/// The purges that are in force.
#[derive(Debug, Default)]
pub(crate) struct Purges {
    /// The generation that new objects belong to.
    pub(crate) generation: u64,
    pub(crate) rules: Vec<Rule>,
}

/// Where the journal goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    /// The next block to write.
    pub(crate) head: u64,
    /// The oldest block that a checkpoint still needs.
    pub(crate) from: u64,
    /// Where the newest checkpoint starts.
    pub(crate) newest: u64,
    /// The number of the newest checkpoint.
    pub(crate) number: u64,
    /// Blocks from an interrupted life lie ahead: both checkpoints have to be written anew before the journal is.
    pub(crate) gap: bool,
    /// Changes may be lost in the middle of the journal: nothing of the index can be trusted.
    pub(crate) lost: bool,
}

type Block = [u8; crate::format::BLOCK_BYTES];

/// Sequence numbers that are passed over at each start: one given out shortly before a crash is not given out again.
const SEQ_SKIP: u64 = 1024;

/// Reads checkpoint and journal.
pub(crate) fn recover(device: &dyn Device, layout: &Layout, epoch: u64) -> io::Result<Recovered> {
    let mut damage = Vec::new();
    let mut heads = Vec::new();
    for (slot, base) in layout.checkpoint.into_iter().enumerate() {
        match Head::decode(&read_block(device, base)?) {
            Ok(head) if head.epoch == epoch => heads.push((head, base)),
            Ok(_) => {}
            Err(error) => damage.push(format!("checkpoint {slot}: {error}")),
        }
    }
    heads.sort_by_key(|(head, _)| std::cmp::Reverse(head.number));
    let oldest = heads.last().map(|(head, _)| head.journal_start);
    for (head, base) in &heads {
        match load(device, layout, head, *base)? {
            Ok((index, map, purges)) => {
                let mut state = State { index, map, purges, layout };
                let mut journal = replay(device, layout, epoch, head, &mut state, &mut damage)?;
                journal.from = oldest.unwrap_or(head.journal_start);
                // The newest may be damaged: its number is still not to be used again.
                journal.number = heads[0].0.number;
                journal.gap |= heads.len() < 2 || head.number != journal.number;
                if !journal.lost {
                    return Ok(settle(state, journal, damage));
                }
            }
            Err(what) => damage.push(format!("checkpoint {}: {what}", head.number)),
        }
    }
    let number = heads.first().map_or(0, |(head, _)| head.number);
    let journal = Resume { head: 1, from: 1, newest: 1, number, gap: true, lost: true };
    let map = SpaceMap::new(layout.regions, layout.region_size, layout.data_offset);
    let (index, purges) = (Index::with_buckets(layout.index_buckets), Purges::default());
    Ok(Recovered { index, map, journal, purges, damage })
}

struct State<'a> {
    index: Index,
    map: SpaceMap,
    purges: Purges,
    layout: &'a Layout,
}

fn read_block(device: &dyn Device, offset: u64) -> io::Result<Block> {
    let mut block = [0; crate::format::BLOCK_BYTES];
    match device.read_at(&mut block, offset) {
        // A file that ends here is another one than was formatted.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(error),
        Err(error) => {
            // A sector that cannot be read is a damaged copy: there is another one.
            tracing::warn!(offset, %error, "metadata cannot be read");
            Ok([0; crate::format::BLOCK_BYTES])
        }
        Ok(()) => Ok(block),
    }
}

/// Loads a checkpoint whole, or says what is wrong with it.
fn load(
    device: &dyn Device,
    layout: &Layout,
    head: &Head,
    base: u64,
) -> io::Result<Result<(Index, SpaceMap, Purges), String>> {
    let rules_end = head.segment_pages() + u64::from(head.rule_pages);
    let pages = rules_end + head.entry_pages();
    if pages + 1 > u64::from(layout.checkpoint_blocks) {
        return Ok(Err("claims more pages than fit".to_owned()));
    }
    let index = Index::with_buckets(layout.index_buckets);
    let mut map = SpaceMap::new(layout.regions, layout.region_size, layout.data_offset);
    let mut purges = Purges { generation: head.generation, rules: Vec::new() };
    for page in 0..pages {
        let block = read_block(device, base + (page + 1) * BLOCK_BYTES)?;
        if page < head.segment_pages() {
            match decode_segments(&block, head.number, page) {
                Ok(segments) => {
                    for segment in &segments {
                        install(&mut map, layout, segment);
                    }
                }
                Err(error) => return Ok(Err(error.to_string())),
            }
        } else if page < rules_end {
            match decode_rules(&block, head.number, page) {
                Ok(rules) => purges.rules.extend(rules),
                Err(error) => return Ok(Err(error.to_string())),
            }
        } else {
            match decode_entries(&block, head.number, page) {
                Ok(entries) => {
                    for (hash, location) in entries {
                        index.insert(hash, location, |old| !map.holds(old));
                    }
                }
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
    }
    map.skip_seq_to(head.next_seq);
    Ok(Ok((index, map, purges)))
}

fn install(map: &mut SpaceMap, layout: &Layout, entry: &SegmentEntry) {
    let fits = entry.regions > 0
        && entry.first.checked_add(entry.regions).is_some_and(|end| end <= layout.regions);
    if let Some(kind) = Kind::from_code(entry.kind).filter(|_| fits) {
        map.install(Segment {
            first: entry.first,
            regions: entry.regions,
            seq: entry.seq,
            age: entry.age,
            kind,
            cursor: entry.cursor,
            open: entry.open,
            draining: false,
            live_bytes: 0,
            slots: Vec::new(),
        });
    }
}

/// Applies the journal from a checkpoint's start to the first block that is sound in neither copy.
fn replay(
    device: &dyn Device,
    layout: &Layout,
    epoch: u64,
    head: &Head,
    state: &mut State<'_>,
    damage: &mut Vec<String>,
) -> io::Result<Resume> {
    let ring = u64::from(layout.journal_blocks);
    let mut seq = head.journal_start;
    while seq < head.journal_start + ring {
        let Some(block) = sound_block(device, layout, epoch, seq, damage)? else { break };
        if let Ok(view) = BlockView::parse(&block) {
            view.records().filter_map(Result::ok).for_each(|record| state.apply(record));
        }
        seq += 1;
    }
    let (max_seen, max_synced) = scan_ahead(device, layout, epoch, seq)?;
    let lost = max_synced >= seq && max_synced > 0;
    if lost {
        damage.push(format!("journal block {seq} is lost although later ones say that it was flushed: starting empty"));
    }
    let next = seq.max(max_seen + 1);
    Ok(Resume {
        head: next,
        from: 0,
        newest: head.journal_start,
        number: head.number,
        gap: next != seq,
        lost,
    })
}

/// A journal block from whichever copy is sound.
fn sound_block(
    device: &dyn Device,
    layout: &Layout,
    epoch: u64,
    seq: u64,
    damage: &mut Vec<String>,
) -> io::Result<Option<Block>> {
    let slot = seq % u64::from(layout.journal_blocks) * BLOCK_BYTES;
    let mut bad = 0;
    for copy in layout.journal {
        let block = read_block(device, copy + slot)?;
        match BlockView::parse(&block) {
            Ok(view)
                if view.epoch == epoch
                    && view.seq == seq
                    && view.records().all(|record| record.is_ok()) =>
            {
                if bad > 0 {
                    damage.push(format!("journal block {seq}: first copy damaged, second used"));
                }
                return Ok(Some(block));
            }
            _ => bad += 1,
        }
    }
    Ok(None)
}

/// The highest block of this epoch anywhere in the ring, and the highest that any of those beyond `seq` calls flushed.
fn scan_ahead(
    device: &dyn Device,
    layout: &Layout,
    epoch: u64,
    seq: u64,
) -> io::Result<(u64, u64)> {
    let (mut max_seen, mut max_synced) = (0, 0);
    let mut chunk = vec![0; 16 * crate::format::BLOCK_BYTES];
    for copy in layout.journal {
        let end = copy + u64::from(layout.journal_blocks) * BLOCK_BYTES;
        let mut at = copy;
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
            if device.read_at(&mut chunk[..len], at).is_err() {
                // Some of it cannot be read: what can is found block by block.
                for (n, block) in chunk[..len].chunks_mut(crate::format::BLOCK_BYTES).enumerate() {
                    block.copy_from_slice(&read_block(device, at + n as u64 * BLOCK_BYTES)?);
                }
            }
            for block in chunk[..len].as_chunks::<{ crate::format::BLOCK_BYTES }>().0 {
                let Ok(view) = BlockView::parse(block) else { continue };
                if view.epoch == epoch && view.seq >= seq {
                    max_seen = max_seen.max(view.seq);
                    max_synced = max_synced.max(view.synced);
                }
            }
            at += len as u64;
        }
    }
    Ok((max_seen, max_synced))
}

impl State<'_> {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Insert { hash, location, extent_units } => {
                self.insert(hash, location);
                self.reach(location, extent_units);
            }
            Record::Move { hash, from, to, extent_units } => {
                if self.index.find(hash).is_some_and(|now| now.same_place(from)) {
                    self.insert(hash, to);
                }
                self.reach(to, extent_units);
            }
            Record::Remove { hash } => drop(self.index.remove(hash)),
            Record::SegmentOpen { seq, first_region, regions, class } => {
                self.open(seq, first_region, regions, class);
            }
            Record::SegmentFree { seq, first_region } => {
                if self.map.segment(first_region).is_some_and(|segment| segment.seq == seq) {
                    self.map.free(first_region);
                }
                self.map.skip_seq_to(seq + 1);
            }
            Record::Purge(rule) => {
                // The checkpoint may hold it already: it is fuzzy.
                let purges = &mut self.purges;
                purges.generation = purges.generation.max(rule.generation);
                if !purges.rules.iter().any(|known| known.generation == rule.generation) {
                    purges.rules.push(rule);
                }
            }
        }
    }

    fn insert(&self, hash: u64, location: Location) {
        self.index.insert(hash, location, |old| !self.map.holds(old));
    }

    fn open(&mut self, seq: u64, first: u32, regions: u32, class: u8) {
        let known = self.map.segment(first).filter(|segment| segment.seq == seq);
        let (age, cursor) =
            known.map_or((seq, self.map.region_offset(first)), |known| (known.age, known.cursor));
        // A checkpoint that was taken after this record may know the segment longer than the record does ...
        let regions = known.map_or(regions, |known| known.regions.max(regions));
        // ... or know a younger segment in its place.
        let younger = self.map.leaders_in(first..first.saturating_add(regions));
        if younger
            .iter()
            .filter_map(|leader| self.map.segment(*leader))
            .any(|segment| segment.seq > seq)
        {
            return;
        }
        install(
            &mut self.map,
            self.layout,
            &SegmentEntry { first, regions, seq, age, cursor, kind: class, open: true },
        );
    }

    /// What is beyond the cursor of a segment is free: moves the cursor behind an extent.
    fn reach(&mut self, location: Location, units: u64) {
        let offset = location.unit() * UNIT_BYTES;
        let end = offset.saturating_add(units.saturating_mul(UNIT_BYTES));
        if let Some(segment) = self.map.segment_of_mut(location) {
            segment.cursor = segment.cursor.max(end);
        }
    }
}

/// Drops what leads into segments that are gone, and gives every segment the account of what it holds.
fn settle(state: State<'_>, journal: Resume, damage: Vec<String>) -> Recovered {
    let State { index, mut map, purges, .. } = state;
    for slot in 0..u32::try_from(index.slots()).unwrap_or(u32::MAX) {
        let Some((hash, location)) = index.at(slot) else { continue };
        match map.segment_of_mut(location) {
            Some(segment) => {
                segment.live_bytes += location.size_units() * UNIT_BYTES;
                segment.slots.push(slot);
            }
            None => drop(index.remove_if(hash, location)),
        }
    }
    map.resume(BLOCK_BYTES);
    map.skip_seq_to(map.next_seq() + SEQ_SKIP);
    Recovered { index, map, journal, purges, damage }
}
