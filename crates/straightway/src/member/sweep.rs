//! Bytes in the cache that no key of the cluster has: left by puts that came to nothing, and by members that were away.
use std::collections::HashSet;
use std::time::Duration;

use straightway_cache::RawDiskCache;
use straightway_cluster::{Cluster, ObjectId, ObjectStore};
use tokio::time::sleep;

use super::store::{CacheStore, object_of_key};

/// Between two looks. What nobody knows at two of them in a row is nobody's, if the member whose put it was of says so too: a put
/// waits as long as its slowest client, and its bytes may be here long before it is announced.
const LOOK: Duration = Duration::from_mins(10);
/// How long the others may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Objects looked at without a pause.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_millis(50);
/// Objects remembered from one look to the next; further ones are found by later looks.
const MAX_REMEMBERED: usize = 65_536;

/// Sweeps until the node stops.
pub(crate) async fn run(cluster: Cluster, cache: RawDiskCache) {
    let store = CacheStore::new(cache.clone());
    let mut before = HashSet::new();
    loop {
        sleep(LOOK).await;
        // Without word from the others it is not known what is known.
        if !cluster.ready(PATIENCE).await {
            continue;
        }
        let unknown = look(&cluster, &cache).await;
        let twice = unknown.iter().filter(|id| before.contains(*id)).copied();
        let gone = cluster.abandoned(twice).await;
        if !gone.is_empty() {
            tracing::info!(
                objects = gone.len(),
                "bytes that no key of the cluster has are removed"
            );
            store.forget(gone).await;
        }
        before = unknown;
    }
}

async fn look(cluster: &Cluster, cache: &RawDiskCache) -> HashSet<ObjectId> {
    let mut walk = cache.iter();
    let mut unknown = HashSet::new();
    let mut looked = 0;
    while unknown.len() < MAX_REMEMBERED {
        match walk.next().await {
            Some(Ok(meta)) => {
                let object = object_of_key(&meta.key);
                unknown.extend(object.filter(|id| cluster.catalogue().by_object(*id).is_none()));
            }
            Some(Err(error)) => tracing::debug!(%error, "an object could not be looked at"),
            None => break,
        }
        looked += 1;
        if looked % AT_ONCE == 0 {
            sleep(PAUSE).await;
        }
    }
    unknown
}
