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
use straightway_cluster::catalogue::Entry;

use super::body::{ArrivingBody, Body, COPY_BYTES, ObjectBody, Piece, WINDOW_BYTES};
use super::cache_status::{CACHE_STATUS, HIT, MEMBER_HIT, MISS};
use super::conditional::{self, Action, Outcome};
use super::exchange::Exchange;
use super::head::{self, Head};
use super::problem::Problem;
use super::range::{self, Decision};
use super::{bad_key, key};
use crate::member::{self, Chunks, Found, Need, meta_of};

/// What to answer, once the object has been found.
#[derive(Debug)]
enum Plan {
    Whole,
    Single(Range<u64>),
    Multi(Vec<Range<u64>>),
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
    let cache = &exchange.node().cache;
    let object = match exchange.node().cluster() {
        None => {
            let found = cache.open(&key).await.map_err(|error| Problem::from_cache(&error))?;
            found.ok_or_else(miss)?
        }
        Some(cluster) => {
            let need = need(&method, &headers);
            // Boxed: a node on its own does not carry the state of a fetch in each of its connections.
            match Box::pin(member::find(cluster, cache, &key, &headers, need)).await? {
                Found::Here(object) => object,
                Found::Arriving(entry, chunks) => {
                    return Ok(arriving(exchange, &entry, chunks, headers));
                }
                Found::Elsewhere(entry) => return Ok(described(&entry, headers)),
                Found::Nothing => return Err(miss()),
            }
        }
    };
    let plan = plan(&method, &headers, &object);
    // The request's map becomes the answer's: hyper takes it back afterwards and parses the next request into it.
    headers.clear();
    let mut response =
        match send(exchange, &object, plan, method == Method::HEAD, &mut headers).await {
            Ok(response) => response,
            // Found damaged after all: to the reader it is not there.
            Err(CacheError::Corrupt { .. }) => return Err(miss()),
            Err(error) => return Err(Problem::from_cache(&error)),
        };
    *response.headers_mut() = headers;
    Ok(response)
}

fn miss() -> Problem {
    Problem::not_found().with(CACHE_STATUS, MISS)
}

/// What a request needs of an object that is elsewhere. Conditions and ranges are judged when it is here.
fn need(method: &Method, headers: &HeaderMap) -> Need {
    if method == Method::HEAD {
        return Need::Head;
    }
    let judged = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE];
    if judged.iter().any(|name| headers.contains_key(name)) { Need::Whole } else { Need::Stream }
}

/// An object that is served while it comes from another member.
fn arriving(
    exchange: &Arc<Exchange>,
    entry: &Entry,
    chunks: Chunks,
    mut headers: HeaderMap,
) -> Response<Body> {
    headers.clear();
    headers.insert(CACHE_STATUS, MEMBER_HIT);
    whole(&mut Head::of_meta(&meta_of(entry)), &mut headers, unix_ms());
    exchange.start_body(ReadPath::Pread, entry.len, None);
    let body = if entry.len == 0 {
        Body::Empty
    } else {
        Body::Arriving(Box::new(ArrivingBody::new(exchange.clone(), chunks, entry.len)))
    };
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

/// The answer to HEAD for an object that another member has.
fn described(entry: &Entry, mut headers: HeaderMap) -> Response<Body> {
    let mut head = Head::of_meta(&meta_of(entry));
    let outcome = conditional::evaluate(Action::Read, &headers, Some(head.current()));
    headers.clear();
    headers.insert(CACHE_STATUS, MEMBER_HIT);
    let mut response = Response::new(Body::Empty);
    match outcome {
        Outcome::Proceed => {
            whole(&mut head, &mut headers, unix_ms());
            head.whole_length(&mut headers);
        }
        Outcome::NotModified => {
            head.validators(&mut headers, unix_ms());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        Outcome::Failed => response = refuse(Problem::precondition(), &mut headers),
    }
    *response.headers_mut() = headers;
    response
}

fn plan(method: &Method, headers: &HeaderMap, object: &Object) -> Plan {
    let (mut conditional, mut ranged) = (false, false);
    for name in headers.keys() {
        conditional |= name == IF_NONE_MATCH
            || name == IF_MODIFIED_SINCE
            || name == IF_MATCH
            || name == IF_UNMODIFIED_SINCE;
        ranged |= name == RANGE;
    }
    if conditional {
        match head::of(object, |head| {
            conditional::evaluate(Action::Read, headers, Some(head.current()))
        }) {
            Outcome::Proceed => {}
            Outcome::NotModified => return Plan::NotModified,
            Outcome::Failed => return Plan::Failed,
        }
    }
    // Range is defined for GET only (RFC 9110 §14.2).
    if !ranged || method != Method::GET {
        return Plan::Whole;
    }
    let Some(value) = only(headers, &RANGE) else { return Plan::Whole };
    if headers.contains_key(IF_RANGE) {
        let applies = only(headers, &IF_RANGE).is_some_and(|condition| {
            head::of(object, |head| {
                conditional::range_applies(condition.as_bytes(), head.current())
            })
        });
        if !applies {
            return Plan::Whole;
        }
    }
    match range::decide(value.as_bytes(), object.len()) {
        Decision::Whole => Plan::Whole,
        Decision::Single(range) => Plan::Single(range),
        Decision::Multi(ranges) => Plan::Multi(ranges),
        Decision::Unsatisfiable => Plan::Unsatisfiable,
    }
}

/// The header's value where it stands once; twice is malformed and counts as absent.
fn only<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Fills in the headers and makes the body.
async fn send(
    exchange: &Arc<Exchange>,
    object: &Object,
    plan: Plan,
    head_only: bool,
    headers: &mut HeaderMap,
) -> Result<Response<Body>, CacheError> {
    let now_ms = unix_ms();
    headers.insert(CACHE_STATUS, HIT);
    let len = object.len();
    let (status, body) = match plan {
        Plan::Whole if head_only || len == 0 => {
            head::of(object, |head| {
                whole(head, headers, now_ms);
                head.whole_length(headers);
            });
            (StatusCode::OK, Body::Empty)
        }
        Plan::Whole => {
            let body = single(exchange, object, 0..len).await?;
            head::of(object, |head| whole(head, headers, now_ms));
            (StatusCode::OK, body)
        }
        Plan::Single(range) => {
            let body = single(exchange, object, range.clone()).await?;
            head::of(object, |head| whole(head, headers, now_ms));
            headers.insert(CONTENT_RANGE, content_range(&range, len));
            (StatusCode::PARTIAL_CONTENT, body)
        }
        Plan::Multi(ranges) => {
            let boundary = exchange.node().next_boundary();
            let body = several(exchange, object, &ranges, &boundary);
            head::of(object, |head| whole(head, headers, now_ms));
            headers
                .insert(CONTENT_TYPE, text(format!("multipart/byteranges; boundary={boundary}")));
            (StatusCode::PARTIAL_CONTENT, body)
        }
        Plan::NotModified => {
            head::of(object, |head| head.validators(headers, now_ms));
            (StatusCode::NOT_MODIFIED, Body::Empty)
        }
        Plan::Failed => return Ok(refuse(Problem::precondition(), headers)),
        Plan::Unsatisfiable => {
            let detail =
                format!("the object has {len} bytes and none of the ranges lies inside it");
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, detail);
            let response = refuse(problem, headers);
            headers.insert(CONTENT_RANGE, text(format!("bytes */{len}")));
            return Ok(response);
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    Ok(response)
}

fn whole(head: &mut Head, headers: &mut HeaderMap, now_ms: u64) {
    head.validators(headers, now_ms);
    head.representation(headers);
}

fn refuse(problem: Problem, headers: &mut HeaderMap) -> Response<Body> {
    let mut response = problem.into_response();
    headers.extend(std::mem::take(response.headers_mut()));
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
