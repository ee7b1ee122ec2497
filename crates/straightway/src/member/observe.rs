//! What the cluster agrees on becomes events of this node's feed, in commit order; what leaves this node's cache becomes
//! news for the cluster.
use std::sync::{Arc, OnceLock};

use straightway_cache::{ObjectMeta, Observer as CacheObserver, Purge, RawDiskCache, Removal};
use straightway_cluster::catalogue::{Entry, Event, Scope as Purged};
use straightway_cluster::{Cluster, ObjectId, ObjectStore, Observer, RaftId};
use straightway_codec::event::{EventRef, Kind, Scope};
use tokio::sync::mpsc;

use super::store::{CacheStore, meta_of, object_of_key};
use crate::feed::FeedObserver;
use crate::http::etag;

/// Lots of objects to be forgotten that may wait.
const FORGET_QUEUE: usize = 1024;

/// Hears of both sides.
#[derive(Debug)]
pub(crate) struct ClusterObserver {
    feed: Arc<FeedObserver>,
    cluster: OnceLock<Cluster>,
    forget: OnceLock<mpsc::Sender<Vec<ObjectId>>>,
}

impl ClusterObserver {
    pub(crate) fn new(feed: Arc<FeedObserver>) -> Arc<Self> {
        Arc::new(Self { feed, cluster: OnceLock::new(), forget: OnceLock::new() })
    }

    /// The cache is open: what the cluster does not serve any more is removed from it.
    pub(crate) fn open(&self, cache: &RawDiskCache) {
        let (sender, mut objects) = mpsc::channel(FORGET_QUEUE);
        let store = CacheStore::new(cache.clone());
        if self.forget.set(sender).is_ok() {
            tokio::spawn(async move {
                let mut some = Vec::new();
                while objects.recv_many(&mut some, 64).await > 0 {
                    store.forget(some.drain(..).flatten().collect()).await;
                }
            });
        }
    }

    /// The cluster runs.
    pub(crate) fn joined(&self, cluster: Cluster) {
        // Set once, at the start.
        let _ = self.cluster.set(cluster);
    }

    fn about(&self, kind: Kind, entry: &Entry) {
        self.feed.tell(&EventRef { kind, key: &entry.key, ..EventRef::default() });
    }

    fn stored_entry(&self, entry: &Entry) {
        let meta = meta_of(entry);
        let etag = etag::of(&meta);
        self.feed.tell(&EventRef {
            kind: Kind::Stored,
            key: &entry.key,
            len: meta.len,
            content_type: meta.content_type.as_deref(),
            tags: &meta.tags,
            etag: Some(&etag),
            expires_ms: meta.expires_ms,
            ..EventRef::default()
        });
    }
}

impl Observer for ClusterObserver {
    fn event(&self, _index: u64, event: &Event) {
        match event {
            Event::Stored(entry) => self.stored_entry(entry),
            Event::Removed(entry) => self.about(Kind::Removed, entry),
            Event::Expired(entry) => self.about(Kind::Expired, entry),
            Event::Evicted(entry) => self.about(Kind::Evicted, entry),
            Event::Purged { scope, value, .. } => {
                let scope = match scope {
                    Purged::Key => Scope::Key,
                    Purged::Prefix => Scope::Prefix,
                    Purged::Tag => Scope::Tag,
                    Purged::All => Scope::All,
                };
                self.feed.tell_purge(value, scope);
            }
            Event::Joined(member) | Event::Changed(member) | Event::Left(member) => {
                self.feed.tell(&EventRef {
                    kind: Kind::Member,
                    key: &member.id.to_string(),
                    ..EventRef::default()
                });
            }
        }
    }

    fn skipped(&self) {
        self.feed.tell(&EventRef { kind: Kind::Gap, ..EventRef::default() });
    }

    fn leader(&self, term: u64, leader: RaftId) {
        tracing::info!(leader, term, "the cluster has a leader");
        let key = leader.to_string();
        self.feed.tell(&EventRef { kind: Kind::Leader, key: &key, ..EventRef::default() });
    }

    fn forget(&self, objects: Vec<ObjectId>) {
        let Some(queue) = self.forget.get() else { return };
        if let Err(error) = queue.try_send(objects) {
            // They are not served; the sweep finds them.
            tracing::debug!(%error, "objects stay in the cache for now");
        }
    }
}

impl CacheObserver for ClusterObserver {
    fn stored(&self, key: &str, meta: &ObjectMeta) {
        if object_of_key(key).is_none() {
            self.feed.stored(key, meta);
        }
    }

    fn removed(&self, key: &str, why: Removal) {
        let Some(object) = object_of_key(key) else { return self.feed.removed(key, why) };
        if why != Removal::Removed
            && let Some(cluster) = self.cluster.get()
        {
            match why {
                Removal::Corrupt => cluster.damaged(object),
                _ => cluster.lost(object),
            }
        }
    }

    fn purged(&self, what: &Purge) {
        self.feed.purged(what);
    }
}
