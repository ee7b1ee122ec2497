//! Bytes that another member has: brought here once, however many ask, and served while they arrive.
//!
//! The first who asks reads what arrives. Whoever asks meanwhile waits a little for it to be stored here, and then has a passage of
//! its own until it is.
//!
//! What is brought here goes as fast as the two stores can. A reader that does not keep up is let go, and goes on from this
//! node's store when all is there, or by a passage of its own: it holds up neither the transfer nor whoever waits for its turn.
//! What is only passed through to a client has turns of its own, for a part of it at a time; a client that falls behind gives its
//! turn back until it has caught up.
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::{Cluster, Shared};
use crate::catalogue::Entry;
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};
use crate::net::TransferSort;
use crate::store::{ObjectInfo, ObjectSink, StoreError};

/// Chunks between the network and whoever reads them: 64 KiB each.
const CHUNKS: usize = 16;
/// Objects fetched at a time.
const MAX_FETCHES: usize = 256;
/// Readers at a time whose bytes only pass through.
const MAX_PASSING: usize = 256;
/// Beside them, readers that go past what is being brought here.
const MAX_SECOND: usize = 64;
/// How long a second reader waits for what is being brought here, before it is served past it.
const SECOND: Duration = Duration::from_secs(2);
/// A reader that takes nothing for so long is let go. It may come again.
const STALLED: Duration = Duration::from_secs(5);
/// A reader that takes nothing for so long gives its turn at a member back.
const BEHIND: Duration = Duration::from_millis(50);
/// Chunks for which it must have room before it takes another turn.
const ROOM: usize = CHUNKS / 2;
/// Bytes of a range that pass in one turn: a turn ends soon, however long the range is.
const PART: u64 = 4 << 20;

/// An object on its way here.
#[derive(Debug)]
pub enum Fetched {
    /// It is arriving.
    Arriving(Arriving),
    /// Somebody else had asked for it, and it is stored here now.
    Here,
}

/// Bytes that are arriving, in order.
#[derive(Debug)]
pub struct Arriving {
    chunks: mpsc::Receiver<Result<Bytes, ClusterError>>,
    /// `None`: they only pass through, and are not being stored either.
    ended: Option<watch::Receiver<Option<Ended>>>,
}

impl Arriving {
    /// The next bytes, or why there are none. `None`: no more come this way. Before all have come, that says that the reader was
    /// too slow, that there is no room for them here, or that all of them are here by now: see [`Arriving::stored`].
    pub async fn next(&mut self) -> Option<Result<Bytes, ClusterError>> {
        self.chunks.recv().await
    }

    /// As [`Arriving::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClusterError>>> {
        self.chunks.poll_recv(cx)
    }

    /// Waits until all is stored here, or is not going to be: then [`Cluster::fetch_range`] has the rest.
    pub async fn stored(&mut self) -> bool {
        match &mut self.ended {
            Some(ended) => Ended::of(ended).await == Ended::Stored,
            None => false,
        }
    }
}

/// How a fetch has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The object is here.
    Stored,
    /// There is no room for it here.
    NoRoom,
    /// It could not be had.
    Failed,
}

impl Ended {
    async fn of(watch: &mut watch::Receiver<Option<Self>>) -> Self {
        let ended = watch.wait_for(Option::is_some).await.ok().and_then(|ended| *ended);
        ended.unwrap_or(Self::Failed)
    }
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Fetches {
    here: Mutex<HashMap<ObjectId, watch::Receiver<Option<Ended>>>>,
    passing: Arc<Semaphore>,
    second: Arc<Semaphore>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self {
            here: Mutex::default(),
            passing: Arc::new(Semaphore::new(MAX_PASSING)),
            second: Arc::new(Semaphore::new(MAX_SECOND)),
        }
    }
}

impl Cluster {
    /// Brings an object here from the nearest member that has it. It is stored here whether or not its bytes are read.
    pub async fn fetch(&self, entry: &Arc<Entry>) -> Result<Fetched, ClusterError> {
        match self.0.begin_fetch(entry)? {
            Begun::Mine(arriving) => Ok(Fetched::Arriving(arriving)),
            Begun::Others(ended) => self.follow(entry, ended).await,
        }
    }

    /// Brings an object here that nobody reads meanwhile; `false`: it cannot be kept here.
    ///
    /// # Errors
    /// [`ClusterError::Refused`]: it cannot be had; [`ClusterError::Busy`].
    pub async fn bring(&self, entry: &Arc<Entry>) -> Result<bool, ClusterError> {
        self.0.bring(entry).await
    }

    /// Somebody else has asked for it before.
    async fn follow(
        &self,
        entry: &Arc<Entry>,
        mut ended: watch::Receiver<Option<Ended>>,
    ) -> Result<Fetched, ClusterError> {
        let how = if let Ok(how) = timeout(SECOND, Ended::of(&mut ended)).await {
            how
        } else if let Ok(turn) = self.0.fetches.second.clone().try_acquire_owned() {
            let passing = self.0.pass(entry, 0..entry.len, turn, Some(ended));
            return Ok(Fetched::Arriving(passing));
        } else {
            // So many pass that this one waits.
            Ended::of(&mut ended).await
        };
        match how {
            Ended::Stored => Ok(Fetched::Here),
            Ended::NoRoom => self.fetch_range(entry, 0..entry.len).map(Fetched::Arriving),
            Ended::Failed => Err(not_had(entry)),
        }
    }

    /// Fetches a part of an object for a client. It is not stored here.
    pub fn fetch_range(
        &self,
        entry: &Arc<Entry>,
        range: Range<u64>,
    ) -> Result<Arriving, ClusterError> {
        let turn = self.0.fetches.passing.clone().try_acquire_owned();
        let turn = turn.map_err(|_| ClusterError::Busy { what: "the queue of readers" })?;
        Ok(self.0.pass(entry, range, turn, None))
    }
}

enum Begun {
    Mine(Arriving),
    Others(watch::Receiver<Option<Ended>>),
}

impl Shared {
    /// Begins to bring an object here, unless that is under way.
    fn begin_fetch(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<Begun, ClusterError> {
        let (ended, watch) = watch::channel(None);
        {
            let mut under_way = self.fetches.here.lock();
            if let Some(watch) = under_way.get(&entry.object) {
                return Ok(Begun::Others(watch.clone()));
            }
            if under_way.len() >= MAX_FETCHES {
                return Err(ClusterError::Busy { what: "the queue of objects being fetched" });
            }
            under_way.insert(entry.object, watch.clone());
        }
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let under_way =
            UnderWay { shared: self.clone(), entry: entry.clone(), ended, how: Ended::Failed };
        let fetch = Fetch { under_way, reader: Some(sender), held: None, passed: false };
        self.runtime.spawn(fetch.run());
        Ok(Begun::Mine(Arriving { chunks, ended: Some(watch) }))
    }

    /// Passes a part of an object on, until it is `stored` here if that is under way.
    fn pass(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        range: Range<u64>,
        turn: OwnedSemaphorePermit,
        stored: Option<watch::Receiver<Option<Ended>>>,
    ) -> Arriving {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let (shared, entry) = (self.clone(), entry.clone());
        let passage = Passage { shared, entry, range, sender, stored: stored.clone() };
        self.runtime.spawn(passage.run(turn));
        Arriving { chunks, ended: stored }
    }

    /// As [`Cluster::bring`].
    async fn bring(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<bool, ClusterError> {
        let ended = match self.begin_fetch(entry)? {
            Begun::Mine(arriving) => arriving.ended,
            Begun::Others(ended) => Some(ended),
        };
        let Some(mut ended) = ended else { return Ok(false) };
        match Ended::of(&mut ended).await {
            Ended::Stored => Ok(true),
            Ended::NoRoom => Ok(false),
            Ended::Failed => Err(not_had(entry)),
        }
    }
}

/// A fetch in the list of those under way. However it ends, it leaves the list, and those who wait for it hear of it.
struct UnderWay {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    ended: watch::Sender<Option<Ended>>,
    how: Ended,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.fetches.here.lock().remove(&self.entry.object);
        self.ended.send_replace(Some(self.how));
    }
}

struct Fetch {
    under_way: UnderWay,
    /// `None`: it was too slow, or has gone. The object is still worth having.
    reader: Option<mpsc::Sender<Result<Bytes, ClusterError>>>,
    /// The newest bytes. The last ones are kept back until all are known to be right: its reader gets no whole body of wrong ones.
    held: Option<Bytes>,
    /// Whether the reader has any.
    passed: bool,
}

impl Fetch {
    async fn run(mut self) {
        let brought = self.bring().await;
        let UnderWay { shared, entry, how, .. } = &mut self.under_way;
        match brought {
            Ok(()) => {
                *how = Ended::Stored;
                shared.holdings.gained(shared.id, entry.object);
                // Removed while it was on its way.
                shared.forget_unless_known(vec![entry.object]).await;
            }
            Err(NotBrought::NoRoom) => *how = Ended::NoRoom,
            Err(NotBrought::Failed(error)) => {
                tracing::debug!(key = %entry.key, %error, "an object could not be fetched");
                // A reader that is behind tries for itself.
                if let Some(reader) = &self.reader {
                    let _ = reader.try_send(Err(error));
                }
            }
        }
    }

    async fn bring(&mut self) -> Result<(), NotBrought> {
        let UnderWay { shared, entry, .. } = &self.under_way;
        let (shared, entry) = (shared.clone(), entry.clone());
        let info = ObjectInfo::from(&*entry);
        let mut sink: Option<Box<dyn ObjectSink>> = None;
        let mut offset = 0;
        let mut failure = nobody();
        for peer in shared.holders(&entry) {
            let into = if let Some(begun) = &mut sink {
                begun
            } else {
                offset = 0;
                sink.insert(shared.store.create(entry.object, &info).await.map_err(no_room)?)
            };
            let mut brought = self.bring_from(peer, &mut offset, into).await;
            if brought.is_ok()
                && let Some(whole) = sink.take()
            {
                brought = whole.finish(Some(entry.digest)).await.map(drop).map_err(no_room);
            }
            match brought {
                Ok(()) => {
                    self.pass_held();
                    return Ok(());
                }
                Err(NotBrought::Failed(error)) => {
                    // The next one goes on where this one stopped, unless what came is not what it should be.
                    if matches!(error, ClusterError::Store(StoreError::Digest)) {
                        sink = None;
                        self.begin_again().await;
                    }
                    failure = error;
                }
                Err(no_room) => return Err(no_room),
            }
        }
        Err(NotBrought::Failed(failure))
    }

    async fn bring_from(
        &mut self,
        peer: RaftId,
        offset: &mut u64,
        sink: &mut Box<dyn ObjectSink>,
    ) -> Result<(), NotBrought> {
        let UnderWay { shared, entry, .. } = &self.under_way;
        let (object, len, from) = (entry.object, entry.len, *offset);
        let mut pull =
            shared.transfers.pull(peer, object, (from, None), TransferSort::Store).await?;
        same(peer, pull.about(), entry)?;
        while let Some(chunk) = pull.next_chunk().await? {
            *offset += chunk.len() as u64;
            sink.write(chunk.clone()).await.map_err(no_room)?;
            self.pass_held();
            self.held = Some(chunk);
        }
        all_came(peer, *offset, len)?;
        if from == 0 {
            // It has been checked as a whole; of what came from several the store has the last word.
            self.pass_held();
        }
        Ok(())
    }

    fn pass_held(&mut self) {
        if let Some(chunk) = self.held.take()
            && let Some(reader) = &self.reader
        {
            self.passed = true;
            if reader.try_send(Ok(chunk)).is_err() {
                self.reader = None;
            }
        }
    }

    /// What came was not the object. A reader that has some of it cannot go on.
    async fn begin_again(&mut self) {
        self.held = None;
        if self.passed
            && let Some(reader) = self.reader.take()
        {
            let _ = timeout(STALLED, reader.send(Err(StoreError::Digest.into()))).await;
        }
    }
}

/// Why an object is not here.
enum NotBrought {
    /// This node's store did not take it.
    NoRoom,
    Failed(ClusterError),
}

impl From<ClusterError> for NotBrought {
    fn from(error: ClusterError) -> Self {
        Self::Failed(error)
    }
}

fn no_room(error: StoreError) -> NotBrought {
    match error {
        StoreError::Digest => NotBrought::Failed(error.into()),
        error => {
            tracing::debug!(%error, "a fetched object is not stored here");
            NotBrought::NoRoom
        }
    }
}

/// Bytes that go through this node to a client.
struct Passage {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    range: Range<u64>,
    sender: mpsc::Sender<Result<Bytes, ClusterError>>,
    /// How the fetch ends that it goes past: once the object is here, the rest is read here.
    stored: Option<watch::Receiver<Option<Ended>>>,
}

impl Passage {
    async fn run(mut self, _turn: OwnedSemaphorePermit) {
        let mut peers = self.shared.holders(&self.entry).into_iter();
        let mut peer = peers.next();
        let mut failure = nobody();
        while !self.range.is_empty() {
            // Nobody waits for this reader before it can take what comes.
            match timeout(STALLED, self.sender.reserve_many(ROOM)).await {
                Ok(Ok(room)) => drop(room),
                _ => return,
            }
            if self.stored.as_ref().is_some_and(|ended| *ended.borrow() == Some(Ended::Stored)) {
                return;
            }
            let Some(from) = peer else {
                if let Some(stored) = &mut self.stored {
                    let ended = tokio::select! {
                        ended = Ended::of(stored) => ended,
                        () = self.sender.closed() => return,
                    };
                    if ended == Ended::Stored {
                        return;
                    }
                }
                let _ = timeout(STALLED, self.sender.send(Err(failure))).await;
                return;
            };
            if let Err(error) = self.pass_from(from).await {
                failure = error;
                peer = peers.next();
            }
        }
    }

    /// Passes on the next part of the range, as far as the client takes it at once.
    async fn pass_from(&mut self, peer: RaftId) -> Result<(), ClusterError> {
        let part = self.range.start..self.range.end.min(self.range.start.saturating_add(PART));
        let part_len = (part.start, Some(part.end - part.start));
        let (object, sort) = (self.entry.object, TransferSort::Read);
        let mut pull = self.shared.transfers.pull(peer, object, part_len, sort).await?;
        same(peer, pull.about(), &self.entry)?;
        while let Some(chunk) = pull.next_chunk().await? {
            // What it has no room for comes once more, in its next turn.
            let Ok(Ok(room)) = timeout(BEHIND, self.sender.reserve()).await else { return Ok(()) };
            self.range.start += chunk.len() as u64;
            room.send(Ok(chunk));
        }
        all_came(peer, self.range.start, part.end)
    }
}

/// Whether what a member has is what the catalogue means.
fn same(peer: RaftId, found: &ObjectInfo, entry: &Entry) -> Result<(), ClusterError> {
    if found.digest == Some(entry.digest) {
        return Ok(());
    }
    let reason = format!("member {peer} has other bytes under this object's number");
    Err(ClusterError::Refused { reason })
}

fn not_had(entry: &Entry) -> ClusterError {
    let reason = format!("the bytes of {:?} could not be had from any member", entry.key);
    ClusterError::Refused { reason }
}

fn nobody() -> ClusterError {
    ClusterError::Refused { reason: "no member holds the bytes".to_owned() }
}

fn all_came(peer: RaftId, found: u64, len: u64) -> Result<(), ClusterError> {
    if found == len {
        return Ok(());
    }
    let reason = format!("it sent {found} of {len} bytes");
    Err(ClusterError::Unreachable { peer, reason })
}
