//! What the cache held before the node was in a cluster: the first node brings it into the catalogue, a node that joins drops it.
//!
//! Done once, before the node serves: nobody can purge or replace an object of which the cluster does not know yet. What cannot be
//! brought in is left out for good: later it might have been purged meanwhile. A start that is broken off before the end is gone on
//! with by the next one; nobody has been served then.
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use straightway_buffer::Reason;
use straightway_cache::{CacheError, ObjectMeta, RawDiskCache};
use straightway_cluster::catalogue::Condition;
use straightway_cluster::{Cluster, ClusterError, ObjectInfo};
use tokio::time::{Instant, sleep};

use super::store::{is_object_key, object_key, options};
use crate::feed::now_ms;

/// Tells that it has been done.
const MARKER: &str = "imported";
/// Bytes that are copied at a time.
const STEP: u64 = 64 * 1024;
/// How often it is said how far it is.
const TELL: Duration = Duration::from_secs(10);
/// How often an object is tried, and how long is waited before it is tried again.
const TRIES: u32 = 3;
const AGAIN: Duration = Duration::from_millis(200);
/// How long the cluster is waited for before it is asked again.
const WAIT: Duration = Duration::from_secs(5);
/// Objects that are removed at a time.
const TOGETHER: usize = 64;
/// Reasons that are told apart; further ones are counted together.
const REASONS: usize = 16;

/// Deals with what is left of the time before.
///
/// # Errors
/// When it cannot be written down that it has been done: the next start would bring back what was purged meanwhile.
pub(crate) async fn run(
    cluster: &Cluster,
    cache: &RawDiskCache,
    data_dir: &Path,
    first: bool,
) -> io::Result<()> {
    let marker = data_dir.join(MARKER);
    if marker.exists() {
        return Ok(());
    }
    let alone = || first && cluster.catalogue().members().len() <= 1;
    // Its own leader soon; who has left others behind does not wait for them.
    while alone() && !cluster.ready(WAIT).await {
        sleep(AGAIN).await;
    }
    let alone = alone();
    let evicted = cache.stats().evictions;
    let mut done = Done::default();
    let mut told = Instant::now();
    let mut gone = Vec::with_capacity(TOGETHER);
    let mut walk = cache.iter();
    while let Some(found) = walk.next().await {
        match found {
            Ok(meta) if is_object_key(&meta.key) => continue,
            Ok(meta) => {
                let brought =
                    if alone { insist(cluster, cache, &meta).await } else { Ok(Brought::Here) };
                done.count(brought);
                gone.push(meta.key);
            }
            Err(error) => done.count(Err(error.into())),
        }
        if gone.len() == TOGETHER {
            discard(cache, &mut gone).await;
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            tracing::info!(objects = done.objects, "the cache is made part of the cluster");
        }
    }
    discard(cache, &mut gone).await;
    let evicted = cache.stats().evictions.saturating_sub(evicted);
    done.tell(alone, evicted);
    File::create(&marker)?.sync_all()?;
    File::open(data_dir)?.sync_all()
}

/// What may come back with a crash is not looked at any more, or is looked at again by a start that goes on with this one.
async fn discard(cache: &RawDiskCache, keys: &mut Vec<String>) {
    if let Err(error) = cache.discard(keys).await {
        // Nobody can ask for them in a cluster; their space is reused in time.
        tracing::warn!(%error, "objects of the time before could not be removed");
    }
    keys.clear();
}

#[derive(Debug, Default)]
struct Done {
    objects: u64,
    /// How many were left out for which reason.
    left_out: BTreeMap<String, u64>,
}

/// What became of an object.
enum Brought {
    Here,
    /// Evicted, or over, before its turn came.
    Gone,
}

impl Done {
    fn count(&mut self, brought: Result<Brought, NotImported>) {
        match brought {
            Ok(Brought::Here) => self.objects += 1,
            Ok(Brought::Gone) => {}
            Err(error) => {
                let reason = error.to_string();
                let known = self.left_out.len() < REASONS || self.left_out.contains_key(&reason);
                let reason = if known { reason } else { "other reasons".to_owned() };
                *self.left_out.entry(reason).or_default() += 1;
            }
        }
    }

    fn tell(&self, alone: bool, evicted: u64) {
        let objects = self.objects;
        match (alone, objects) {
            (false, 0) => {}
            (false, _) => tracing::warn!(
                objects,
                "what the cache held before this node joined has been removed"
            ),
            (true, 0) if self.left_out.is_empty() && evicted == 0 => {}
            (true, _) => tracing::info!(objects, "what the cache held is the cluster's now"),
        }
        for (reason, objects) in &self.left_out {
            tracing::warn!(objects, reason, "objects of the time before are not in the cluster");
        }
        if alone && evicted > 0 {
            tracing::warn!(
                objects = evicted,
                "objects of the time before were evicted while the others were copied: the cache was full"
            );
        }
    }
}

/// Why an object could not be brought in.
#[derive(Debug, thiserror::Error)]
enum NotImported {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Brings an object in, and tries again where that may help.
async fn insist(
    cluster: &Cluster,
    cache: &RawDiskCache,
    meta: &ObjectMeta,
) -> Result<Brought, NotImported> {
    let mut tries = 1;
    loop {
        match import(cluster, cache, meta).await {
            // What the catalogue does not take it never will.
            Err(NotImported::Cluster(
                error @ (ClusterError::Invalid { .. } | ClusterError::Config { .. }),
            )) => return Err(error.into()),
            Err(error) if tries < TRIES => {
                tracing::debug!(key = meta.key, %error, "an object is tried again");
                tries += 1;
                sleep(AGAIN).await;
            }
            brought => return brought,
        }
    }
}

/// Stores an object once more under a number of its own, and announces it, unless the key has one already.
async fn import(
    cluster: &Cluster,
    cache: &RawDiskCache,
    meta: &ObjectMeta,
) -> Result<Brought, NotImported> {
    // By a start that was broken off.
    if cluster.catalogue().get(&meta.key).is_some() {
        return Ok(Brought::Here);
    }
    let Some(object) = cache.open(&meta.key).await? else { return Ok(Brought::Gone) };
    let meta = object.meta();
    let mut info = ObjectInfo {
        key: meta.key.clone(),
        len: Some(meta.len),
        digest: None,
        content_type: meta.content_type.clone().unwrap_or_default(),
        content_encoding: String::new(),
        tags: meta.tags.clone(),
        expires_ms: meta.expires_ms.unwrap_or(0),
        last_modified_ms: meta.last_modified_ms,
    };
    cluster.check(&info)?;
    let new = cluster.new_object();
    let options = options(&info, now_ms());
    let mut writer = cache.writer(&object_key(new.id()), info.len, options).await?;
    let mut hasher = Sha256::new();
    let mut at = 0;
    while at < object.len() {
        let end = at.saturating_add(STEP).min(object.len());
        let chunk = object.read(at..end, Reason::Relocate).await?;
        hasher.update(&chunk);
        writer.write(&chunk).await?;
        at = end;
    }
    let digest = hasher.finalize().into();
    writer.finish(Some(digest)).await?;
    info.digest = Some(digest);
    cluster.put(new.id(), info, Condition::Absent).await?;
    Ok(Brought::Here)
}
