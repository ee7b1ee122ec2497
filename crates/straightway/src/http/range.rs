//! Which bytes a `Range` header asks for (RFC 9110 §14): a pure function of the header and the object's length.
//!
//! What a server may choose, chosen here: more than [`MAX_RANGES`] ranges are answered with the whole object (§14.2 lets a
//! server ignore such a header), ranges that overlap or lie closer together than a part's framing costs are merged
//! (§15.3.7.2), and what merges into one range is answered as a single part.
use std::ops::Range;

/// Most ranges that one request may name.
pub const MAX_RANGES: usize = 64;

/// Gaps up to this many bytes cost less to send than the framing of another part.
const MERGE_GAP: u64 = 80;

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The whole object, with 200: no usable `Range` header.
    Whole,
    /// One range, with 206.
    Single(Range<u64>),
    /// At least two ranges that neither touch nor overlap, in the order of the request, with 206 and `multipart/byteranges`.
    Multi(Vec<Range<u64>>),
    /// Nothing that was asked for exists: 416.
    Unsatisfiable,
}

/// Decides on a `Range` header's value for an object of `len` bytes.
///
/// A header that cannot be parsed is ignored, as §14.2 demands.
///
/// ```
/// use straightway::http::range::{decide, Decision};
/// assert_eq!(decide(b"bytes=0-99", 1000), Decision::Single(0..100));
/// assert_eq!(decide(b"bytes=-100", 1000), Decision::Single(900..1000));
/// assert_eq!(decide(b"bytes=1000-", 1000), Decision::Unsatisfiable);
/// assert_eq!(decide(b"lines=1-2", 1000), Decision::Whole);
/// ```
pub fn decide(header: &[u8], len: u64) -> Decision {
    let Some(set) = ranges_specifier(header) else { return Decision::Whole };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut specs = 0;
    for element in set.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if element.is_empty() {
            continue;
        }
        specs += 1;
        match resolve(element, len) {
            Resolved::Invalid => return Decision::Whole,
            _ if specs > MAX_RANGES => return Decision::Whole,
            Resolved::Outside => {}
            Resolved::Inside(range) => merge(&mut ranges, range),
        }
    }
    match (specs, ranges.len()) {
        (0, _) => Decision::Whole,
        (_, 0) if len == 0 && asks_only_for_suffixes(set) => Decision::Whole,
        (_, 0) => Decision::Unsatisfiable,
        (_, 1) => Decision::Single(ranges.swap_remove(0)),
        _ => Decision::Multi(ranges),
    }
}

/// The range set after `bytes=`; `None` for another unit, whose names compare without regard to case.
fn ranges_specifier(header: &[u8]) -> Option<&[u8]> {
    let (unit, set) = header.split_at_checked(6)?;
    unit.eq_ignore_ascii_case(b"bytes=").then_some(set)
}

enum Resolved {
    Invalid,
    Outside,
    Inside(Range<u64>),
}

fn resolve(spec: &[u8], len: u64) -> Resolved {
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else { return Resolved::Invalid };
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (position(first), position(last)) {
        (Some(Position::At(first)), Some(Position::At(last))) if first > last => Resolved::Invalid,
        (Some(Position::At(first)), Some(last)) if first < len => {
            let end = match last {
                Position::At(last) => last.saturating_add(1).min(len),
                Position::Absent => len,
            };
            Resolved::Inside(first..end)
        }
        (Some(Position::Absent), Some(Position::At(suffix))) if suffix > 0 && len > 0 => {
            Resolved::Inside(len.saturating_sub(suffix)..len)
        }
        (Some(Position::At(_)), Some(_)) | (Some(Position::Absent), Some(Position::At(_))) => {
            Resolved::Outside
        }
        _ => Resolved::Invalid,
    }
}

enum Position {
    Absent,
    At(u64),
}

/// A number too large for 64 bits is beyond the end of any object: the largest one stands for it.
fn position(digits: &[u8]) -> Option<Position> {
    if digits.is_empty() {
        return Some(Position::Absent);
    }
    let mut value = 0_u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    }
    Some(Position::At(value))
}

/// Adds a range, merged with those it overlaps or nearly touches; the merged range takes the place of the earliest of them.
fn merge(ranges: &mut Vec<Range<u64>>, mut new: Range<u64>) {
    let mut place = None;
    let mut at = 0;
    while at < ranges.len() {
        let old = &ranges[at];
        if new.start <= old.end.saturating_add(MERGE_GAP)
            && old.start <= new.end.saturating_add(MERGE_GAP)
        {
            new = new.start.min(old.start)..new.end.max(old.end);
            ranges.remove(at);
            place = Some(place.map_or(at, |place: usize| place.min(at)));
            // The grown range may now reach one that was passed over.
            at = 0;
        } else {
            at += 1;
        }
    }
    ranges.insert(place.unwrap_or(ranges.len()), new);
}

/// A suffix of an empty object is satisfiable and has no bytes; there is no `Content-Range` for that, so it gets the whole.
fn asks_only_for_suffixes(set: &[u8]) -> bool {
    set.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
        .all(|element| {
            element.starts_with(b"-") && element.iter().any(|byte| matches!(byte, b'1'..=b'9'))
        })
}
