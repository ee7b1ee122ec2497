//! Purging many objects at once: a rule that takes effect in constant time, and a sweep behind it.
//!
//! Every body belongs to the generation that was current when its writer was made. A purge starts a new generation and
//! says which older objects are gone. It is journaled and flushed before it is applied, so that no crash undoes it; from
//! then on no reader is given a covered object, however many there are. A thread then walks over the index and removes
//! them ([`crate::sweep`]). A rule is forgotten once nothing can bring a covered object back: the walk is done, no upload that began before
//! the purge is under way, and a checkpoint without those objects is on the medium.
//!
//! An object remembers the generation it was last judged in, so that a hit compares two numbers and walks over the rules
//! only after a purge.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use crate::commit::{Change, Current, Why};
use crate::core::Core;
use crate::error::CacheError;
use crate::format::rule::{Rule, Scope};
use crate::meta::{Entry, check_key};

/// What to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purge {
    /// The object of this key.
    Key(String),
    /// All objects whose keys begin so.
    Prefix(String),
    /// All objects that bear this tag.
    Tag(String),
    /// All objects.
    All,
}

impl Purge {
    /// What was asked for when a rule was made.
    pub(crate) fn of(scope: &Scope) -> Self {
        match scope {
            Scope::Prefix(prefix) if prefix.is_empty() => Self::All,
            Scope::Prefix(prefix) => Self::Prefix(prefix.to_string()),
            Scope::Tag(tag) => Self::Tag(tag.to_string()),
        }
    }
}

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// Objects found and removed so far.
    pub objects: u64,
    /// Whether that is all of them. When it is not, none of the others is served either: they are only not counted yet.
    pub complete: bool,
}

/// How long a purge waits for the sweep, to tell how many objects it covered.
const COUNT_WAIT: Duration = Duration::from_secs(5);
/// How long a purge waits for earlier ones to be forgotten when there are too many.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// Rules in force at a time.
pub(crate) const MAX_RULES: usize = 64;
/// How often the sweep looks whether older uploads have ended.
const RECHECK: Duration = Duration::from_secs(1);

/// The rules in force, and the generation that new objects belong to.
#[derive(Debug)]
pub(crate) struct Rules {
    generation: AtomicU64,
    live: RwLock<Vec<Arc<Live>>>,
    /// Bytes that the rules may take in a checkpoint.
    max_bytes: usize,
    uploads: Mutex<Uploads>,
    wake: Mutex<Wake>,
    changed: Condvar,
    /// Told whenever rules were forgotten.
    room: tokio::sync::Notify,
}

/// Uploads under way.
#[derive(Debug, Default)]
struct Uploads {
    by_generation: BTreeMap<u64, usize>,
    by_key: HashMap<u64, KeyUploads>,
}

/// Uploads of one key.
#[derive(Debug, Default)]
struct KeyUploads {
    under_way: usize,
    /// Purges of the key while there were any.
    purges: u64,
}

#[derive(Debug, Default)]
struct Wake {
    stop: bool,
    pending: bool,
}

/// A rule in force.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) rule: Rule,
    pub(crate) tally: Arc<Tally>,
    /// Whether no older object is in the index, and none can come any more.
    pub(crate) swept: AtomicBool,
}

/// What the sweep found for a rule.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) objects: AtomicU64,
    /// Turns true after the first walk.
    pub(crate) counted: watch::Sender<bool>,
}

impl Live {
    fn new(rule: Rule, tally: Arc<Tally>) -> Arc<Self> {
        Arc::new(Self { rule, tally, swept: AtomicBool::new(false) })
    }
}

/// An upload's place in the order of purges; held until its outcome is decided.
#[derive(Debug)]
pub(crate) struct Upload {
    rules: Arc<Rules>,
    pub(crate) generation: u64,
    hash: u64,
    /// Purges of its key, when it began.
    purges: u64,
}

impl Upload {
    /// Whether its key was purged since it began.
    pub(crate) fn is_purged(&self) -> bool {
        let uploads = self.rules.uploads.lock();
        uploads.by_key.get(&self.hash).is_some_and(|key| key.purges != self.purges)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut uploads = self.rules.uploads.lock();
        if let Some(count) = uploads.by_generation.get_mut(&self.generation) {
            *count -= 1;
            if *count == 0 {
                uploads.by_generation.remove(&self.generation);
            }
        }
        if let Some(key) = uploads.by_key.get_mut(&self.hash) {
            key.under_way -= 1;
            if key.under_way == 0 {
                uploads.by_key.remove(&self.hash);
            }
        }
    }
}

impl Rules {
    /// What recovery found.
    pub(crate) fn new(generation: u64, rules: Vec<Rule>, max_bytes: usize) -> Arc<Self> {
        let pending = !rules.is_empty();
        Arc::new(Self {
            generation: AtomicU64::new(generation),
            live: RwLock::new(
                rules.into_iter().map(|rule| Live::new(rule, Arc::default())).collect(),
            ),
            max_bytes,
            uploads: Mutex::default(),
            wake: Mutex::new(Wake { stop: false, pending }),
            changed: Condvar::new(),
            room: tokio::sync::Notify::new(),
        })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Registers an upload that begins now.
    pub(crate) fn begin(self: &Arc<Self>, hash: u64) -> Upload {
        let mut uploads = self.uploads.lock();
        let generation = self.generation();
        *uploads.by_generation.entry(generation).or_default() += 1;
        let key = uploads.by_key.entry(hash).or_default();
        key.under_way += 1;
        Upload { rules: self.clone(), generation, hash, purges: key.purges }
    }

    /// Has the uploads of a key that are under way come to nothing.
    pub(crate) fn purge_uploads(&self, hash: u64) {
        if let Some(key) = self.uploads.lock().by_key.get_mut(&hash) {
            key.purges += 1;
        }
    }

    /// The generation of the oldest upload that is under way.
    pub(crate) fn oldest_upload(&self) -> u64 {
        self.uploads.lock().by_generation.keys().next().copied().unwrap_or(u64::MAX)
    }

    /// Whether an object was purged.
    pub(crate) fn is_purged(&self, entry: &Entry) -> bool {
        let now = self.generation();
        if entry.judged() >= now {
            return false;
        }
        let purged = self.covering(entry).is_some();
        if !purged {
            entry.set_judged(now);
        }
        purged
    }

    pub(crate) fn covering(&self, entry: &Entry) -> Option<Arc<Live>> {
        let covers = |live: &&Arc<Live>| {
            live.rule.covers(entry.generation, &entry.meta.key, entry.meta.tags.iter())
        };
        self.live.read().iter().find(covers).cloned()
    }

    /// Whether there is room for one more rule beside `pending` ones that are not applied yet.
    pub(crate) fn fits(&self, rule: &Rule, pending: &[usize]) -> bool {
        let live = self.live.read();
        let used: usize =
            live.iter().map(|live| live.rule.encoded_len()).chain(pending.iter().copied()).sum();
        live.len() + pending.len() < MAX_RULES && used + rule.encoded_len() <= self.max_bytes
    }

    /// Puts a durable rule in force.
    pub(crate) fn apply(&self, rule: Rule, tally: Arc<Tally>) {
        let generation = rule.generation;
        self.live.write().push(Live::new(rule, tally));
        // Published after the rule: whoever sees the generation sees the rule.
        self.generation.store(generation, Ordering::Release);
        self.wake.lock().pending = true;
        self.changed.notify_all();
    }

    /// The rules in force, for a checkpoint.
    pub(crate) fn snapshot(&self) -> (u64, Vec<Rule>) {
        let live = self.live.read();
        (self.generation(), live.iter().map(|live| live.rule.clone()).collect())
    }

    /// Rules that a checkpoint that starts now makes superfluous once it is on the medium.
    pub(crate) fn swept(&self) -> Vec<u64> {
        let live = self.live.read();
        live.iter()
            .filter(|live| live.swept.load(Ordering::Acquire))
            .map(|live| live.rule.generation)
            .collect()
    }

    pub(crate) fn forget(&self, generations: &[u64]) {
        if !generations.is_empty() {
            self.live.write().retain(|live| !generations.contains(&live.rule.generation));
            self.room.notify_waiters();
        }
    }

    /// Whether rules wait for a checkpoint in such numbers that one should be made now.
    pub(crate) fn is_crowded(&self) -> bool {
        let live = self.live.read();
        let bytes: usize = live.iter().map(|live| live.rule.encoded_len()).sum();
        live.len() > MAX_RULES / 4 || bytes > self.max_bytes / 2
    }

    pub(crate) fn unswept(&self) -> Vec<Arc<Live>> {
        let live = self.live.read();
        live.iter().filter(|live| !live.swept.load(Ordering::Acquire)).cloned().collect()
    }

    pub(crate) fn stop(&self) {
        self.wake.lock().stop = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.wake.lock().stop
    }

    /// Waits for a new rule, or a while if older ones are not done with; `false` when it is time to stop.
    pub(crate) fn wait(&self) -> bool {
        let mut wake = self.wake.lock();
        while !wake.pending && !wake.stop {
            if self.unswept().is_empty() {
                self.changed.wait(&mut wake);
            } else if self.changed.wait_for(&mut wake, RECHECK).timed_out() {
                break;
            }
        }
        wake.pending = false;
        !wake.stop
    }
}

/// Purges; see [`crate::RawDiskCache::purge`].
pub(crate) async fn purge(core: &Arc<Core>, what: Purge) -> Result<Purged, CacheError> {
    let scope = match what {
        Purge::Key(key) => return purge_key(core, key).await,
        Purge::Prefix(prefix) => Scope::Prefix(checked(&prefix)?),
        Purge::Tag(tag) => Scope::Tag(checked(&tag)?),
        Purge::All => Scope::Prefix("".into()),
    };
    let tally = Arc::new(Tally::default());
    let mut counted = tally.counted.subscribe();
    commit(core, scope, &tally).await?;
    let complete = tokio::time::timeout(COUNT_WAIT, counted.wait_for(|done| *done)).await;
    let complete = complete.is_ok_and(|outcome| outcome.is_ok());
    Ok(Purged { objects: tally.objects.load(Ordering::Acquire), complete })
}

fn checked(text: &str) -> Result<Box<str>, CacheError> {
    check_key(text)?;
    Ok(text.into())
}

async fn purge_key(core: &Arc<Core>, key: String) -> Result<Purged, CacheError> {
    check_key(&key)?;
    let live = core.peek(&key).await?.is_some();
    let (hash, why) = (core.hash(&key), Why::Purged { key, live });
    let change = Change::Remove { hash, current: Current::Any, why };
    let committed = core.committer.commit(change, None).await?;
    Ok(Purged { objects: u64::from(live && committed.previous.is_some()), complete: true })
}

/// Makes a rule durable and puts it in force; waits while there are too many.
async fn commit(core: &Arc<Core>, scope: Scope, tally: &Arc<Tally>) -> Result<(), CacheError> {
    let deadline = tokio::time::Instant::now() + ROOM_WAIT;
    loop {
        let room = core.rules.room.notified();
        let rule = Rule { generation: 0, scope: scope.clone() };
        let change = Change::Purge { rule, tally: tally.clone() };
        if core.committer.commit(change, None).await?.applied {
            return Ok(());
        }
        core.committer.journal.want_checkpoint();
        if tokio::time::timeout_at(deadline, room).await.is_err() {
            return Err(CacheError::TooManyPurges { limit: MAX_RULES });
        }
    }
}
