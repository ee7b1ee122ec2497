//! GET and HEAD: find, decide, and choose how the bytes leave.
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    CONTENT_RANGE, CONTENT_TYPE, HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use straightway_cache::{CacheError, Object, ReadPath};
use straightway_cluster::Cluster;
use straightway_cluster::catalogue::Entry;

use super::arriving::ArrivingBody;
use super::body::{Body, COPY_BYTES, ObjectBody, Piece, WINDOW_BYTES};
use super::cache_status::{CACHE_STATUS, HIT, MEMBER_HIT, MISS};
use super::conditional::{self, Action, Current, Outcome};
use super::exchange::Exchange;
use super::head::{self, Head};
use super::problem::Problem;
use super::range::{self, Decision};
use super::{bad_key, key};
use crate::member::{self, Begun, Found, meta_of};

/// An object that is lost while it is looked for is looked for again so often.
const TRIES: usize = 3;

/// What to answer, once the object has been found.
#[derive(Debug)]
enum Plan {
    Whole,
    Single(Range<u64>),
    /// Ranges, and what stands between them in the body.
    Multi(Vec<Range<u64>>, String),
    NotModified,
    Failed,
    Unsatisfiable,
}

/// Answers GET and HEAD.
pub(crate) async fn answer(
    exchange: &Arc<Exchange>,
    parts: Parts,
) -> Result<Response<Body>, Problem> {
    let Parts { method, uri, mut headers, .. } = parts;
    let key = key::from_target(uri.path(), uri.query()).map_err(bad_key)?;
    if let Some(cluster) = exchange.node().cluster() {
        // Boxed: a node on its own does not carry the state of a fetch in each of its connections.
        return Box::pin(of_cluster(exchange, cluster, &method, &key, headers)).await;
    }
    let found = exchange.node().cache.open(&key).await;
    let object = found.map_err(|error| Problem::from_cache(&error))?.ok_or_else(miss)?;
    let plan = plan(&method, &headers, &object);
    match send(exchange, &object, plan, method == Method::HEAD, &mut headers).await {
        Ok(response) => Ok(response),
        // Found damaged after all: to the reader it is not there.
        Err(CacheError::Corrupt { .. }) => Err(miss()),
        Err(error) => Err(Problem::from_cache(&error)),
    }
}

/// Answers as a member of a cluster, wherever the bytes are.
async fn of_cluster(
    exchange: &Arc<Exchange>,
    cluster: &Cluster,
    method: &Method,
    key: &str,
    mut headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let head_only = method == Method::HEAD;
    for _ in 0..TRIES {
        match member::find(cluster, &exchange.node().cache, key, &headers).await? {
            Found::Here(entry, object) => {
                let plan = plan(method, &headers, &object);
                match send(exchange, &object, plan, head_only, &mut headers).await {
                    Ok(response) => return Ok(response),
                    // The others have it, perhaps.
                    Err(CacheError::Corrupt { .. } | CacheError::Io { .. }) => {
                        cluster.lost(entry.object);
                    }
                    Err(error) => return Err(Problem::from_cache(&error)),
                }
            }
            Found::Elsewhere(entry) => {
                let answer = elsewhere(exchange, cluster, &entry, method, &mut headers).await?;
                if let Some(response) = answer {
                    return Ok(response);
                }
            }
            Found::Nothing => return Err(miss()),
        }
    }
    Err(Problem::busy(
        "the object is lost as fast as it is fetched; see to the cache's size and disk",
    ))
}

fn miss() -> Problem {
    Problem::not_found().with(CACHE_STATUS, MISS)
}

/// The answer for an object that other members have; `None`: it is here now. Conditions and ranges are judged by what the
/// catalogue says of it: where they ask for no bytes, none are fetched.
async fn elsewhere(
    exchange: &Arc<Exchange>,
    cluster: &Cluster,
    entry: &Arc<Entry>,
    method: &Method,
    headers: &mut HeaderMap,
) -> Result<Option<Response<Body>>, Problem> {
    let mut head = Head::of_meta(&meta_of(entry));
    let mut plan = decide(method, headers, entry.len, head.current());
    let body = match &plan {
        Plan::Whole if method != Method::HEAD && entry.len > 0 => {
            let Some(begun) = member::stream(cluster, entry).await? else { return Ok(None) };
            arriving(exchange, cluster, entry, 0..entry.len, begun)
        }
        Plan::Single(range) => {
            let begun = member::part(cluster, entry, range.clone()).await?;
            arriving(exchange, cluster, entry, range.clone(), begun)
        }
        Plan::Multi(..) => {
            if member::bring(cluster, entry).await? {
                return Ok(None);
            }
            // What only passes through goes in one piece: ranges may be ignored (RFC 9110 §14.2).
            plan = Plan::Whole;
            let begun = member::part(cluster, entry, 0..entry.len).await?;
            arriving(exchange, cluster, entry, 0..entry.len, begun)
        }
        _ => Body::Empty,
    };
    headers.clear();
    headers.insert(CACHE_STATUS, MEMBER_HIT);
    Ok(Some(respond(&mut head, &plan, entry.len, body, headers)))
}

fn arriving(
    exchange: &Arc<Exchange>,
    cluster: &Cluster,
    entry: &Arc<Entry>,
    range: Range<u64>,
    begun: Begun,
) -> Body {
    exchange.start_body(ReadPath::Pread, range.end - range.start, None);
    let (exchange, cluster, entry) = (exchange.clone(), cluster.clone(), entry.clone());
    Body::Arriving(Box::new(ArrivingBody::new(exchange, cluster, entry, range, begun)))
}

fn plan(method: &Method, headers: &HeaderMap, object: &Object) -> Plan {
    let judged = headers.keys().any(|name| {
        name == IF_NONE_MATCH
            || name == IF_MODIFIED_SINCE
            || name == IF_MATCH
            || name == IF_UNMODIFIED_SINCE
            || name == RANGE
    });
    if !judged {
        return Plan::Whole;
    }
    head::of(object, |head| decide(method, headers, object.len(), head.current()))
}

/// Judges conditions and ranges.
fn decide(method: &Method, headers: &HeaderMap, len: u64, current: Current<'_>) -> Plan {
    match conditional::evaluate(Action::Read, headers, Some(current)) {
        Outcome::Proceed => {}
        Outcome::NotModified => return Plan::NotModified,
        Outcome::Failed => return Plan::Failed,
    }
    // Range is defined for GET only (RFC 9110 §14.2).
    if method != Method::GET {
        return Plan::Whole;
    }
    let Some(value) = only(headers, &RANGE) else { return Plan::Whole };
    if headers.contains_key(IF_RANGE) {
        let applies = only(headers, &IF_RANGE)
            .is_some_and(|condition| conditional::range_applies(condition.as_bytes(), current));
        if !applies {
            return Plan::Whole;
        }
    }
    match range::decide(value.as_bytes(), len) {
        Decision::Whole => Plan::Whole,
        Decision::Single(range) => Plan::Single(range),
        Decision::Multi(ranges) => Plan::Multi(ranges, String::new()),
        Decision::Unsatisfiable => Plan::Unsatisfiable,
    }
}

/// The header's value where it stands once; twice is malformed and counts as absent.
fn only<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Makes the body, and turns the request's headers into the answer's: hyper takes the map back afterwards and parses the next
/// request into it. Where it fails they are as they were.
async fn send(
    exchange: &Arc<Exchange>,
    object: &Object,
    mut plan: Plan,
    head_only: bool,
    headers: &mut HeaderMap,
) -> Result<Response<Body>, CacheError> {
    let len = object.len();
    let body = match &mut plan {
        Plan::Whole if !head_only && len > 0 => single(exchange, object, 0..len).await?,
        Plan::Single(range) => single(exchange, object, range.clone()).await?,
        Plan::Multi(ranges, boundary) => {
            *boundary = exchange.node().next_boundary();
            several(exchange, object, ranges, boundary)
        }
        _ => Body::Empty,
    };
    headers.clear();
    headers.insert(CACHE_STATUS, HIT);
    Ok(head::of(object, |head| respond(head, &plan, len, body, headers)))
}

/// Fills in the headers.
fn respond(
    head: &mut Head,
    plan: &Plan,
    len: u64,
    body: Body,
    headers: &mut HeaderMap,
) -> Response<Body> {
    let now_ms = unix_ms();
    let status = match plan {
        Plan::Whole => {
            whole(head, headers, now_ms);
            if matches!(body, Body::Empty) {
                head.whole_length(headers);
            }
            StatusCode::OK
        }
        Plan::Single(range) => {
            whole(head, headers, now_ms);
            headers.insert(CONTENT_RANGE, content_range(range, len));
            StatusCode::PARTIAL_CONTENT
        }
        Plan::Multi(_, boundary) => {
            whole(head, headers, now_ms);
            headers
                .insert(CONTENT_TYPE, text(format!("multipart/byteranges; boundary={boundary}")));
            StatusCode::PARTIAL_CONTENT
        }
        Plan::NotModified => {
            head.validators(headers, now_ms);
            StatusCode::NOT_MODIFIED
        }
        Plan::Failed => return refuse(Problem::precondition(), headers),
        Plan::Unsatisfiable => {
            let detail =
                format!("the object has {len} bytes and none of the ranges lies inside it");
            headers.insert(CONTENT_RANGE, text(format!("bytes */{len}")));
            return refuse(Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, detail), headers);
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = std::mem::take(headers);
    response
}

fn whole(head: &mut Head, headers: &mut HeaderMap, now_ms: u64) {
    head.validators(headers, now_ms);
    head.representation(headers);
}

fn refuse(problem: Problem, headers: &mut HeaderMap) -> Response<Body> {
    let mut response = problem.into_response();
    headers.extend(std::mem::take(response.headers_mut()));
    *response.headers_mut() = std::mem::take(headers);
    response
}

/// The body of one range, with its first bytes ready to go.
async fn single(
    exchange: &Arc<Exchange>,
    object: &Object,
    range: Range<u64>,
) -> Result<Body, CacheError> {
    let len = range.end - range.start;
    let Some((way, mapped)) = way_out(exchange, object, len) else {
        exchange.start_body(ReadPath::Pread, len, None);
        if len <= COPY_BYTES {
            return Ok(Body::Once(object.read(range, exchange.copy_reason()).await?));
        }
        return Ok(Body::Object(Box::new(ObjectBody::single(
            exchange.clone(),
            object.clone(),
            None,
            range,
        ))));
    };
    // Up to this size opening the object has verified it and brought it into memory.
    if object.len() > exchange.node().verify_ahead {
        object
            .prepare(range.start..range.end.min(range.start.saturating_add(WINDOW_BYTES)))
            .await?;
    }
    exchange.start_body(way, len, Some(object.clone()));
    let body = match (len <= WINDOW_BYTES, slice(&mapped, &range)) {
        (true, Some(bytes)) => Body::Once(bytes),
        _ => Body::Object(Box::new(ObjectBody::single(
            exchange.clone(),
            object.clone(),
            Some(mapped),
            range,
        ))),
    };
    Ok(body)
}

/// The body of several ranges (RFC 9110 §14.6).
fn several(
    exchange: &Arc<Exchange>,
    object: &Object,
    ranges: &[Range<u64>],
    boundary: &str,
) -> Body {
    let content_type = head::of(object, |head| head.content_type().clone());
    let mut pieces = VecDeque::with_capacity(2 * ranges.len() + 1);
    for range in ranges {
        let mut framing = Vec::with_capacity(160);
        framing.extend(format!("\r\n--{boundary}\r\ncontent-type: ").into_bytes());
        framing.extend(content_type.as_bytes());
        framing.extend(b"\r\ncontent-range: ");
        framing.extend(content_range(range, object.len()).as_bytes());
        framing.extend(b"\r\n\r\n");
        pieces.push_back(Piece::Framing(Bytes::from(framing)));
        pieces.push_back(Piece::Span(range.clone()));
    }
    pieces.push_back(Piece::Framing(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    let len = ranges.iter().map(|range| range.end - range.start).sum();
    let (way, mapped) = way_out(exchange, object, len)
        .map_or((ReadPath::Pread, None), |(way, mapped)| (way, Some(mapped)));
    exchange.start_body(way, len, mapped.is_some().then(|| object.clone()));
    Body::Object(Box::new(ObjectBody::several(exchange.clone(), object.clone(), mapped, pieces)))
}

/// The way out without a copy, with the mapped object; `None`: copy.
fn way_out(exchange: &Exchange, object: &Object, len: u64) -> Option<(ReadPath, Bytes)> {
    if exchange.is_encrypted() {
        return None;
    }
    match exchange.node().cache.zero_copy().choose_for(len, exchange.is_local()) {
        ReadPath::Pread => None,
        way => Some((way, object.bytes()?)),
    }
}

fn slice(mapped: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    Some(mapped.slice(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?))
}

fn content_range(range: &Range<u64>, len: u64) -> HeaderValue {
    text(format!("bytes {}-{}/{len}", range.start, range.end - 1))
}

/// A header value made here, of characters that are allowed there.
fn text(value: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(value)).unwrap_or(HeaderValue::from_static(""))
}

fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
