//! The journal: changes to the index in order, in blocks that are written once, in two copies of a ring.
use crate::format::location::Location;
use crate::format::rule::Rule;
use crate::format::{BLOCK_BYTES as BLOCK, FormatError, Reader, Writer, seal, unseal};

/// Bytes of a journal block.
pub(crate) const BLOCK_BYTES: usize = BLOCK;

const MAGIC: [u8; 8] = *b"SwJournl";
const WHAT: &str = "a journal block";
/// Magic, epoch, sequence, synced, count.
const HEAD_BYTES: usize = 8 + 8 + 8 + 8 + 2;

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// A key leads to a new extent.
    Insert { hash: u64, location: Location, extent_units: u64 },
    /// A key leads to a copy of its extent, unless it leads elsewhere by now.
    Move { hash: u64, from: Location, to: Location, extent_units: u64 },
    /// A key leads nowhere.
    Remove { hash: u64 },
    /// A segment was opened, or has more regions than before.
    SegmentOpen { seq: u64, first_region: u32, regions: u32, class: u8 },
    /// A segment is given up; what leads into it leads nowhere.
    SegmentFree { seq: u64, first_region: u32 },
    /// Older objects of a scope are gone.
    Purge(Rule),
}

/// A block being filled.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    block: Box<[u8; BLOCK]>,
    at: usize,
    count: u16,
    head: [u64; 3],
}

impl BlockBuilder {
    /// The block number `seq` of an epoch, written when block `synced` and all before it were known to be on the medium.
    pub(crate) fn new(epoch: u64, seq: u64, synced: u64) -> Self {
        Self { block: Box::new([0; BLOCK]), at: HEAD_BYTES, count: 0, head: [epoch, seq, synced] }
    }

    /// Adds a record; `false`: it does not fit.
    pub(crate) fn push(&mut self, record: &Record) -> bool {
        if let Record::Purge(rule) = record {
            return self.push_rule(rule);
        }
        let mut bytes = [0; 40];
        let mut w = Writer::new(&mut bytes);
        match *record {
            Record::Insert { hash, location, extent_units } => {
                w.u8(1);
                w.u64(hash);
                w.u64(location.get());
                w.u64(extent_units);
            }
            Record::Move { hash, from, to, extent_units } => {
                w.u8(2);
                w.u64(hash);
                w.u64(from.get());
                w.u64(to.get());
                w.u64(extent_units);
            }
            Record::Remove { hash } => {
                w.u8(3);
                w.u64(hash);
            }
            Record::SegmentOpen { seq, first_region, regions, class } => {
                w.u8(4);
                w.u64(seq);
                w.u32(first_region);
                w.u32(regions);
                w.u8(class);
            }
            Record::SegmentFree { seq, first_region } => {
                w.u8(5);
                w.u64(seq);
                w.u32(first_region);
            }
            Record::Purge(_) => {}
        }
        let len = w.at();
        let end = self.at + len;
        if end > BLOCK - 4 {
            return false;
        }
        self.block[self.at..end].copy_from_slice(&bytes[..len]);
        self.at = end;
        self.count += 1;
        true
    }

    fn push_rule(&mut self, rule: &Rule) -> bool {
        let end = self.at + 1 + rule.encoded_len();
        if end > BLOCK - 4 {
            return false;
        }
        let mut w = Writer::new(&mut self.block[self.at..end]);
        w.u8(6);
        rule.encode(&mut w);
        self.at = end;
        self.count += 1;
        true
    }

    /// Writes the finished block.
    pub(crate) fn finish(mut self, out: &mut [u8; BLOCK]) {
        let mut w = Writer::new(&mut self.block[..]);
        w.put(&MAGIC);
        for field in self.head {
            w.u64(field);
        }
        w.u16(self.count);
        seal(&mut self.block);
        *out = *self.block;
    }
}

/// A block that passed its checksum, in place.
#[derive(Debug, Clone)]
pub(crate) struct BlockView<'a> {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) synced: u64,
    count: u16,
    records: Reader<'a>,
}

impl<'a> BlockView<'a> {
    pub(crate) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, FormatError> {
        let mut r = unseal(block, MAGIC, WHAT)?;
        Ok(Self { epoch: r.u64()?, seq: r.u64()?, synced: r.u64()?, count: r.u16()?, records: r })
    }

    /// The records in order; an error ends them.
    pub(crate) fn records(&self) -> impl Iterator<Item = Result<Record, FormatError>> + use<'a> {
        let mut reader = self.records.clone();
        let mut failed = false;
        (0..self.count).map_while(move |_| {
            if failed {
                return None;
            }
            let record = record(&mut reader);
            failed = record.is_err();
            Some(record)
        })
    }
}

fn record(r: &mut Reader<'_>) -> Result<Record, FormatError> {
    let place = |raw: u64| {
        Location::from_raw(raw).ok_or(FormatError::Field {
            what: "location",
            value: 0,
            reason: "is none",
        })
    };
    let kind = r.u8()?;
    Ok(match kind {
        1 => Record::Insert { hash: r.u64()?, location: place(r.u64()?)?, extent_units: r.u64()? },
        2 => Record::Move {
            hash: r.u64()?,
            from: place(r.u64()?)?,
            to: place(r.u64()?)?,
            extent_units: r.u64()?,
        },
        3 => Record::Remove { hash: r.u64()? },
        4 => Record::SegmentOpen {
            seq: r.u64()?,
            first_region: r.u32()?,
            regions: r.u32()?,
            class: r.u8()?,
        },
        5 => Record::SegmentFree { seq: r.u64()?, first_region: r.u32()? },
        6 => Record::Purge(Rule::decode(r)?),
        other => {
            return Err(FormatError::Field {
                what: "record kind",
                value: u64::from(other),
                reason: "unknown",
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::checks;
    use crate::format::rule::Scope;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = Record> {
        let place = (1..1u64 << 38, any::<u64>(), 0..1u64 << 30)
            .prop_map(|(unit, seq, units)| Location::new(unit, seq, units));
        prop_oneof![
            (any::<u64>(), place.clone(), any::<u64>()).prop_map(
                |(hash, location, extent_units)| Record::Insert { hash, location, extent_units }
            ),
            (any::<u64>(), place.clone(), place, any::<u64>()).prop_map(
                |(hash, from, to, extent_units)| Record::Move { hash, from, to, extent_units }
            ),
            any::<u64>().prop_map(|hash| Record::Remove { hash }),
            any::<(u64, u32, u32, u8)>().prop_map(|(seq, first_region, regions, class)| {
                Record::SegmentOpen { seq, first_region, regions, class }
            }),
            any::<(u64, u32)>()
                .prop_map(|(seq, first_region)| Record::SegmentFree { seq, first_region }),
            any::<(u64, bool, String)>().prop_map(|(generation, prefix, text)| {
                let scope =
                    if prefix { Scope::Prefix(text.into()) } else { Scope::Tag(text.into()) };
                Record::Purge(Rule { generation, scope })
            }),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back_in_order(records in proptest::collection::vec(any_record(), 0..300), epoch: u64, seq: u64, synced: u64) {
            let mut builder = BlockBuilder::new(epoch, seq, synced);
            let fitted = records.iter().take_while(|record| builder.push(record)).count();
            prop_assert!(fitted == records.len() || fitted >= 20);
            let mut block = [0; BLOCK];
            builder.finish(&mut block);
            let view = BlockView::parse(&block).expect("sound");
            prop_assert_eq!((view.epoch, view.seq, view.synced), (epoch, seq, synced));
            let back: Result<Vec<Record>, _> = view.records().collect();
            prop_assert_eq!(back.expect("sound"), &records[..fitted]);
        }

        #[test]
        fn invented_blocks_never_panic(content in proptest::collection::vec(any::<u8>(), 26..400), count: u16, kind in 0..8u8) {
            let mut content = content;
            content[24..26].copy_from_slice(&count.to_le_bytes());
            // Kinds at random would nearly all be unknown.
            content.iter_mut().skip(26).step_by(17).for_each(|byte| *byte = kind);
            let block = checks::sealed(MAGIC, &content);
            let view = BlockView::parse(&block).expect("its checksum is right");
            let read: Vec<_> = view.records().collect();
            prop_assert!(read.len() <= usize::from(count));
            prop_assert!(read.iter().rev().skip(1).all(Result::is_ok), "an error ends them");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut builder = BlockBuilder::new(1, 2, 3);
        let location = Location::new(9, 8, 7);
        let records = [
            Record::Insert { hash: 1, location, extent_units: 7 },
            Record::Move { hash: 1, from: location, to: location, extent_units: 7 },
            Record::Remove { hash: 1 },
            Record::SegmentOpen { seq: 4, first_region: 5, regions: 6, class: 1 },
            Record::SegmentFree { seq: 4, first_region: 5 },
            Record::Purge(Rule { generation: 3, scope: Scope::Tag("red".into()) }),
        ];
        assert!(records.iter().all(|record| builder.push(record)));
        let mut block = [0; BLOCK];
        builder.finish(&mut block);
        checks::every_flipped_bit_is_noticed(&block, |b| BlockView::parse(b).is_ok());
    }
}
