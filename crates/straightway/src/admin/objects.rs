//! `/api/objects?prefix=&limit=&cursor=`: what is stored, page by page, in the order of the index; in a cluster in that of the keys.
//!
//! A page ends when it has `limit` objects, or after [`MAX_LOOKED_AT`] objects or [`MAX_TIME`]: a rare prefix then gives
//! short, even empty, pages with a `cursor` to go on from. No cursor means that the end was reached. Objects that are
//! stored or removed meanwhile may or may not be seen.
use std::time::Duration;

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use straightway_cache::ObjectMeta;
use straightway_cluster::Cluster;
use tokio::time::{Instant, timeout_at};

use crate::feed::now_ms;
use crate::http::etag;
use crate::http::problem::Problem;
use crate::member::{is_object_key, meta_of};
use crate::state::NodeState;

/// Objects on a page when the request does not say.
const DEFAULT_LIMIT: usize = 100;
/// Most objects on a page.
const MAX_LIMIT: usize = 1000;
/// Most objects that are looked at for one page: each may cost a read from the device.
const MAX_LOOKED_AT: usize = 10_000;
/// Longest that a page may take.
const MAX_TIME: Duration = Duration::from_secs(5);

/// One page.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    objects: Vec<Entry>,
    cursor: Option<Cursor>,
}

/// Where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Cursor {
    /// A place in the index.
    Place(u64),
    /// The last key of the page, in a cluster.
    Key(String),
}

#[derive(Debug, Serialize)]
struct Entry {
    key: String,
    len: u64,
    content_type: Option<String>,
    etag: String,
    stored_ms: u64,
    last_modified_ms: u64,
    expires_ms: Option<u64>,
    tags: Vec<String>,
}

impl From<ObjectMeta> for Entry {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            etag: etag::of(&meta),
            key: meta.key,
            len: meta.len,
            content_type: meta.content_type,
            stored_ms: meta.stored_ms,
            last_modified_ms: meta.last_modified_ms,
            expires_ms: meta.expires_ms,
            tags: meta.tags,
        }
    }
}

/// Reads one page.
pub(super) async fn list(node: &NodeState, query: &str) -> Result<Page, Problem> {
    let Query { prefix, limit, cursor } = Query::parse(query)?;
    if let Some(cluster) = node.cluster() {
        return Ok(of_cluster(cluster, &prefix, limit, cursor.as_deref()));
    }
    let place = cursor.map_or(Ok(0), |cursor| number("cursor", &cursor))?;
    let mut walk = node.cache().iter_from(place);
    let mut objects = Vec::new();
    let deadline = Instant::now() + MAX_TIME;
    for _ in 0..MAX_LOOKED_AT {
        if objects.len() == limit {
            break;
        }
        // Expired objects are passed over inside; the page ends where the time does.
        let Ok(next) = timeout_at(deadline, walk.next()).await else { break };
        match next {
            None => return Ok(Page { objects, cursor: None }),
            // Left from a time in a cluster: nobody can ask for it.
            Some(Ok(meta)) if is_object_key(&meta.key) => {}
            Some(Ok(meta)) if meta.key.starts_with(&prefix) => objects.push(Entry::from(meta)),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Problem::from_cache(&error)),
        }
    }
    Ok(Page { objects, cursor: Some(Cursor::Place(walk.cursor())) })
}

/// What the cluster holds, in the order of the keys: from the one after the cursor on.
fn of_cluster(cluster: &Cluster, prefix: &str, limit: usize, after: Option<&str>) -> Page {
    let now = now_ms();
    let page = cluster.catalogue().list(prefix, after, limit);
    let full = page.last().filter(|_| page.len() == limit);
    let cursor = full.map(|last| Cursor::Key(last.key.to_string()));
    let live = page.iter().filter(|entry| entry.live(now));
    Page { objects: live.map(|entry| Entry::from(meta_of(entry))).collect(), cursor }
}

#[derive(Debug, PartialEq, Eq)]
struct Query {
    prefix: String,
    limit: usize,
    cursor: Option<String>,
}

impl Query {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut parsed = Self { prefix: String::new(), limit: DEFAULT_LIMIT, cursor: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Forms write a space as a plus sign.
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| bad("a value is not UTF-8"))?;
            match name {
                "prefix" => parsed.prefix = value.into_owned(),
                "limit" => parsed.limit = number(name, &value)?,
                "cursor" => parsed.cursor = Some(value.into_owned()),
                _ => {
                    return Err(bad(format!(
                        "{name:?} is not known here; use prefix, limit and cursor"
                    )));
                }
            }
        }
        parsed.limit = parsed.limit.clamp(1, MAX_LIMIT);
        Ok(parsed)
    }
}

fn number<N: std::str::FromStr>(name: &str, value: &str) -> Result<N, Problem> {
    value.parse().map_err(|_| bad(format!("{name} is not a number")))
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_bounded_and_checked() {
        let parse = |query| Query::parse(query).ok();
        let query =
            |prefix: &str, limit, cursor| Some(Query { prefix: prefix.into(), limit, cursor });
        assert_eq!(parse(""), query("", DEFAULT_LIMIT, None));
        let cursor = Some("9/ä".to_owned());
        assert_eq!(parse("prefix=a%2Fb+c&limit=7&cursor=9%2F%C3%A4"), query("a/b c", 7, cursor));
        assert_eq!(parse("limit=0"), query("", 1, None));
        assert_eq!(parse("limit=99999"), query("", MAX_LIMIT, None));
        for wrong in ["limit=x", "prefix=%ff", "page=2"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
