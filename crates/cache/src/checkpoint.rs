//! Writes checkpoints: alternately into two slots, while the cache goes on working.
//!
//! The dump is fuzzy: it notes where the journal stands, then copies the index slot by slot while changes go on.
//! Replaying the journal from the noted block over the copy gives the right index, because the last change to a key
//! decides and every change since is in the journal.
use std::io;
use std::time::Duration;

use crate::core::{BLOCK_BYTES, Core};
use crate::format::checkpoint::{
    Head, SegmentEntry, encode_entries, encode_rules, encode_segments, rule_runs,
};
use crate::format::layout::{SEGMENTS_PER_PAGE, SLOTS_PER_PAGE};
use crate::format::location::Location;

/// The longest time between two checkpoints while anything changes.
const INTERVAL: Duration = Duration::from_mins(1);

/// How soon one that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// The checkpoint thread: returns once the journal is stopped.
pub(crate) fn run(core: &Core) {
    let mut pause = INTERVAL;
    while core.committer.journal.wait_until_wanted(pause) {
        pause = INTERVAL;
        // Purges that are swept are forgotten by a checkpoint, even if nothing was journaled since the last one.
        let wanted = core.committer.journal.is_behind() || !core.rules.swept().is_empty();
        if wanted && let Err(error) = write(core) {
            pause = AGAIN;
            core.counters.io_errors.add(1);
            tracing::error!(%error, "a checkpoint could not be written; the journal keeps what it would hold");
        }
    }
}

/// Writes one checkpoint into the slot of the older one.
pub(crate) fn write(core: &Core) -> io::Result<()> {
    let journal = &core.committer.journal;
    let number = journal.next_checkpoint();
    let start = journal.head();
    let swept = core.rules.swept();
    let (generation, rules) = core.rules.snapshot();
    let base = core.layout.checkpoint[usize::from(!number.is_multiple_of(2))];
    let mut dump = Dump { core, base, page: 0, number };
    let (segments, next_seq) = segments(core);
    let count = u32::try_from(segments.len()).unwrap_or(u32::MAX);
    for page in segments.chunks(usize_of(SEGMENTS_PER_PAGE)) {
        dump.put(|number, page_no| encode_segments(number, page_no, page))?;
    }
    let runs = rule_runs(&rules);
    for run in &runs {
        dump.put(|number, page_no| encode_rules(number, page_no, run))?;
    }
    let entries = dump.put_index()?;
    core.device.sync()?;
    let head = Head {
        epoch: journal.epoch,
        number,
        journal_start: start,
        next_seq,
        segments: count,
        entries,
        generation,
        rule_pages: u32::try_from(runs.len()).unwrap_or(u32::MAX),
    };
    write_block(core, &head.encode(), base)?;
    core.device.sync()?;
    journal.checkpointed(number, start);
    core.rules.forget(&swept);
    core.counters.checkpoints.add(1);
    Ok(())
}

fn segments(core: &Core) -> (Vec<SegmentEntry>, u64) {
    let space = core.space.lock();
    let entry = |segment: &crate::segment::space::Segment| SegmentEntry {
        first: segment.first,
        regions: segment.regions,
        seq: segment.seq,
        age: segment.age,
        cursor: segment.cursor,
        kind: segment.kind.code(),
        open: segment.open,
    };
    // A segment that is being emptied may have its freeing journaled already: recovery must not see it come back.
    let kept = space.map.segments().filter(|segment| !segment.draining);
    (kept.map(entry).collect(), space.map.next_seq())
}

struct Dump<'a> {
    core: &'a Core,
    base: u64,
    page: u64,
    number: u64,
}

impl Dump<'_> {
    fn put(
        &mut self,
        encode: impl Fn(u64, u64) -> [u8; crate::format::BLOCK_BYTES],
    ) -> io::Result<()> {
        let block = encode(self.number, self.page);
        self.page += 1;
        if self.page >= u64::from(self.core.layout.checkpoint_blocks) {
            return Err(io::Error::other("the checkpoint area is too small for the index"));
        }
        write_block(self.core, &block, self.base + self.page * BLOCK_BYTES)
    }

    fn put_index(&mut self) -> io::Result<u64> {
        let core = self.core;
        let mut entries: Vec<(u64, Location)> = Vec::with_capacity(usize_of(SLOTS_PER_PAGE));
        let mut total = 0;
        for slot in 0..u32::try_from(core.index.slots()).unwrap_or(u32::MAX) {
            entries.extend(core.index.at(slot).filter(|(_, location)| !core.is_stale(*location)));
            if entries.len() == usize_of(SLOTS_PER_PAGE) {
                self.put(|number, page| encode_entries(number, page, &entries))?;
                total += entries.len() as u64;
                entries.clear();
            }
        }
        if !entries.is_empty() {
            self.put(|number, page| encode_entries(number, page, &entries))?;
            total += entries.len() as u64;
        }
        Ok(total)
    }
}

fn write_block(
    core: &Core,
    block: &[u8; crate::format::BLOCK_BYTES],
    offset: u64,
) -> io::Result<()> {
    let mut buffer = core.journal_block()?;
    buffer.set_len(block.len()).map_err(io::Error::other)?;
    buffer.copy_from_slice(block);
    core.device.write_at(&buffer, offset)
}

fn usize_of(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
