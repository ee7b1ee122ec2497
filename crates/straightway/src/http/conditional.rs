//! Whether a conditional request goes ahead (RFC 9110 §13): a pure function of its headers and the stored object.
//!
//! Conditions are looked at in the order of §13.2.2 and only where the request would otherwise succeed; the caller
//! answers a GET of a missing object with 404 without asking here.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};

use super::etag::{self, Comparison, EntityTag};

/// What kind of request the conditions belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// GET or HEAD.
    Read,
    /// A method that changes the object.
    Change,
}

/// The stored object, as far as conditions ask about it.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// Its entity tag, quotes included.
    pub etag: &'a [u8],
    /// When it last changed, in milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
}

/// What to do with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Carry it out.
    Proceed,
    /// 304: the client has it already.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates all preconditions against the stored object, or its absence.
pub fn evaluate(action: Action, headers: &HeaderMap, current: Option<Current<'_>>) -> Outcome {
    if headers.contains_key(IF_MATCH) {
        if !any_tag(headers, &IF_MATCH, current, Comparison::Strong) {
            return Outcome::Failed;
        }
    } else if let (Some(limit), Some(current)) = (date(headers, &IF_UNMODIFIED_SINCE), current)
        && seconds(current) > limit
    {
        return Outcome::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if any_tag(headers, &IF_NONE_MATCH, current, Comparison::Weak) {
            return if action == Action::Read { Outcome::NotModified } else { Outcome::Failed };
        }
    } else if action == Action::Read
        && let (Some(limit), Some(current)) = (date(headers, &IF_MODIFIED_SINCE), current)
        && seconds(current) <= limit
    {
        return Outcome::NotModified;
    }
    Outcome::Proceed
}

/// Whether a `Range` header counts, given the value of `If-Range` (§13.1.5).
///
/// Only a strong entity tag will do. A date never does: an object may be replaced twice within a second, and a client
/// that put the two halves together would have bytes that never existed. Every object here has an entity tag, which a
/// client must prefer, so nothing is lost but a shortcut.
pub fn range_applies(if_range: &[u8], current: Current<'_>) -> bool {
    match (EntityTag::parse(if_range), EntityTag::parse(current.etag)) {
        (Some(asked), Some(stored)) => asked.matches(&stored, Comparison::Strong),
        _ => false,
    }
}

/// `*` matches any stored object; a list matches when one of its tags does.
fn any_tag(
    headers: &HeaderMap,
    name: &http::HeaderName,
    current: Option<Current<'_>>,
    how: Comparison,
) -> bool {
    let Some(stored) = current.and_then(|current| EntityTag::parse(current.etag)) else {
        return false;
    };
    headers.get_all(name).iter().any(|value| {
        let text = value.as_bytes().trim_ascii();
        text == b"*" || etag::list(text).any(|tag| tag.matches(&stored, how))
    })
}

/// The date of a header in seconds since the epoch; a malformed or repeated one counts as absent (§13.1.3, §13.1.4).
fn date(headers: &HeaderMap, name: &http::HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let time = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// HTTP dates have a resolution of one second.
fn seconds(current: Current<'_>) -> u64 {
    current.last_modified_ms / 1000
}

/// Formats a time as an HTTP date.
pub fn format_date(ms: u64) -> String {
    // httpdate panics on years after 9999; a time there can only come from a damaged header.
    const YEAR_9999_MS: u64 = 253_402_300_799_000;
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(ms.min(YEAR_9999_MS));
    httpdate::fmt_http_date(time)
}
