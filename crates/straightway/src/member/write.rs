//! Changes, as a member of a cluster makes them: agreed on by a majority before they are answered.
use http::{HeaderMap, StatusCode};
use straightway_cache::Purge;
use straightway_cluster::catalogue::{Condition, Scope};
use straightway_cluster::{
    Cluster, ClusterError, Consistency, ObjectId, ObjectInfo, PutOutcome, StoreError,
};

use super::read::not_served;
use super::store::meta_of;
use crate::feed::now_ms;
use crate::http::conditional::{self, Action, Current, Outcome};
use crate::http::etag;
use crate::http::problem::Problem;

/// The conditions of a request, as the cluster can check them when the change takes effect; refused here when they do not
/// hold already. `conditional`: whether there are any.
pub(crate) async fn condition(
    cluster: &Cluster,
    headers: &HeaderMap,
    key: &str,
    conditional: bool,
) -> Result<Condition, Problem> {
    if !conditional {
        return Ok(Condition::Any);
    }
    let entry = cluster.read(key, Consistency::Linearizable).await;
    let entry = entry.map_err(|error| not_served(&error))?.filter(|entry| entry.live(now_ms()));
    let tag = entry.as_ref().map(|entry| etag::of(&meta_of(entry)));
    let current = entry.as_ref().zip(tag.as_ref()).map(|(entry, tag)| Current {
        etag: tag.as_bytes(),
        last_modified_ms: entry.last_modified_ms,
    });
    match conditional::evaluate(Action::Change, headers, current) {
        Outcome::Proceed => {
            Ok(entry.map_or(Condition::Absent, |entry| Condition::Version(entry.index)))
        }
        Outcome::NotModified | Outcome::Failed => Err(Problem::precondition()),
    }
}

/// Announces what this node has stored; `true`: it replaced an object.
pub(crate) async fn put(
    cluster: &Cluster,
    object: ObjectId,
    info: ObjectInfo,
    condition: Condition,
) -> Result<bool, Problem> {
    match cluster.put(object, info, condition).await {
        Ok(PutOutcome::Created) => Ok(false),
        Ok(PutOutcome::Replaced) => Ok(true),
        Ok(PutOutcome::Failed) => Err(Problem::precondition()),
        Err(error) => Err(refused(&error)),
    }
}

/// Removes an object; `false`: there was none.
pub(crate) async fn remove(
    cluster: &Cluster,
    key: &str,
    condition: Condition,
) -> Result<bool, Problem> {
    match cluster.remove(key, condition).await {
        Ok(Some(removed)) => Ok(removed),
        Ok(None) => Err(Problem::precondition()),
        Err(error) => Err(refused(&error)),
    }
}

/// Purges on all members; answers with the number of objects.
pub(crate) async fn purge(cluster: &Cluster, what: &Purge) -> Result<u64, Problem> {
    let (scope, value) = match what {
        Purge::Key(key) => (Scope::Key, key.as_str()),
        Purge::Prefix(prefix) => (Scope::Prefix, prefix.as_str()),
        Purge::Tag(tag) => (Scope::Tag, tag.as_str()),
        _ => (Scope::All, ""),
    };
    cluster.purge(scope, value).await.map_err(|error| refused(&error))
}

fn refused(error: &ClusterError) -> Problem {
    tracing::debug!(%error, "a change came to nothing");
    match error {
        ClusterError::Store(StoreError::Full { .. }) => {
            let detail = "a majority of the members has no room";
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail)
        }
        other => not_served(other),
    }
}
