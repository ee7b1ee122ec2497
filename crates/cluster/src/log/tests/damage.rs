//! What was flushed and is not what it was: refused, or cut with its whole batch, never believed.
use proptest::prelude::*;

use super::*;
use crate::log::header::{HEADER, Header};
use crate::log::record::{self, Frame, Kind, LAST};

/// Three segments of several batches; what it held before the last batch and after it.
fn several() -> (Disk, Recovered, Recovered, usize) {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    let first = mark(1, 1);
    append(&mut log, Batch { snapshot: Some(&first), ..Batch::default() });
    for index in (2..=40).step_by(3) {
        let state = hard_state(3, 1, index);
        let new = entries(index..index + 3, 2, 150);
        append(&mut log, Batch { entries: &new, hard_state: Some(&state), snapshot: None });
    }
    append(&mut log, of(&entries(40..=41, 3, 20)));
    append(&mut log, of(&[full(42)]));
    let before = held(&disk.copy());
    let filled = log.stats().file_bytes;
    append(&mut log, of(&[full(43)]));
    assert_eq!(log.stats().segments, 3);
    let last = usize::try_from(log.stats().file_bytes - filled).unwrap();
    drop(log);
    let after = held(&disk.copy());
    (disk, before, after, last)
}

/// Bytes of a segment up to the end of its last record.
fn used(disk: &Disk, name: &str) -> usize {
    let bytes = disk.bytes(name);
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(8))
}

#[test]
fn no_flipped_bit_is_believed() {
    let (disk, before, after, last) = several();
    let names = disk.names(".log");
    let (mut refused, mut harmless, mut cut) = (0, 0, 0);
    for (n, name) in names[..3].iter().enumerate() {
        let end = used(&disk, name);
        for at in 0..end {
            // Every bit of headers and short records, one of each byte of the rest.
            for bit in if at < 600 { 0..8 } else { at % 8..at % 8 + 1 } {
                let disk = disk.copy();
                disk.edit(name, |bytes| bytes[at] ^= 1 << bit);
                match open(&disk) {
                    Err(ClusterError::Corrupt { .. } | ClusterError::Invalid { .. }) => {
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                    // Padding.
                    Ok((_, found)) if image(found.clone()) == after => harmless += 1,
                    Ok((_, found)) => {
                        assert_eq!(image(found), before, "segment {n}, byte {at}, bit {bit}");
                        assert!(
                            n == 2 && at + last >= end,
                            "only the last batch can be taken for torn"
                        );
                        cut += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 10 * harmless && harmless < 1500 && cut > 50, "{refused} {harmless} {cut}");
}

#[test]
fn a_sector_that_was_lost_later_is_refused() {
    let (disk, ..) = several();
    for name in &disk.names(".log")[..2] {
        let end = used(&disk, name);
        for sector in 0..end.div_ceil(disk::SECTOR) {
            let disk = disk.copy();
            let range = sector * disk::SECTOR..((sector + 1) * disk::SECTOR).min(end);
            disk.edit(name, |bytes| bytes[range].fill(0));
            assert!(matches!(open(&disk), Err(ClusterError::Corrupt { .. })), "{name} {sector}");
        }
    }
}

#[test]
fn segments_that_are_missing_exchanged_or_renamed_are_refused() {
    let (disk, ..) = several();
    let names = disk.names(".log");
    for name in &names[..2] {
        let disk = disk.copy();
        super::super::volume::Volume::remove(&disk, name).unwrap();
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, ClusterError::Corrupt { .. }), "without {name}: {error}");
    }
    let exchanged = disk.copy();
    exchanged.put(&names[0], disk.bytes(&names[1]));
    exchanged.put(&names[1], disk.bytes(&names[0]));
    assert!(matches!(open(&exchanged), Err(ClusterError::Corrupt { .. })));
    let renamed = disk.copy();
    renamed.put("00000000000000ff.log", disk.bytes(&names[0]));
    assert!(matches!(open(&renamed), Err(ClusterError::Corrupt { .. })));
    let foreign = disk.copy();
    foreign.put("notes.log", vec![1; 10]);
    foreign.put("00000000000000FF.log", vec![1; 10]);
    assert!(open(&foreign).is_ok(), "other names are not ours");
}

#[test]
fn older_records_of_a_recycled_segment_are_there_and_not_believed() {
    let (disk, log) = recycled();
    drop(log);
    let salts: Vec<u64> = disk.names(".log").iter().map(|name| salt(&disk.bytes(name))).collect();
    let (log, found) = open(&disk).unwrap();
    drop(log);
    assert_eq!((found.entries.len(), found.torn_bytes), (0, 0));
    let whole = |bytes: &[u8], salt| {
        (HEADER..bytes.len()).step_by(8).filter_map(|at| record::read(bytes, at, salt)).count()
    };
    let old: usize = disk
        .names(".log")
        .iter()
        .map(|name| disk.bytes(name))
        // Heads of entries that their own salt does not prove: what is left from before.
        .map(|bytes| {
            let marks = (HEADER..bytes.len() - 40)
                .step_by(8)
                .filter(|at| bytes[*at..*at + 5] == [100, 0, 0, 0, 2]);
            marks
                .filter(|at| salts.iter().all(|salt| record::read(&bytes, *at, *salt).is_none()))
                .count()
        })
        .sum();
    assert!(old > 5, "{old}");
    let name = &disk.names(".log")[0];
    assert!(whole(&disk.bytes(name), salts[0]) > 0);
}

fn salt(segment: &[u8]) -> u64 {
    u64::from_le_bytes(segment[40..48].try_into().unwrap())
}

/// Segments that were made with care, and then spoilt.
fn forged(batches: &[(u8, u64, u64, Vec<u8>)]) -> Vec<u8> {
    let header = Header { generation: 1, storage: STORAGE, salt: 77, len: 4096, recycled: false };
    let mut bytes = header.encode().to_vec();
    let (mut frame, mut chain) = (Frame::default(), 0);
    for (n, (kind, term, index, payload)) in batches.iter().enumerate() {
        frame.begin(77, bytes.len() as u64, n as u64 + 1, chain);
        if n == 0 {
            frame.plain(Kind::Start, 0, *term, *index, &[]);
        }
        let kind = [Kind::Start, Kind::Entry, Kind::HardState, Kind::Mark, Kind::Truncate]
            [usize::from(kind % 5)];
        let flags = [0, 0x01, 0x02, 0x08, 0x0c, 0x10][usize::from(term.to_le_bytes()[0] % 6)];
        frame.plain(kind, LAST | flags, *term, *index, payload);
        chain = frame.chain();
        bytes.extend_from_slice(&frame.heads);
    }
    bytes.resize(bytes.len().max(4096), 0);
    bytes.truncate(4096);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..5000),
        headed: bool,
    ) {
        let mut bytes = bytes;
        if headed {
            let len = (bytes.len() + HEADER) as u64;
            let header = Header { generation: 1, storage: STORAGE, salt: 0, len, recycled: false };
            bytes.splice(0..0, header.encode());
        }
        let disk = Disk::default();
        disk.put("0000000000000001.log", bytes);
        let _any = open(&disk);
    }

    #[test]
    fn records_that_prove_themselves_and_make_no_sense_never_panic(
        batches in proptest::collection::vec(
            (0_u8..5, prop_oneof![0_u64..4, any::<u64>()], prop_oneof![0_u64..6, any::<u64>()],
             proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..60)),
            1..12,
        ),
        flips in proptest::collection::vec((0_usize..1000, any::<u8>()), 0..3),
    ) {
        let disk = Disk::default();
        let mut bytes = forged(&batches);
        for (at, with) in flips {
            bytes[at] ^= with;
        }
        disk.put("0000000000000001.log", bytes);
        if let Ok((mut log, found)) = open(&disk) {
            let last = found.entries.last().map_or(found.snapshot.map_or(0, |mark| mark.index), |entry| entry.index);
            if let Some(next) = last.checked_add(1) {
                let _any = log.append(of(&entries([next], 1, 10)));
            }
        }
    }
}
