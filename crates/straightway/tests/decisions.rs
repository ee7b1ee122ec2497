//! Range and precondition decisions: tables that a reader can check against the RFC, and an oracle that marks bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use straightway::http::conditional::{Action, Current, Outcome, evaluate, range_applies};
use straightway::http::range::{Decision, MAX_RANGES, decide};

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| line.split('|').map(str::trim).collect())
}

#[test]
fn ranges_follow_the_table() {
    let mut count = 0;
    for row in rows(include_str!("tables/range.txt")) {
        let [len, header, expected] = row[..] else { panic!("a row of three: {row:?}") };
        let found = match decide(header.as_bytes(), len.parse().unwrap()) {
            Decision::Whole => "whole".to_owned(),
            Decision::Unsatisfiable => "none".to_owned(),
            Decision::Single(range) => format!("single {}-{}", range.start, range.end - 1),
            Decision::Multi(ranges) => {
                let parts =
                    ranges.iter().map(|range| format!(" {}-{}", range.start, range.end - 1));
                format!("multi{}", parts.collect::<String>())
            }
        };
        assert_eq!(found, expected, "{header} of {len}");
        count += 1;
    }
    assert!(count > 50, "the table was read");
}

#[test]
fn too_many_ranges_get_the_whole_object() {
    let header = |count: u64| {
        let specs: Vec<String> = (0..count).map(|at| format!("{0}-{0}", at * 1000)).collect();
        format!("bytes={}", specs.join(","))
    };
    let most = MAX_RANGES as u64;
    assert!(
        matches!(decide(header(most).as_bytes(), 1 << 30), Decision::Multi(ranges) if ranges.len() == MAX_RANGES)
    );
    assert_eq!(decide(header(most + 1).as_bytes(), 1 << 30), Decision::Whole);
}

#[test]
fn conditions_follow_the_table() {
    let mut count = 0;
    for row in rows(include_str!("tables/conditional.txt")) {
        let [action, stored, headers, expected] = row[..] else { panic!("a row of four: {row:?}") };
        let action = if action == "read" { Action::Read } else { Action::Change };
        let stored =
            stored.split_once(" @ ").map(|(tag, seconds)| (tag, seconds.parse::<u64>().unwrap()));
        let current = stored.map(|(tag, seconds)| Current {
            etag: tag.as_bytes(),
            last_modified_ms: seconds * 1000 + 999,
        });
        let base = stored.map_or(1_000_000_000, |(_, seconds)| seconds);
        let found = match evaluate(action, &parse_headers(headers, base), current) {
            Outcome::Proceed => "proceed",
            Outcome::NotModified => "304",
            Outcome::Failed => "412",
        };
        assert_eq!(found, expected, "{row:?}");
        count += 1;
    }
    assert!(count > 35, "the table was read");
}

fn parse_headers(text: &str, base_s: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in text.split(" ; ").filter_map(|header| header.split_once(": ")) {
        let value = match value.strip_prefix('T').and_then(|offset| offset.parse::<i64>().ok()) {
            Some(offset) => {
                let time = std::time::UNIX_EPOCH
                    + std::time::Duration::from_secs(base_s.checked_add_signed(offset).unwrap());
                httpdate::fmt_http_date(time)
            }
            None => value.to_owned(),
        };
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
    }
    headers
}

#[test]
fn a_range_is_resumed_only_on_a_strong_match() {
    let strong = Current { etag: b"\"a\"", last_modified_ms: 1_000_000_000_000 };
    let weak = Current { etag: b"W/\"a\"", ..strong };
    assert!(range_applies(b"\"a\"", strong));
    assert!(!range_applies(b"W/\"a\"", strong));
    assert!(!range_applies(b"\"b\"", strong));
    assert!(!range_applies(b"\"a\"", weak) && !range_applies(b"W/\"a\"", weak));
    let date = httpdate::fmt_http_date(
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000),
    );
    assert!(
        !range_applies(date.as_bytes(), strong),
        "a date has a resolution of a second: it is never strong here"
    );
    assert!(!range_applies(b"", strong));
}

/// One element of a range set, with what it asks for by the letter of RFC 9110 §14.1.2.
fn spec() -> impl Strategy<Value = String> {
    prop_oneof![
        (0_u64..300, 0_u64..300).prop_map(|(first, last)| format!("{first}-{last}")),
        (0_u64..300).prop_map(|first| format!("{first}-")),
        (0_u64..300).prop_map(|suffix| format!("-{suffix}")),
    ]
}

/// Marks the bytes that a spec asks for; `None`: the spec is invalid.
fn oracle(spec: &str, marks: &mut [bool]) -> Option<()> {
    let (first, last) = spec.split_once('-')?;
    let len = marks.len();
    let range = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first > last => return None,
        (Ok(first), Ok(last)) => first..(last + 1).min(len),
        (Ok(first), Err(_)) => first..len,
        (Err(_), Ok(suffix)) => len.saturating_sub(suffix)..len,
        _ => return None,
    };
    for at in range {
        marks[at] = true;
    }
    Some(())
}

proptest! {
    #[test]
    fn decisions_cover_exactly_what_was_asked_for_plus_small_gaps(
        len in 1_usize..256,
        specs in prop::collection::vec(spec(), 1..12),
    ) {
        let header = format!("bytes={}", specs.join(", "));
        let mut asked = vec![false; len];
        let valid = specs.iter().all(|spec| oracle(spec, &mut asked).is_some());
        let decision = decide(header.as_bytes(), len as u64);
        if !valid {
            prop_assert_eq!(decision, Decision::Whole);
            return Ok(());
        }
        let ranges = match decision {
            Decision::Single(range) => vec![range],
            Decision::Multi(ranges) => { prop_assert!(ranges.len() > 1); ranges }
            Decision::Unsatisfiable => { prop_assert!(!asked.contains(&true)); return Ok(()); }
            Decision::Whole => { prop_assert!(false, "ignored {}", header); return Ok(()); }
        };
        let mut given = vec![0_u8; len];
        for range in &ranges {
            prop_assert!(range.start < range.end && range.end <= len as u64);
            for at in range.clone() {
                given[usize::try_from(at).unwrap()] += 1;
            }
        }
        let mut gap = 0;
        for (asked, given) in asked.iter().zip(&given) {
            prop_assert!(*given <= 1, "no byte is sent twice");
            prop_assert!(*given == 1 || !asked, "every byte asked for is sent");
            gap = if *given == 1 && !asked { gap + 1 } else { 0 };
            prop_assert!(gap <= 80, "a gap that is worth a part is not sent");
        }
    }

    #[test]
    fn no_header_makes_the_parsers_panic(header in prop::collection::vec(any::<u8>(), 0..64), len in any::<u64>()) {
        let _ = decide(&header, len);
        let mut ranged = b"bytes=".to_vec();
        ranged.extend(&header);
        let _ = decide(&ranged, len);
        let _ = range_applies(&header, Current { etag: b"\"a\"", last_modified_ms: 0 });
    }
}
