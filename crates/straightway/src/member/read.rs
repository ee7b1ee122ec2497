//! What a key has, as a member of a cluster answers it.
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use straightway_cache::{Expect, Object, RawDiskCache};
use straightway_cluster::catalogue::Entry;
use straightway_cluster::{Cluster, ClusterError, Consistency, Fetched};
use tokio::sync::mpsc;

use super::store::object_key;
use crate::feed::now_ms;
use crate::http::problem::Problem;

/// The header by which a reader asks for what the cluster has agreed on by now.
const CONSISTENCY: &str = "consistency";
/// An object that is evicted while it is looked for is looked for again so often.
const TRIES: usize = 3;

/// An object's bytes as they arrive.
pub(crate) type Chunks = mpsc::Receiver<Result<Bytes, ClusterError>>;

/// What a key has.
pub(crate) enum Found {
    /// The object, in this node's cache.
    Here(Object),
    /// The object, arriving from another member.
    Arriving(Arc<Entry>, Chunks),
    /// Its description; the bytes are elsewhere and were not asked for.
    Elsewhere(Arc<Entry>),
    /// Nothing.
    Nothing,
}

/// What the reader needs of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// All bytes, in order.
    Stream,
    /// Some bytes: the object has to be here.
    Whole,
    /// No bytes.
    Head,
}

/// Looks a key up.
pub(crate) async fn find(
    cluster: &Cluster,
    cache: &RawDiskCache,
    key: &str,
    headers: &HeaderMap,
    need: Need,
) -> Result<Found, Problem> {
    let consistency = consistency(headers)?;
    for _ in 0..TRIES {
        let entry = cluster.read(key, consistency).await.map_err(|error| not_served(&error))?;
        let Some(entry) = entry.filter(|entry| entry.live(now_ms())) else {
            return Ok(Found::Nothing);
        };
        let object = cache.open(&object_key(entry.object)).await;
        match object.map_err(|error| Problem::from_cache(&error))? {
            // Numbers of objects begin anew with a cluster, and the cache may be older than that.
            Some(object) if object.meta().digest != Some(entry.digest) => {
                tracing::warn!(object = ?entry.object, "bytes of an earlier cluster are removed");
                let name = object_key(entry.object);
                let removed = cache.remove_if(&name, Expect::Version(object.version())).await;
                if let Err(error) = removed {
                    tracing::debug!(%error, "they have been replaced meanwhile, or stay for now");
                }
            }
            Some(object) => return Ok(Found::Here(object)),
            None => {}
        }
        if entry.holders.contains(&cluster.id()) {
            // Evicted or lost while nobody could be told.
            cluster.lost(entry.object);
        }
        if need == Need::Head {
            return Ok(Found::Elsewhere(entry));
        }
        match cluster.fetch(&entry).await.map_err(|error| not_served(&error))? {
            Fetched::Arriving(chunks) if need == Need::Stream => {
                return Ok(Found::Arriving(entry, chunks));
            }
            Fetched::Arriving(mut chunks) => {
                while let Some(chunk) = chunks.recv().await {
                    chunk.map_err(|error| not_served(&error))?;
                }
            }
            Fetched::Here => {}
        }
    }
    Err(Problem::busy("the object is being evicted as fast as it is fetched; enlarge the cache"))
}

fn consistency(headers: &HeaderMap) -> Result<Consistency, Problem> {
    match headers.get(CONSISTENCY).map(http::HeaderValue::as_bytes) {
        None => Ok(Consistency::Local),
        Some(value) if value.eq_ignore_ascii_case(b"local") => Ok(Consistency::Local),
        Some(value) if value.eq_ignore_ascii_case(b"linearizable") => Ok(Consistency::Linearizable),
        Some(_) => {
            let detail = "Consistency is local or linearizable";
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

/// What a client is told when the cluster could not.
pub(crate) fn not_served(error: &ClusterError) -> Problem {
    match error {
        ClusterError::Config { .. } | ClusterError::Invalid { .. } => {
            Problem::new(StatusCode::BAD_REQUEST, error.to_string())
        }
        ClusterError::Store(straightway_cluster::StoreError::Full { .. }) => {
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "a majority of the members has no room")
        }
        other => Problem::busy(other.to_string()),
    }
}
