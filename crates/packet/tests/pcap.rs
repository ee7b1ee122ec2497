//! pcap files: another hand's are read, ours are read by others, and damaged ones say what is wrong.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
use std::time::Duration;

use proptest::prelude::*;
use straightway_packet::PacketError;
use straightway_packet::capture::pcap::{
    LINKTYPE_ETHERNET, LINKTYPE_RAW, MAX_SNAPLEN, Reader, Writer,
};
use straightway_packet::view::Frame;

const RECORD: &[u8] = include_bytes!("data/scapy.pcap");

fn all(file: &[u8]) -> Result<Vec<(Duration, Vec<u8>, u32)>, PacketError> {
    let mut reader = Reader::new(file)?;
    let (mut buffer, mut packets) = (Vec::new(), Vec::new());
    while let Some(packet) = reader.next(&mut buffer)? {
        packets.push((packet.time, packet.bytes.to_vec(), packet.original_len));
    }
    Ok(packets)
}

#[test]
fn another_hands_file_is_read_and_written_again_the_same() {
    let packets = all(RECORD).expect("reads");
    assert_eq!(packets.len(), 47);
    let mut again = Vec::new();
    let mut writer = Writer::new(&mut again, LINKTYPE_ETHERNET).unwrap();
    for (time, bytes, original) in &packets {
        assert!(Frame::parse(bytes).is_ok());
        writer.write(*time, bytes, *original).unwrap();
    }
    writer.flush().unwrap();
    assert_eq!(all(&again).expect("reads"), packets);
    assert_eq!(Reader::new(RECORD).unwrap().link_type(), LINKTYPE_ETHERNET);
}

#[test]
fn both_byte_orders_and_resolutions_are_read() {
    for (magic, nanoseconds) in [(0xa1b2_c3d4u32, 7000), (0xa1b2_3c4d, 7)] {
        for big in [false, true] {
            let number = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
            let mut file = number(magic).to_vec();
            file.extend([0; 16]);
            file.extend(number(LINKTYPE_RAW));
            for n in [5, 7, 3, 90] {
                file.extend(number(n));
            }
            file.extend(b"abc");
            let expected = (Duration::new(5, nanoseconds), b"abc".to_vec(), 90);
            assert_eq!(all(&file).expect("reads"), [expected]);
            assert_eq!(Reader::new(&file[..]).unwrap().link_type(), LINKTYPE_RAW);
        }
    }
}

#[test]
fn the_bits_above_the_link_type_are_not_part_of_it() {
    let mut file = RECORD.to_vec();
    // A frame check sequence of four bytes (in units of two), and that this is known.
    file[20..24].copy_from_slice(&(2 << 28 | 1 << 26 | LINKTYPE_ETHERNET).to_le_bytes());
    assert_eq!(Reader::new(&file[..]).unwrap().link_type(), LINKTYPE_ETHERNET);
}

#[test]
fn a_packet_that_is_too_long_to_keep_is_cut_and_its_length_told() {
    let (giant, len) = (vec![7; 300_000], MAX_SNAPLEN as usize);
    for pieces in [vec![&giant[..]], vec![&giant[..10], &giant[..len - 20], &giant[..20], &[1]]] {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, LINKTYPE_RAW).unwrap();
        writer.write_pieces(Duration::ZERO, &pieces, 0).unwrap();
        let whole = u32::try_from(pieces.concat().len()).unwrap();
        assert_eq!(all(&file).unwrap(), [(Duration::ZERO, giant[..len].to_vec(), whole)]);
    }
}

#[test]
fn damage_is_named() {
    for len in 0..RECORD.len().min(400) {
        match all(&RECORD[..len]) {
            Ok(_) => assert!(all(&RECORD[..len]).unwrap().len() < 47),
            Err(error) => assert!(
                matches!(error, PacketError::Truncated { layer: "pcap", .. }),
                "{len}: {error}"
            ),
        }
    }
    let mut foreign = RECORD.to_vec();
    foreign[..4].copy_from_slice(&0x0a0d_0d0au32.to_le_bytes());
    assert!(all(&foreign).unwrap_err().to_string().contains("pcapng"));
    let mut giant = RECORD.to_vec();
    giant[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(
        matches!(all(&giant), Err(PacketError::BadField { field: "length", .. })),
        "no memory is taken for it"
    );
}

proptest! {
    #[test]
    fn what_is_written_reads_back(packets in proptest::collection::vec((any::<u32>(), 0..1_000_000_000u32, proptest::collection::vec(any::<u8>(), 0..300)), 0..20)) {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, LINKTYPE_RAW).unwrap();
        for (seconds, nanoseconds, bytes) in &packets {
            writer.write(Duration::new(u64::from(*seconds), *nanoseconds), bytes, 0).unwrap();
        }
        let expected: Vec<_> = packets.into_iter().map(|(s, n, bytes)| {
            let len = u32::try_from(bytes.len()).unwrap();
            (Duration::new(u64::from(s), n), bytes, len)
        }).collect();
        prop_assert_eq!(all(&file).unwrap(), expected);
    }

    #[test]
    fn arbitrary_files_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), genuine: bool) {
        if genuine && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&RECORD[..4]);
        }
        drop(all(&bytes));
    }
}
