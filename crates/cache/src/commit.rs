//! The order of truth: one thread that journals every change to the index, then makes it visible, then answers.
//!
//! Changes that arrive together share journal blocks and one flush. A change that could bring back older bytes if it
//! were lost (a removal, an overwrite, the freeing of a segment) is flushed to the medium before it is visible; a new
//! key is not, since losing it is a miss. Because this thread alone inserts into the index, and in journal order,
//! replaying the journal rebuilds the index.
//!
//! An entry that the full index displaced is journaled as removed in the next batch, without a flush of its own; but a
//! key that is stored again before that record is flushed takes it along, or the displaced bytes could come back.
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::core::{Core, Held};
use crate::error::CacheError;
use crate::format::journal::{BLOCK_BYTES, BlockBuilder, Record};
use crate::format::location::Location;
use crate::format::rule::Rule;
use crate::journal::Journal;
use crate::meta::Entry;
use crate::purge::{Tally, Upload};
use crate::recover::Resume;
use crate::segment::space::Opened;

/// What must hold of the key's current extent for an insert to take effect.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Current {
    Any,
    Is(Option<Location>),
}

/// What became of a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    /// Whether it took effect.
    pub(crate) applied: bool,
    /// What the index held before.
    pub(crate) previous: Option<Location>,
}

/// Where the outcome of a change is sent.
pub(crate) type Reply = oneshot::Sender<Result<Committed, CacheError>>;

/// A change to the index.
#[derive(Debug)]
pub(crate) enum Change {
    /// The upload is over once this is decided: a purge looks out for it until then.
    Insert {
        entry: Arc<Entry>,
        current: Current,
        upload: Upload,
    },
    Move {
        hash: u64,
        from: Location,
        to: Location,
        units: u64,
    },
    Remove {
        hash: u64,
        current: Current,
        why: Why,
    },
    Free {
        seq: u64,
        first: u32,
    },
    /// Its generation is given by the committer.
    Purge {
        rule: Rule,
        tally: Arc<Tally>,
    },
}

/// Why an object is to leave the index. What was asked for is flushed, and told and counted when it is done: were that
/// left to who asked, a later store of the key could be told first, and nothing at all if nobody waits for the answer.
#[derive(Debug)]
pub(crate) enum Why {
    /// A purge that is durable and was told covers it.
    Swept,
    /// Nobody asks for it any more: neither flushed nor told.
    Discarded,
    /// Somebody removes the key; `live`: an object that could be read was seen.
    Removed { key: String, live: bool },
    /// Somebody purges the key.
    Purged { key: String, live: bool },
}

struct Op {
    change: Change,
    reply: Reply,
    /// Keeps the new extent's segment from being reclaimed until the index points to it.
    held: Option<Held>,
}

/// Where changes are handed in.
#[derive(Debug)]
pub(crate) struct Committer {
    sender: Mutex<Option<Sender<Op>>>,
    permits: Semaphore,
    pub(crate) journal: Journal,
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.change.fmt(f)
    }
}

/// Changes that callers may have under way at once.
const MAX_CHANGES: usize = 1024;
/// Displaced hashes that may wait for a flush.
const MAX_UNFLUSHED: usize = 4096;
/// Changes that share a flush at the most.
const MAX_BATCH: usize = 512;

impl Committer {
    /// The handle, and the end that [`run`] drains.
    pub(crate) fn new(epoch: u64, resume: &Resume) -> (Self, CommitQueue) {
        // Twice the permits: the background threads hand in changes without taking one.
        let (sender, receiver) = crossbeam_channel::bounded(2 * MAX_CHANGES);
        let journal = Journal::new(epoch, resume);
        (
            Self {
                sender: Mutex::new(Some(sender)),
                permits: Semaphore::new(MAX_CHANGES),
                journal,
            },
            CommitQueue(receiver),
        )
    }

    /// Commits a change and waits until it is durable (where that matters) and visible.
    ///
    /// Not cancel safe in one sense: once handed in, the change happens even if nobody waits for the answer.
    pub(crate) async fn commit(
        &self,
        change: Change,
        held: Option<Held>,
    ) -> Result<Committed, CacheError> {
        let _permit = self.permits.acquire().await.map_err(|_| CacheError::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.hand_in(change, held, reply)?;
        answer.await.map_err(|_| CacheError::Closed)?
    }

    /// As [`Self::commit`] for several changes (64 at most), which share as few batches as can be; the first that failed
    /// is told.
    pub(crate) async fn commit_all(&self, changes: Vec<Change>) -> Result<(), CacheError> {
        let together = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        // All at once: several callers that take one after the other could wait for each other for ever.
        let _permits = self.permits.acquire_many(together).await.map_err(|_| CacheError::Closed)?;
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            let (reply, answer) = oneshot::channel();
            self.hand_in(change, None, reply)?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_| CacheError::Closed)??;
        }
        Ok(())
    }

    /// As [`Self::commit`], from a thread that may block.
    pub(crate) fn commit_blocking(
        &self,
        change: Change,
        held: Option<Held>,
    ) -> Result<Committed, CacheError> {
        let (reply, answer) = oneshot::channel();
        self.hand_in(change, held, reply)?;
        answer.blocking_recv().map_err(|_| CacheError::Closed)?
    }

    /// Ends the committer's thread once everything handed in is done.
    pub(crate) fn stop(&self) {
        self.sender.lock().take();
    }

    /// Hands in a change whose outcome goes to `reply`; may block while the queue is full.
    pub(crate) fn hand_in(
        &self,
        change: Change,
        held: Option<Held>,
        reply: Reply,
    ) -> Result<(), CacheError> {
        let sender = self.sender.lock().clone().ok_or(CacheError::Closed)?;
        sender.send(Op { change, reply, held }).map_err(|_| CacheError::Closed)
    }
}

/// The receiving end of the committer.
#[derive(Debug)]
pub(crate) struct CommitQueue(Receiver<Op>);

/// The committer's thread: returns when [`Committer::stop`] was called and the queue is empty.
pub(crate) fn run(core: &Core, queue: &CommitQueue) {
    let mut writer = match JournalWriter::new(core) {
        Ok(writer) => writer,
        Err(error) => return tracing::error!(%error, "no buffer to journal in"),
    };
    while let Ok(first) = queue.0.recv() {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(next) = queue.0.try_recv()
        {
            batch.push(next);
        }
        commit_batch(core, &mut writer, batch);
    }
}

fn commit_batch(core: &Core, writer: &mut JournalWriter, batch: Vec<Op>) {
    // Taken after the batch was received: the opening of every segment that the batch speaks of is among them.
    let opens = std::mem::take(&mut core.space.lock().opens);
    let mut decided =
        Decided { records: opens.iter().map(open_record).collect(), ..Decided::default() };
    // One that was stored again in the very batch that displaced it is there to stay.
    writer.displaced.retain(|hash| core.index.find(*hash).is_none());
    decided.records.extend(writer.displaced.iter().map(|hash| Record::Remove { hash: *hash }));
    writer.unflushed.extend(writer.displaced.iter().copied());
    decided.sync = writer.unflushed.len() > MAX_UNFLUSHED;
    for op in batch {
        decided.add(core, op, &writer.unflushed);
    }
    let head = match writer.write(core, &decided) {
        Ok(head) => head,
        Err(error) => {
            core.space.lock().opens.splice(0..0, opens);
            return refuse(core, decided, &error);
        }
    };
    writer.displaced.clear();
    let mut answers = Vec::with_capacity(decided.accepted.len());
    for (op, previous) in decided.accepted {
        writer.displaced.extend(core.apply(op.change, previous));
        drop(op.held);
        answers.push((op.reply, Committed { applied: true, previous }));
    }
    // Published once everything below it is applied: a checkpoint starts its replay here.
    core.committer.journal.applied_below(head);
    for (reply, committed) in answers {
        answer(reply, Ok(committed));
    }
}

fn refuse(core: &Core, decided: Decided, error: &io::Error) {
    tracing::error!(%error, "the journal could not be written; the changes are refused");
    for (op, _) in decided.accepted {
        let source = io::Error::new(error.kind(), error.to_string());
        answer(op.reply, Err(core.io_error("writing the journal", source)));
    }
}

fn answer(reply: Reply, result: Result<Committed, CacheError>) {
    // Nobody waiting any more is no reason to undo what is done.
    drop(reply.send(result));
}

/// A batch with each change judged against the state that the ones before it leave.
#[derive(Default)]
struct Decided {
    accepted: Vec<(Op, Option<Location>)>,
    records: Vec<Record>,
    overlay: HashMap<u64, Option<Location>>,
    /// Encoded lengths of the purges among them.
    purges: Vec<usize>,
    sync: bool,
}

impl Decided {
    fn add(&mut self, core: &Core, mut op: Op, unflushed: &HashSet<u64>) {
        let now = |overlay: &HashMap<u64, Option<Location>>, hash: u64| {
            overlay.get(&hash).copied().unwrap_or_else(|| core.index.find(hash))
        };
        let (record, previous, applied) = match &mut op.change {
            Change::Insert { entry, current, upload } => {
                let (hash, location) = (entry.hash, entry.location());
                let previous = now(&self.overlay, hash);
                let applied = matches(*current, previous);
                if applied && upload.is_purged() {
                    // Stored before the purge as far as anybody can tell: never entered, so that nothing can come back.
                    return answer(op.reply, Ok(Committed { applied, previous: None }));
                }
                if applied {
                    self.overlay.insert(hash, Some(location));
                    self.sync |= previous.is_some() || unflushed.contains(&hash);
                }
                (Record::Insert { hash, location, extent_units: entry.units() }, previous, applied)
            }
            Change::Move { hash, from, to, units } => {
                let previous = now(&self.overlay, *hash);
                let applied = previous.is_some_and(|p| p.same_place(*from));
                if applied {
                    self.overlay.insert(*hash, Some(*to));
                }
                (
                    Record::Move { hash: *hash, from: *from, to: *to, extent_units: *units },
                    previous,
                    applied,
                )
            }
            Change::Remove { hash, current, why } => {
                let previous = now(&self.overlay, *hash);
                let applied = matches(*current, previous);
                if applied {
                    self.overlay.insert(*hash, None);
                    self.sync |= !matches!(why, Why::Swept | Why::Discarded);
                    if matches!(why, Why::Purged { .. }) {
                        // What was committed before is removed here; what began before and comes later is not entered.
                        core.rules.purge_uploads(*hash);
                    }
                }
                // Journaled even when the index has nothing: an evicted extent may still be reachable after a crash.
                (Record::Remove { hash: *hash }, previous, applied)
            }
            Change::Free { seq, first } => {
                self.sync = true;
                (Record::SegmentFree { seq: *seq, first_region: *first }, None, true)
            }
            Change::Purge { rule, .. } => {
                let fits = core.rules.fits(rule, &self.purges);
                if fits {
                    self.purges.push(rule.encoded_len());
                    self.sync = true;
                    rule.generation = core.rules.generation() + self.purges.len() as u64;
                }
                (Record::Purge(rule.clone()), None, fits)
            }
        };
        if applied {
            self.records.push(record);
            self.accepted.push((op, previous));
        } else {
            answer(op.reply, Ok(Committed { applied: false, previous }));
        }
    }
}

fn matches(current: Current, previous: Option<Location>) -> bool {
    match (current, previous) {
        (Current::Any, _) | (Current::Is(None), None) => true,
        (Current::Is(Some(expected)), Some(actual)) => expected.same_place(actual),
        (Current::Is(_), _) => false,
    }
}

fn open_record(opened: &Opened) -> Record {
    Record::SegmentOpen {
        seq: opened.seq,
        first_region: opened.first,
        regions: opened.regions,
        class: opened.kind.code(),
    }
}

/// Writes blocks at the head of both copies of the ring.
struct JournalWriter {
    block: straightway_buffer::PooledBuffer,
    synced: u64,
    /// Hashes that the last batch displaced from the index: their removal is not journaled yet.
    displaced: Vec<u64>,
    /// Displaced hashes whose removal is journaled and not flushed.
    unflushed: HashSet<u64>,
}

impl JournalWriter {
    fn new(core: &Core) -> io::Result<Self> {
        let block = core.journal_block()?;
        Ok(Self { block, synced: 0, displaced: Vec::new(), unflushed: HashSet::new() })
    }

    /// Writes the records; the block after the last written one is the new head.
    fn write(&mut self, core: &Core, decided: &Decided) -> io::Result<u64> {
        let journal = &core.committer.journal;
        let ring = u64::from(core.layout.journal_blocks);
        let mut head = journal.head();
        let mut records = decided.records.iter().peekable();
        let mut written = 0;
        while records.peek().is_some() {
            journal.make_room(written + 1, ring)?;
            let mut builder = BlockBuilder::new(journal.epoch, head, self.synced);
            while let Some(record) = records.peek() {
                if !builder.push(record) {
                    break;
                }
                records.next();
            }
            self.write_block(core, builder, head % ring)?;
            head += 1;
            written += 1;
        }
        if decided.sync {
            core.device.sync()?;
            core.counters.journal_flushes.add(1);
            self.unflushed.clear();
            self.synced = head.saturating_sub(1);
        }
        Ok(head)
    }

    fn write_block(&mut self, core: &Core, builder: BlockBuilder, slot: u64) -> io::Result<()> {
        let block: &mut [u8; BLOCK_BYTES] =
            self.block.as_mut_capacity().first_chunk_mut().ok_or(io::ErrorKind::InvalidInput)?;
        builder.finish(block);
        for copy in core.layout.journal {
            core.device.write_at(&block[..], copy + slot * BLOCK_BYTES as u64)?;
        }
        Ok(())
    }
}
