//! What a key has, as a member of a cluster answers it.
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use straightway_cache::{CacheError, Expect, Object, RawDiskCache};
use straightway_cluster::catalogue::Entry;
use straightway_cluster::{Arriving, Cluster, ClusterError, Consistency, Fetched};
use tokio::time::timeout;

use super::store::object_key;
use crate::feed::now_ms;
use crate::http::problem::Problem;

/// The header by which a reader asks for what the cluster has agreed on by now.
const CONSISTENCY: &str = "consistency";
/// What a key has.
pub(crate) enum Found {
    /// The object, in this node's cache.
    Here(Arc<Entry>, Object),
    /// Its description; the bytes are elsewhere.
    Elsewhere(Arc<Entry>),
    /// Nothing.
    Nothing,
}

/// Looks a key up.
pub(crate) async fn find(
    cluster: &Cluster,
    cache: &RawDiskCache,
    key: &str,
    headers: &HeaderMap,
) -> Result<Found, Problem> {
    let consistency = consistency(headers)?;
    let entry = cluster.read(key, consistency).await.map_err(|error| not_served(&error))?;
    let Some(entry) = entry.filter(|entry| entry.live(now_ms())) else {
        return Ok(Found::Nothing);
    };
    if let Some(object) = open(cache, &entry).await.map_err(|error| Problem::from_cache(&error))? {
        return Ok(Found::Here(entry, object));
    }
    if entry.holders.contains(&cluster.id()) {
        // Evicted or lost while nobody could be told.
        cluster.lost(entry.object);
    }
    Ok(Found::Elsewhere(entry))
}

/// Opens what this node's cache has of an entry.
async fn open(cache: &RawDiskCache, entry: &Entry) -> Result<Option<Object>, CacheError> {
    let name = object_key(entry.object);
    match cache.open(&name).await? {
        // Numbers of objects begin anew with a cluster, and the cache may be older than that.
        Some(object) if object.meta().digest != Some(entry.digest) => {
            tracing::warn!(object = ?entry.object, "bytes of an earlier cluster are removed");
            let removed = cache.remove_if(&name, Expect::Version(object.version())).await;
            if let Err(error) = removed {
                tracing::debug!(%error, "they have been replaced meanwhile, or stay for now");
            }
            Ok(None)
        }
        found => Ok(found),
    }
}

/// Bytes that arrive, the first of them in hand: whoever is told that they come is told the truth.
pub(crate) type Begun = (Bytes, Arriving);

/// Begins to bring an object here; `None`: it is here now.
pub(crate) async fn stream(
    cluster: &Cluster,
    entry: &Arc<Entry>,
) -> Result<Option<Begun>, Problem> {
    let fetched = cluster.fetch(entry).await.map_err(|error| not_served(&error))?;
    let Fetched::Arriving(mut arriving) = fetched else { return Ok(None) };
    match arriving.next().await {
        Some(Ok(first)) => Ok(Some((first, arriving))),
        Some(Err(error)) => Err(not_served(&error)),
        None if arriving.stored().await => Ok(None),
        None => part(cluster, entry, 0..entry.len).await.map(Some),
    }
}

/// Begins to fetch a part of an object, past this node's cache.
pub(crate) async fn part(
    cluster: &Cluster,
    entry: &Arc<Entry>,
    range: Range<u64>,
) -> Result<Begun, Problem> {
    let arriving = cluster.fetch_range(entry, range);
    let mut arriving = arriving.map_err(|error| not_served(&error))?;
    match arriving.next().await {
        Some(Ok(first)) => Ok((first, arriving)),
        Some(Err(error)) => Err(not_served(&error)),
        None => Err(Problem::busy("the bytes could not be had from any member")),
    }
}

/// Brings an object here; `false`: it cannot be kept here.
pub(crate) async fn bring(cluster: &Cluster, entry: &Arc<Entry>) -> Result<bool, Problem> {
    cluster.bring(entry).await.map_err(|error| not_served(&error))
}

/// Where the rest of a body is.
pub(crate) enum Rest {
    /// In this node's cache.
    Here(Object),
    /// With other members.
    Arriving(Arriving),
}

/// How long a reader that fell behind waits for the object to be stored here, before it fetches the rest for itself: its client
/// sees nothing meanwhile.
const SILENCE: Duration = Duration::from_secs(2);

/// The rest of an object of which no more `arriving` bytes come to this reader.
pub(crate) async fn rest(
    cluster: Cluster,
    cache: RawDiskCache,
    entry: Arc<Entry>,
    rest: Range<u64>,
    mut arriving: Arriving,
) -> Result<Rest, ClusterError> {
    let _ = timeout(SILENCE, arriving.stored()).await;
    // Another reader may have brought it.
    if let Ok(Some(object)) = open(&cache, &entry).await {
        return Ok(Rest::Here(object));
    }
    cluster.fetch_range(&entry, rest).map(Rest::Arriving)
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
        // What is wrong with the request itself; what other members get wrong passes.
        ClusterError::Config { .. } => Problem::new(StatusCode::BAD_REQUEST, error.to_string()),
        other => Problem::busy(other.to_string()),
    }
}
