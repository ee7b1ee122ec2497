//! The log on the disk: segments, written from their start to their end, one write and one flush a batch.
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use raft::prelude::Entry;

use super::header::{HEADER, MAX_SEGMENT, MIN_SEGMENT};
use super::prepare::{Maker, Prepared, Preparer, segment_name};
use super::record::{self, Frame, Kind, LAST, REPLACES};
use super::recover::{self, Found, Used};
use super::shape::Shape;
use super::volume::{Folder, SegmentFile, Volume, is_full, write_all, zero};
use super::{Batch, LogMark, LogOptions, LogStats, LogStore, Recovered, Synced};
use crate::error::ClusterError;

/// What the system caches at least as one; segments are a multiple of it.
const PAGE: usize = 4096;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// A Raft log in a folder of its own.
///
/// One thread owns it: every call that writes blocks until the disk has it. After a failed write or flush it answers
/// [`ClusterError::Poisoned`] for ever, since what is on the disk is not known any more.
#[derive(Debug)]
pub struct SegmentLog {
    // Before the volume, which holds the lock: the thread ends first.
    preparer: Preparer,
    volume: Arc<dyn Volume>,
    options: LogOptions,
    shape: Shape,
    /// Segments that are full, oldest first.
    older: VecDeque<Used>,
    /// The one that is written. None while none could be had.
    active: Option<Active>,
    /// The sum of the last record, and the number of the last batch.
    chain: u32,
    batch: u64,
    frame: Frame,
    stats: LogStats,
    poisoned: Option<String>,
}

#[derive(Debug)]
struct Active {
    used: Used,
    file: Box<dyn SegmentFile>,
    /// Where the next record goes.
    at: u64,
}

impl Active {
    fn new(prepared: Prepared) -> Self {
        let used = Used { header: prepared.header, top: 0 };
        Self { used, file: prepared.file, at: HEADER as u64 }
    }

    fn is_empty(&self) -> bool {
        self.at == HEADER as u64
    }
}

impl SegmentLog {
    /// Opens the log in the folder `path`, or makes one; nobody else can open it until this one is dropped.
    pub fn open(path: &Path, options: LogOptions) -> Result<(Self, Recovered), ClusterError> {
        Self::open_on(Arc::new(Folder::lock(path)?), options)
    }

    pub(super) fn open_on(
        volume: Arc<dyn Volume>,
        options: LogOptions,
    ) -> Result<(Self, Recovered), ClusterError> {
        let len = options.segment_bytes;
        if !(MIN_SEGMENT..=MAX_SEGMENT).contains(&len) {
            let what = format!(
                "a segment of the log is {MIN_SEGMENT} to {MAX_SEGMENT} bytes long, not {len}"
            );
            return Err(ClusterError::Config { what });
        }
        let len = len.next_multiple_of(MIN_SEGMENT);
        let found = recover::recover(&*volume, &options)?;
        if found.is_none() && options.must_exist {
            let reason = format!(
                "{} is empty, and this node had one; remove the node from the cluster and let it join again",
                volume.path("").display(),
            );
            return Err(ClusterError::Invalid { what: "the log", reason });
        }
        let next = found.as_ref().map_or(1, |found| found.next);
        let maker = Maker::new(Arc::clone(&volume), options.storage, len, next)?;
        let mut found = found.unwrap_or_else(Found::nothing);
        let active = Self::reopen(&*volume, &maker, &mut found)?;
        let mut log = Self {
            preparer: Preparer::start(maker)?,
            volume,
            options: LogOptions { segment_bytes: len, ..options },
            shape: found.shape,
            older: found.used.into(),
            active: Some(active),
            chain: found.chain,
            batch: found.batch,
            frame: Frame::default(),
            stats: LogStats::default(),
            poisoned: None,
        };
        log.preparer.order();
        Ok((log, found.recovered))
    }

    /// The segment to be written on. What a batch under way left behind is gone from it, and from all others.
    fn reopen(
        volume: &dyn Volume,
        maker: &Maker,
        found: &mut Found,
    ) -> Result<Active, ClusterError> {
        let mut unused = std::mem::take(&mut found.unused).into_iter();
        let used = match found.used.pop() {
            Some(used) => used,
            None => match unused.next() {
                Some(header) => Used { header, top: 0 },
                None => return Ok(Active::new(maker.make_usual()?)),
            },
        };
        for header in unused {
            maker.retire(&header)?;
        }
        let name = segment_name(used.header.generation);
        let file = volume.open(&name).map_err(ClusterError::file("open", volume.path(&name)))?;
        if found.dirty {
            let wiped = zero(&*file, found.at, used.header.len);
            wiped.map_err(ClusterError::file("clear the end of", volume.path(&name)))?;
        }
        file.forget();
        Ok(Active { used, file, at: found.at })
    }

    /// Waits until the next segment stands ready.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        self.preparer.settle();
    }

    fn usable(&self) -> Result<(), ClusterError> {
        match &self.poisoned {
            Some(first) => Err(ClusterError::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    /// Nothing is written from here on.
    fn poison(&mut self, act: &str, name: &str, error: &io::Error) -> ClusterError {
        let first = format!("cannot {act} {}: {error}", self.volume.path(name).display());
        self.poison_with(first)
    }

    fn poison_with(&mut self, first: String) -> ClusterError {
        self.stats.poisoned = true;
        ClusterError::Poisoned { first: self.poisoned.insert(first).clone() }
    }

    /// Bytes of the records that begin a segment: a log can do without the segments before it, if its entries can.
    fn opening(&self) -> usize {
        let state =
            self.shape.hard_state.as_ref().map_or(0, |_| record::padded(record::HARD_STATE_LEN));
        let mark = self
            .shape
            .mark
            .as_ref()
            .map_or(0, |mark| record::padded(record::mark_payload(mark).len()));
        record::padded(0) + state + mark
    }

    /// Bytes of a batch's own records.
    fn measure(&self, batch: &Batch<'_>) -> usize {
        let mut len = 0;
        let mut last = self.shape.last();
        if let Some(mark) = batch.snapshot {
            len += record::padded(record::mark_payload(mark).len());
            if self.shape.is_replaced_by(mark) {
                last = mark.index;
            }
        }
        for entry in batch.entries {
            if entry.index <= last {
                len += record::padded(0);
            }
            last = entry.index;
            len += record::padded(record::entry_len(entry));
        }
        len + batch.hard_state.map_or(0, |_| record::padded(record::HARD_STATE_LEN))
    }

    /// A segment with room for `len` bytes of records: a batch never lies in two, so that one flush is enough.
    fn make_room(&mut self, len: usize) -> Result<(), ClusterError> {
        let opening = self.opening();
        let full = (HEADER + opening + len) as u64;
        let empty = self.active.as_ref().is_some_and(Active::is_empty);
        let need = if empty { opening + len } else { len } as u64;
        if self.active.as_ref().is_some_and(|active| active.used.header.len - active.at >= need) {
            return Ok(());
        }
        if full > MAX_SEGMENT {
            let reason = format!("its {len} bytes do not fit into a segment of {MAX_SEGMENT}");
            return Err(ClusterError::Invalid { what: "a batch for the log", reason });
        }
        // One that holds nothing must not stay behind in the order.
        let prepared = if empty || full > self.options.segment_bytes {
            self.large(full)?
        } else {
            self.usual()?
        };
        if let Some(active) = self.active.take() {
            self.older.push_back(active.used);
        }
        self.stats.rolled += 1;
        self.stats.recycled += u64::from(prepared.header.recycled);
        self.active = Some(Active::new(prepared));
        self.preparer.order();
        Ok(())
    }

    fn usual(&mut self) -> Result<Prepared, ClusterError> {
        let (mut made, mut waited) = self.preparer.take();
        if made.is_err() && !waited {
            // It failed when it was made ahead, which may be long ago: the disk may have room again.
            (made, waited) = self.preparer.take();
        }
        self.stats.waited += u64::from(waited);
        made
    }

    /// A segment longer than usual, in place of those that stand ready but hold nothing.
    fn large(&mut self, len: u64) -> Result<Prepared, ClusterError> {
        let ready = self.usual()?;
        let empty = self.active.take_if(|active| active.is_empty());
        let headers = [Some(ready.header), empty.map(|active| active.used.header)];
        for header in headers.into_iter().flatten() {
            if let Err(error) = self.preparer.maker().withdraw(&header) {
                // It would lie between those that hold something.
                return Err(self.poison_with(error.to_string()));
            }
        }
        let len = len.max(self.options.segment_bytes);
        self.preparer.maker().make(len.next_multiple_of(MIN_SEGMENT))
    }

    /// Puts the batch's records into the frame.
    fn frame(&mut self, batch: &Batch<'_>) {
        let Self { frame, active, shape, .. } = self;
        let Some(active) = active else { return };
        frame.begin(active.used.header.salt, active.at, self.batch.saturating_add(1), self.chain);
        if active.is_empty() {
            frame.plain(Kind::Start, 0, shape.last_term(), shape.last(), &[]);
            if let Some(state) = &shape.hard_state {
                frame.hard_state(0, state);
            }
            if let Some(mark) = &shape.mark {
                frame.plain(Kind::Mark, 0, mark.term, mark.index, &record::mark_payload(mark));
            }
        }
        let last_if = |last: bool| if last { LAST } else { 0 };
        let mut last_index = shape.last();
        if let Some(mark) = batch.snapshot {
            let mut flags = last_if(batch.entries.is_empty() && batch.hard_state.is_none());
            if shape.is_replaced_by(mark) {
                flags |= REPLACES;
                last_index = mark.index;
            }
            frame.plain(Kind::Mark, flags, mark.term, mark.index, &record::mark_payload(mark));
        }
        for (n, entry) in batch.entries.iter().enumerate() {
            if entry.index <= last_index {
                frame.plain(Kind::Truncate, 0, entry.term, entry.index, &[]);
            }
            last_index = entry.index;
            let last = n + 1 == batch.entries.len() && batch.hard_state.is_none();
            frame.entry(last_if(last), entry);
        }
        if let Some(state) = batch.hard_state {
            frame.hard_state(LAST, state);
        }
    }

    /// Writes the frame, with the entries' bytes from where they lie, and flushes it.
    fn write(&mut self, entries: &[Entry]) -> Result<(), ClusterError> {
        let Some(active) = &self.active else {
            return Err(self.poison_with("there is no segment to write to".to_owned()));
        };
        let name = segment_name(active.used.header.generation);
        let mut parts = thread(&self.frame, entries);
        let end = active.at + self.frame.len() as u64;
        // Pages are written whole, so that none is read before.
        let rest = usize::try_from(end.next_multiple_of(PAGE as u64) - end).unwrap_or(0);
        parts.push(IoSlice::new(&ZEROS[..rest]));
        let written = write_all(&*active.file, &mut parts, active.at);
        match written {
            Ok(calls) => self.stats.writes += calls,
            // Nothing changed, and there may be room later.
            Err((0, error)) if is_full(&error) => {
                return Err(ClusterError::file("write to", self.volume.path(&name))(error));
            }
            Err((_, error)) => return Err(self.poison("write to", &name, &error)),
        }
        self.stats.syncs += 1;
        if let Err(error) = active.file.sync_data() {
            return Err(self.poison("flush", &name, &error));
        }
        Ok(())
    }

    /// Takes over what is on the disk now. Whether it replaced the whole log.
    fn accept(&mut self, batch: &Batch<'_>) -> bool {
        self.stats.batches += 1;
        self.stats.entries += batch.entries.len() as u64;
        self.stats.payload_bytes += self.frame.threaded as u64;
        self.stats.file_bytes += self.frame.len() as u64;
        self.chain = self.frame.chain();
        self.batch += 1;
        let replaced = batch.snapshot.is_some_and(|mark| self.shape.is_replaced_by(mark));
        let first = batch.entries.iter().map(|entry| entry.index).min();
        let void_from = if replaced { Some(0) } else { first };
        self.shape.accept(batch);
        let last = self.shape.last();
        if let Some(active) = &mut self.active {
            active.at += self.frame.len() as u64;
            if let Some(from) = void_from {
                let older = self.older.iter_mut().map(|used| &mut used.top);
                recover::void(older.chain([&mut active.used.top]), from);
            }
            if !batch.entries.is_empty() {
                active.used.top = last;
            }
        }
        replaced
    }

    /// Puts segments away of which nothing is needed any more.
    fn drop_behind(&mut self, index: u64) {
        // The newest segment with records holds hard state and mark.
        let keep = usize::from(self.active.as_ref().is_none_or(Active::is_empty));
        while self.older.len() > keep
            && self
                .older
                .front()
                .is_some_and(|used| used.top <= index && self.preparer.retire(used.header))
        {
            self.older.pop_front();
        }
    }
}

impl LogStore for SegmentLog {
    fn append(&mut self, batch: Batch<'_>) -> Result<Synced, ClusterError> {
        self.usable()?;
        self.shape.check(&batch)?;
        if !batch.is_empty() {
            self.make_room(self.measure(&batch))?;
            self.frame(&batch);
            self.write(batch.entries)?;
            if self.accept(&batch) {
                self.drop_behind(self.shape.base());
            }
        }
        Ok(Synced::through(self.shape.last()))
    }

    fn compact(&mut self, mark: &LogMark) -> Result<(), ClusterError> {
        self.usable()?;
        let settled = self.shape.mark.as_ref().map_or(0, |mark| mark.index);
        if mark.index > settled {
            if self.shape.is_replaced_by(mark) {
                let reason = format!(
                    "entry {} of term {} is not in it, so nothing before it can go",
                    mark.index, mark.term
                );
                return Err(ClusterError::Invalid { what: "a mark to cut the log at", reason });
            }
            let _synced = self.append(Batch { snapshot: Some(mark), ..Batch::default() })?;
        }
        self.drop_behind(mark.index);
        Ok(())
    }

    fn stats(&self) -> LogStats {
        let active = self.active.as_ref().is_some_and(|active| !active.is_empty());
        LogStats { segments: self.older.len() as u64 + u64::from(active), ..self.stats }
    }
}

/// Heads, and the bytes of entries where they belong between them.
fn thread<'a>(frame: &'a Frame, entries: &'a [Entry]) -> Vec<IoSlice<'a>> {
    let mut parts = Vec::with_capacity(3 * frame.cuts.len() + 1);
    let with_bytes =
        entries.iter().filter(|entry| !entry.data.is_empty() || !entry.context.is_empty());
    let mut from = 0;
    for (entry, cut) in with_bytes.zip(&frame.cuts) {
        parts.push(IoSlice::new(&frame.heads[from..*cut]));
        from = *cut;
        let bytes = [&entry.data, &entry.context];
        parts.extend(
            bytes.into_iter().filter(|bytes| !bytes.is_empty()).map(|bytes| IoSlice::new(bytes)),
        );
    }
    parts.push(IoSlice::new(&frame.heads[from..]));
    parts
}
