//! What a log holds after whatever happened to it.
//!
//! Records are believed while each follows on the one before. Batches are flushed one after the other: so the first record
//! that does not follow is either of the batch that was under way when the node stopped, and all of that batch is cut off, or
//! something of a later batch is whole behind it; then what was flushed is damaged, and nothing is guessed.
use std::collections::VecDeque;

use raft::prelude::Entry;

use super::header::{HEADER, Header};
use super::prepare::{generation_of, segment_name};
use super::record::{self, ALIGN, Kind, Op, View};
use super::shape::Shape;
use super::volume::Volume;
use super::{LogOptions, Recovered};
use crate::error::ClusterError;

/// A stretch of a segment that nothing was written to.
const UNWRITTEN: [u8; 4096] = [0; 4096];

/// A segment with records.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) header: Header,
    /// The highest entry in it that is not void.
    pub(super) top: u64,
}

/// What recovery found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) recovered: Recovered,
    pub(super) shape: Shape,
    /// In order; the last one is to be written on, from `at`.
    pub(super) used: Vec<Used>,
    pub(super) at: u64,
    /// Whether what an unfinished batch left has to be overwritten behind `at`.
    pub(super) dirty: bool,
    /// Segments behind the last one with records.
    pub(super) unused: Vec<Header>,
    pub(super) chain: u32,
    pub(super) batch: u64,
    /// The first generation that no segment has.
    pub(super) next: u64,
}

impl Found {
    /// A log in which nothing was ever written.
    pub(super) fn nothing() -> Self {
        Self {
            recovered: Recovered::default(),
            shape: Shape::default(),
            used: Vec::new(),
            at: HEADER as u64,
            dirty: false,
            unused: Vec::new(),
            chain: 0,
            batch: 0,
            next: 1,
        }
    }
}

/// The generations of the segments that there are, in order.
pub(super) fn generations(volume: &dyn Volume) -> Result<Vec<u64>, ClusterError> {
    let names = volume.list().map_err(ClusterError::file("list", volume.path("")))?;
    let mut generations: Vec<u64> = names.iter().filter_map(|name| generation_of(name)).collect();
    generations.sort_unstable();
    Ok(generations)
}

/// Reads the log. `None`: there is none.
pub(super) fn recover(
    volume: &dyn Volume,
    options: &LogOptions,
) -> Result<Option<Found>, ClusterError> {
    let generations = generations(volume)?;
    let Some(newest) = generations.last() else { return Ok(None) };
    let next = newest
        .checked_add(1)
        .ok_or_else(|| corrupt(volume, *newest, 0, "no generation follows"))?;
    let mut walk = Walk::new(volume);
    let mut unused = Vec::new();
    for generation in generations {
        let name = segment_name(generation);
        let path = volume.path(&name);
        let data = volume.read(&name).map_err(ClusterError::file("read", &path))?;
        let header = Header::read(&data, &path, generation, options.storage)?;
        if walk.ended {
            walk.search(&data, HEADER, &header)?;
            unused.push(header);
        } else if !walk.segment(&data, header)? {
            unused.push(header);
        }
    }
    walk.found(unused, next).map(Some)
}

fn corrupt(volume: &dyn Volume, generation: u64, at: usize, reason: &str) -> ClusterError {
    let path = volume.path(&segment_name(generation));
    ClusterError::Corrupt { path, offset: at as u64, reason: reason.to_owned() }
}

struct Walk<'a> {
    volume: &'a dyn Volume,
    log: Replay,
    used: Vec<Used>,
    /// Where the last whole batch ends, in the last segment of `used`; its last record's sum; its number.
    at: usize,
    chain: u32,
    batch: u64,
    /// A record did not follow: generation and place.
    ended: bool,
    broken: (u64, usize),
    torn: u64,
    dirty: bool,
}

impl<'a> Walk<'a> {
    fn new(volume: &'a dyn Volume) -> Self {
        Self {
            volume,
            log: Replay::default(),
            used: Vec::new(),
            at: HEADER,
            chain: 0,
            batch: 0,
            ended: false,
            broken: (0, 0),
            torn: 0,
            dirty: false,
        }
    }

    /// Takes in what follows in a segment; `false`: no whole batch is in it.
    fn segment(&mut self, data: &[u8], header: Header) -> Result<bool, ClusterError> {
        let mut chain = self.chain;
        let mut staged: Vec<Op> = Vec::new();
        let (mut at, mut end) = (HEADER, HEADER);
        while let Some(view) = record::read(data, at, header.salt) {
            if at == HEADER && self.used.is_empty() && view.head.kind == Kind::Start {
                // The oldest segment says itself what it follows on.
                chain = view.head.prev;
                self.batch = view.head.batch.saturating_sub(1);
            }
            if !self.follows(&view, chain, at) {
                break;
            }
            let Some(op) = view.op() else {
                return Err(corrupt(
                    self.volume,
                    header.generation,
                    at,
                    "a record of no known meaning",
                ));
            };
            staged.push(op);
            (at, chain) = (view.end, view.sum);
            if view.is_last() {
                if end == HEADER {
                    self.used.push(Used { header, top: 0 });
                }
                for op in staged.drain(..) {
                    let applied = self.log.apply(op, &mut self.used);
                    applied
                        .map_err(|reason| corrupt(self.volume, header.generation, end, &reason))?;
                }
                (end, self.at, self.chain, self.batch) = (at, at, chain, view.head.batch);
            }
        }
        let used = end > HEADER;
        if used || self.used.is_empty() {
            self.broken = (header.generation, at);
        }
        // A segment is left when a batch does not fit any more: so its end may be the log's, and may not.
        let records = (at - end) as u64 + self.search(data, at, &header)?;
        self.ended = records > 0 || !used;
        let mut torn = records;
        if !header.recycled && records == (at - end) as u64 {
            // What is left of a record that did not get whole. In a recycled segment older records lie there.
            let written = data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            torn += written.saturating_sub(at) as u64;
        }
        if used {
            (self.torn, self.dirty) = (torn, torn > 0);
        } else {
            self.torn += torn;
        }
        Ok(end > HEADER)
    }

    fn follows(&self, view: &View<'_>, chain: u32, at: usize) -> bool {
        let head = view.head;
        head.prev == chain
            && Some(head.batch) == self.batch.checked_add(1)
            && (head.kind == Kind::Start) == (at == HEADER)
    }

    /// Looks for records from `from` on, where none may be but those of the batch that was under way. How far they reach.
    fn search(&mut self, data: &[u8], from: usize, header: &Header) -> Result<u64, ClusterError> {
        let under_way = self.batch.checked_add(1);
        let mut at = from;
        let mut reach = 0;
        while at < data.len() {
            // What was never written is most of a segment, and holds no record: none has kind 0.
            if data[at..].first_chunk() == Some(&UNWRITTEN) {
                at += UNWRITTEN.len();
                continue;
            }
            let Some(view) = record::read(data, at, header.salt) else {
                at += ALIGN;
                continue;
            };
            if Some(view.head.batch) != under_way {
                let (generation, broken) = self.broken;
                let later = self.volume.path(&segment_name(header.generation));
                let reason = format!(
                    "a record that was flushed is not what it was, for a later one is whole (at byte {at} of {})",
                    later.display(),
                );
                return Err(corrupt(self.volume, generation, broken, &reason));
            }
            at = view.end;
            reach = at - from;
        }
        Ok(reach as u64)
    }

    fn found(self, unused: Vec<Header>, next: u64) -> Result<Found, ClusterError> {
        let oldest = self.used.first().map(|used| &used.header).or(unused.first());
        let first = oldest.map_or(0, |header| header.generation);
        // Segments before it were dropped: so something was flushed into it.
        if self.used.is_empty() && first > 1 {
            return Err(corrupt(self.volume, first, HEADER, "the first record of the log is gone"));
        }
        let (shape, entries) =
            self.log.finish().map_err(|reason| corrupt(self.volume, first, HEADER, &reason))?;
        let recovered = Recovered {
            hard_state: shape.hard_state.clone().unwrap_or_default(),
            snapshot: shape.mark.clone(),
            entries: entries.into(),
            torn_bytes: self.torn,
        };
        Ok(Found {
            recovered,
            shape,
            used: self.used,
            at: self.at as u64,
            dirty: self.dirty,
            unused,
            chain: self.chain,
            batch: self.batch,
            next,
        })
    }
}

/// The records' meaning, in order.
#[derive(Default)]
struct Replay {
    shape: Option<Shape>,
    entries: VecDeque<Entry>,
}

impl Replay {
    fn apply(&mut self, op: Op, used: &mut [Used]) -> Result<(), String> {
        let Some(shape) = &mut self.shape else {
            let Op::Start { term, index } = op else {
                return Err("the log has no beginning".to_owned());
            };
            self.shape = Some(Shape::starting(index, term));
            return Ok(());
        };
        match op {
            Op::Start { index, .. } if index != shape.last() => {
                return Err(format!(
                    "a segment begins behind entry {index}, and the log ends with {}",
                    shape.last()
                ));
            }
            Op::Start { .. } => {}
            Op::HardState(state) => shape.hard_state = Some(state),
            Op::Entry(entry) => {
                if Some(entry.index) != shape.last().checked_add(1) {
                    return Err(format!("entry {} follows on entry {}", entry.index, shape.last()));
                }
                if let Some(used) = used.last_mut() {
                    used.top = entry.index;
                }
                shape.push(entry.term);
                self.entries.push_back(entry);
            }
            Op::Truncate { from } => {
                let settled = shape.mark.as_ref().map_or(0, |mark| mark.index);
                if from <= settled || from > shape.last() {
                    return Err(format!(
                        "entries from {from} on are void, and {settled} is settled"
                    ));
                }
                let gone = shape.last() - from + 1;
                let left =
                    self.entries.len().saturating_sub(usize::try_from(gone).unwrap_or(usize::MAX));
                self.entries.truncate(left);
                shape.truncate(from);
                void(used.iter_mut().map(|used| &mut used.top), from);
            }
            Op::Mark { mark, replaces } => {
                if !replaces && mark.index > shape.last() {
                    return Err(format!(
                        "the mark at {} is beyond entry {}",
                        mark.index,
                        shape.last()
                    ));
                }
                if replaces {
                    self.entries.clear();
                    void(used.iter_mut().map(|used| &mut used.top), 0);
                }
                shape.set_mark(&mark, replaces);
                while self.entries.front().is_some_and(|entry| entry.index <= mark.index) {
                    self.entries.pop_front();
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(Shape, VecDeque<Entry>), String> {
        let shape = self.shape.unwrap_or_default();
        let settled = shape.mark.as_ref().map_or(0, |mark| mark.index);
        if settled < shape.base() {
            return Err(format!(
                "entries {} to {} are gone, and nothing stands for them",
                settled + 1,
                shape.base()
            ));
        }
        let commit = shape.hard_state.as_ref().map_or(0, |state| state.commit);
        if commit > shape.last() {
            return Err(format!(
                "entries through {commit} were committed, and the log ends with {}",
                shape.last()
            ));
        }
        Ok((shape, self.entries))
    }
}

/// Entries from `from` on do not keep their segments any more.
pub(super) fn void<'a>(tops: impl Iterator<Item = &'a mut u64>, from: u64) {
    for top in tops {
        *top = (*top).min(from.saturating_sub(1));
    }
}
