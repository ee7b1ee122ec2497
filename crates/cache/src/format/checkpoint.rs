//! A checkpoint: the index and the map of segments, so that recovery need not replay the journal from its beginning.
//!
//! ```text
//! header block | pages of segments | pages of purge rules | pages of index entries
//! ```
//! The header is written last: until then the slot holds the header of an older checkpoint, whose number its pages no
//! longer bear.
use crate::format::layout::{SEGMENTS_PER_PAGE, SLOTS_PER_PAGE};
use crate::format::location::Location;
use crate::format::rule::Rule;
use crate::format::{BLOCK_BYTES, FormatError, Writer, seal, unseal};

const HEAD_MAGIC: [u8; 8] = *b"SwChkHed";
const PAGE_MAGIC: [u8; 8] = *b"SwChkPag";

/// What a checkpoint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) epoch: u64,
    /// Counts checkpoints; the higher is the newer.
    pub(crate) number: u64,
    /// The first journal block whose changes may be missing here.
    pub(crate) journal_start: u64,
    /// Sequence numbers from here on were not used.
    pub(crate) next_seq: u64,
    pub(crate) segments: u32,
    pub(crate) entries: u64,
    /// The generation that new objects belonged to.
    pub(crate) generation: u64,
    /// Blocks of purge rules.
    pub(crate) rule_pages: u32,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut w = Writer::new(&mut block);
        w.put(&HEAD_MAGIC);
        for field in [
            self.epoch,
            self.number,
            self.journal_start,
            self.next_seq,
            u64::from(self.segments),
            self.entries,
            self.generation,
            u64::from(self.rule_pages),
        ] {
            w.u64(field);
        }
        seal(&mut block);
        block
    }

    pub(crate) fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Self, FormatError> {
        let mut r = unseal(block, HEAD_MAGIC, "a checkpoint's header")?;
        let (epoch, number, journal_start, next_seq) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let segments = r.u64()?;
        let many = FormatError::Field { what: "segments", value: segments, reason: "too many" };
        Ok(Self {
            epoch,
            number,
            journal_start,
            next_seq,
            segments: u32::try_from(segments).map_err(|_| many)?,
            entries: r.u64()?,
            generation: r.u64()?,
            rule_pages: u32::try_from(r.u64()?).unwrap_or(u32::MAX),
        })
    }

    /// Blocks of segments behind the header.
    pub(crate) fn segment_pages(&self) -> u64 {
        u64::from(self.segments).div_ceil(SEGMENTS_PER_PAGE)
    }

    /// Blocks of index entries behind those.
    pub(crate) fn entry_pages(&self) -> u64 {
        self.entries.div_ceil(SLOTS_PER_PAGE)
    }
}

/// A segment as checkpointed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) first: u32,
    pub(crate) regions: u32,
    pub(crate) seq: u64,
    pub(crate) age: u64,
    pub(crate) cursor: u64,
    pub(crate) kind: u8,
    pub(crate) open: bool,
}

/// Encodes page `page` of checkpoint `number` from at most [`SEGMENTS_PER_PAGE`] segments.
pub(crate) fn encode_segments(
    number: u64,
    page: u64,
    segments: &[SegmentEntry],
) -> [u8; BLOCK_BYTES] {
    encode_page(number, page, segments, |w, segment| {
        w.u32(segment.first);
        w.u32(segment.regions);
        w.u64(segment.seq);
        w.u64(segment.age);
        w.u64(segment.cursor);
        w.u8(segment.kind);
        w.u8(u8::from(segment.open));
    })
}

/// Bytes of rules that fit into a page.
const RULES_PER_PAGE_BYTES: usize = BLOCK_BYTES - 8 - 8 - 8 - 4 - 4;

/// Cuts rules into runs of which each fits into a page.
pub(crate) fn rule_runs(rules: &[Rule]) -> Vec<&[Rule]> {
    let mut runs = Vec::new();
    let mut rest = rules;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|rule| {
            bytes += rule.encoded_len();
            bytes <= RULES_PER_PAGE_BYTES
        });
        let (run, after) = rest.split_at(fits.count().max(1));
        runs.push(run);
        rest = after;
    }
    runs
}

/// Encodes page `page` of checkpoint `number` from a run of rules.
pub(crate) fn encode_rules(number: u64, page: u64, rules: &[Rule]) -> [u8; BLOCK_BYTES] {
    encode_page(number, page, rules, |w, rule| rule.encode(w))
}

/// The rules of a page.
pub(crate) fn decode_rules(
    block: &[u8; BLOCK_BYTES],
    number: u64,
    page: u64,
) -> Result<Vec<Rule>, FormatError> {
    decode_page(block, number, page, Rule::decode)
}

/// Encodes page `page` of checkpoint `number` from at most [`SLOTS_PER_PAGE`] entries.
pub(crate) fn encode_entries(
    number: u64,
    page: u64,
    entries: &[(u64, Location)],
) -> [u8; BLOCK_BYTES] {
    encode_page(number, page, entries, |w, (hash, location)| {
        w.u64(*hash);
        w.u64(location.get());
    })
}

fn encode_page<T>(
    number: u64,
    page: u64,
    items: &[T],
    put: impl Fn(&mut Writer<'_>, &T),
) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut w = Writer::new(&mut block[..BLOCK_BYTES - 4]);
    w.put(&PAGE_MAGIC);
    w.u64(number);
    w.u64(page);
    w.u32(u32::try_from(items.len()).unwrap_or(u32::MAX));
    for item in items {
        put(&mut w, item);
    }
    seal(&mut block);
    block
}

/// The segments of a page.
pub(crate) fn decode_segments(
    block: &[u8; BLOCK_BYTES],
    number: u64,
    page: u64,
) -> Result<Vec<SegmentEntry>, FormatError> {
    decode_page(block, number, page, |r| {
        Ok(SegmentEntry {
            first: r.u32()?,
            regions: r.u32()?,
            seq: r.u64()?,
            age: r.u64()?,
            cursor: r.u64()?,
            kind: r.u8()?,
            open: r.u8()? != 0,
        })
    })
}

/// The entries of a page.
pub(crate) fn decode_entries(
    block: &[u8; BLOCK_BYTES],
    number: u64,
    page: u64,
) -> Result<Vec<(u64, Location)>, FormatError> {
    decode_page(block, number, page, |r| {
        let hash = r.u64()?;
        let none = FormatError::Field { what: "location", value: 0, reason: "is none" };
        Location::from_raw(r.u64()?).map(|location| (hash, location)).ok_or(none)
    })
}

fn decode_page<T>(
    block: &[u8; BLOCK_BYTES],
    number: u64,
    page: u64,
    take: impl Fn(&mut crate::format::Reader<'_>) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    let mut r = unseal(block, PAGE_MAGIC, "a checkpoint's page")?;
    for (what, wanted) in [("checkpoint number", number), ("page number", page)] {
        let found = r.u64()?;
        if found != wanted {
            return Err(FormatError::Field {
                what,
                value: found,
                reason: "is that of another checkpoint",
            });
        }
    }
    (0..r.u32()?).map(|_| take(&mut r)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::checks;
    use crate::format::rule::Scope;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_come_back_and_belong_to_one_checkpoint(units in proptest::collection::vec(1..1u64 << 38, 0..240), number: u64, page: u64) {
            let entries: Vec<_> = units.iter().map(|unit| (unit ^ 0xabcd, Location::new(*unit, 5, 9))).collect();
            let block = encode_entries(number, page, &entries);
            prop_assert_eq!(decode_entries(&block, number, page).expect("sound"), entries);
            prop_assert!(decode_entries(&block, number.wrapping_add(1), page).is_err());
            prop_assert!(decode_entries(&block, number, page.wrapping_add(1)).is_err());
        }

        #[test]
        fn segments_and_heads_come_back(first: u32, regions: u32, seq: u64, age: u64, cursor: u64, kind: u8, open: bool) {
            let segment = SegmentEntry { first, regions, seq, age, cursor, kind, open };
            let all = vec![segment; usize::try_from(SEGMENTS_PER_PAGE).expect("small")];
            prop_assert_eq!(decode_segments(&encode_segments(1, 2, &all), 1, 2).expect("sound"), all);
            let head = Head { epoch: seq, number: age, journal_start: cursor, next_seq: seq ^ age, segments: first, entries: age, generation: seq, rule_pages: regions };
            prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
        }

        #[test]
        fn rules_fit_into_the_pages_that_are_kept_for_them(texts in proptest::collection::vec("[a-z]{1,2048}", 0..40), blocks in 2..16usize) {
            let mut rules = Vec::new();
            let mut bytes = 0;
            for (generation, text) in texts.into_iter().enumerate() {
                let rule = Rule { generation: generation as u64, scope: Scope::Prefix(text.into()) };
                bytes += rule.encoded_len();
                if bytes > blocks * 2000 {
                    break;
                }
                rules.push(rule);
            }
            let runs = rule_runs(&rules);
            prop_assert!(runs.len() <= blocks);
            let mut back = Vec::new();
            for (page, run) in runs.iter().enumerate() {
                back.extend(decode_rules(&encode_rules(1, page as u64, run), 1, page as u64).expect("sound"));
            }
            prop_assert_eq!(back, rules);
        }

        #[test]
        fn invented_pages_never_panic(content in proptest::collection::vec(any::<u8>(), 0..400), count: u32) {
            let mut bytes = vec![0; 16];
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&content);
            let page = checks::sealed(PAGE_MAGIC, &bytes);
            drop(decode_segments(&page, 0, 0));
            drop(decode_entries(&page, 0, 0));
            drop(decode_rules(&page, 0, 0));
            drop(Head::decode(&checks::sealed(HEAD_MAGIC, &content)));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let segment =
            SegmentEntry { first: 1, regions: 2, seq: 3, age: 4, cursor: 5, kind: 1, open: true };
        let segments = encode_segments(7, 0, &[segment; 5]);
        checks::every_flipped_bit_is_noticed(&segments, |b| decode_segments(b, 7, 0).is_ok());
        let entries = encode_entries(7, 1, &[(1, Location::new(9, 3, 2)); 240]);
        checks::every_flipped_bit_is_noticed(&entries, |b| decode_entries(b, 7, 1).is_ok());
        let head = Head {
            epoch: 1,
            number: 7,
            journal_start: 2,
            next_seq: 9,
            segments: 5,
            entries: 240,
            generation: 3,
            rule_pages: 1,
        };
        checks::every_flipped_bit_is_noticed(&head.encode(), |b| Head::decode(b).is_ok());
    }

    #[test]
    fn a_full_page_holds_all_that_the_layout_counts_on() {
        let entries: Vec<_> = (1..=SLOTS_PER_PAGE).map(|n| (n, Location::new(n, n, n))).collect();
        assert_eq!(decode_entries(&encode_entries(1, 1, &entries), 1, 1), Ok(entries));
    }
}
