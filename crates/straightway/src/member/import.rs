//! What the cache held before the node was in a cluster: the first node brings it into the catalogue, a node that joins drops it.
//!
//! Done once, before the node serves: nobody can purge or replace an object of which the cluster does not know yet.
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use straightway_buffer::Reason;
use straightway_cache::{CacheError, Expect, ObjectMeta, RawDiskCache};
use straightway_cluster::catalogue::Condition;
use straightway_cluster::{Cluster, ClusterError, ObjectInfo};
use tokio::time::Instant;

use super::store::{is_object_key, object_key, options};
use crate::feed::now_ms;

/// Tells that it has been done.
const MARKER: &str = "imported";
/// Bytes that are copied at a time.
const STEP: u64 = 64 * 1024;
/// How often it is said how far it is.
const TELL: Duration = Duration::from_secs(10);

/// Deals with what is left of the time before.
pub(crate) async fn run(cluster: &Cluster, cache: &RawDiskCache, data_dir: &Path, first: bool) {
    let marker = data_dir.join(MARKER);
    if marker.exists() {
        return;
    }
    let alone = first && cluster.catalogue().members().len() == 1;
    let mut done = Done::default();
    let mut told = Instant::now();
    let mut walk = cache.iter();
    while let Some(found) = walk.next().await {
        let meta = match found {
            Ok(meta) if is_object_key(&meta.key) => continue,
            Ok(meta) => meta,
            Err(error) => {
                tracing::debug!(%error, "an object could not be looked at");
                continue;
            }
        };
        let moved = if alone { import(cluster, cache, &meta).await } else { Ok(()) };
        match moved {
            Ok(()) => {
                if let Err(error) = cache.remove_if(&meta.key, Expect::Any).await {
                    tracing::debug!(key = meta.key, %error, "an object stays in the cache for now");
                }
                done.objects += 1;
            }
            Err(error) => {
                tracing::warn!(key = meta.key, %error, "an object is not in the cluster");
                done.failed += 1;
            }
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            tracing::info!(objects = done.objects, "the cache is made part of the cluster");
        }
    }
    let Done { objects, failed } = done;
    match (alone, objects + failed) {
        (_, 0) => {}
        (true, _) => tracing::info!(objects, failed, "what the cache held is the cluster's now"),
        (false, _) => {
            tracing::warn!(objects, "what the cache held before this node joined has been removed");
        }
    }
    // Otherwise the next start tries again.
    if failed == 0
        && let Err(error) = File::create(&marker)
    {
        tracing::warn!(%error, "the next start looks for objects of the time before again");
    }
}

#[derive(Default)]
struct Done {
    objects: u64,
    failed: u64,
}

/// Why an object could not be brought in.
#[derive(Debug, thiserror::Error)]
enum NotImported {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Stores an object once more under a number of its own, and announces it, unless the key has one already.
async fn import(
    cluster: &Cluster,
    cache: &RawDiskCache,
    meta: &ObjectMeta,
) -> Result<(), NotImported> {
    let Some(object) = cache.open(&meta.key).await? else { return Ok(()) };
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
    Ok(())
}
