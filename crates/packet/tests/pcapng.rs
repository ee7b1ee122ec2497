//! pcapng files: another hand's are read, handmade ones of every kind that counts too, and damaged ones say what is wrong.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
use std::io::Read;
use std::time::Duration;

use proptest::prelude::*;
use straightway_packet::PacketError;
use straightway_packet::capture::{pcap, pcapng};

/// `editcap -F pcapng scapy.pcap scapy.pcapng`
const RECORD: &[u8] = include_bytes!("data/scapy.pcapng");

type Seen = (u32, Duration, Vec<u8>, u32);

fn all(file: impl Read) -> Result<Vec<Seen>, PacketError> {
    let mut reader = pcapng::Reader::new(file)?;
    let (mut buffer, mut packets) = (Vec::new(), Vec::new());
    while let Some((link, packet)) = reader.next(&mut buffer)? {
        packets.push((link, packet.time, packet.bytes.to_vec(), packet.original_len));
    }
    Ok(packets)
}

/// Writes blocks in one byte order.
struct File {
    big: bool,
    bytes: Vec<u8>,
}

impl File {
    fn number(&self, number: u32) -> [u8; 4] {
        if self.big { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn half(&self, number: u16) -> [u8; 2] {
        if self.big { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let padded = body.len().next_multiple_of(4);
        let len = self.number(u32::try_from(padded).unwrap() + 12);
        self.bytes.extend([self.number(kind), len].concat());
        self.bytes.extend(body);
        self.bytes.extend(vec![0; padded - body.len()]);
        self.bytes.extend(len);
    }

    fn section(&mut self, big: bool) {
        self.big = big;
        let [order, version, unknown] = [0x1a2b_3c4d, 1, u32::MAX].map(|n| self.number(n));
        self.block(0x0a0d_0d0a, &[order, version, unknown, unknown].concat());
    }

    fn interface(&mut self, link: u16, snaplen: u32, options: &[(u16, &[u8])]) {
        let mut body = [&self.half(link)[..], &[0, 0], &self.number(snaplen)].concat();
        for (code, value) in options {
            body.extend(self.half(*code));
            body.extend(self.half(u16::try_from(value.len()).unwrap()));
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        self.block(1, &body);
    }

    fn enhanced(&mut self, interface: u32, units: u64, bytes: &[u8], original: u32) {
        let [high, low] =
            [units >> 32, units & 0xffff_ffff].map(|half| u32::try_from(half).unwrap());
        let kept = u32::try_from(bytes.len()).unwrap();
        let mut body = [interface, high, low, kept, original].map(|n| self.number(n)).concat();
        body.extend(bytes);
        self.block(6, &body);
    }
}

fn file(big: bool) -> File {
    let mut file = File { big, bytes: Vec::new() };
    file.section(big);
    file
}

#[test]
fn another_hands_file_holds_what_its_pcap_holds() {
    let packets = all(RECORD).expect("reads");
    let mut reader = pcap::Reader::new(&include_bytes!("data/scapy.pcap")[..]).unwrap();
    let mut buffer = Vec::new();
    for (link, time, bytes, original_len) in &packets {
        let packet = reader.next(&mut buffer).unwrap().expect("as many");
        assert_eq!((*link, *time, *original_len), (1, packet.time, packet.original_len));
        assert_eq!(bytes, packet.bytes);
    }
    assert_eq!(packets.len(), 47);
}

#[test]
fn every_byte_order_interface_resolution_and_kind_of_packet_is_read() {
    for big in [false, true] {
        let mut file = file(big);
        let minus_one = if big { (-1i64).to_be_bytes() } else { (-1i64).to_le_bytes() };
        file.interface(101, 3, &[(2, b"a name"), (0, b"")]);
        file.interface(1, 0, &[(9, &[9]), (0, b"")]);
        file.interface(1, 0, &[(9, &[0x81]), (14, &minus_one)]);
        file.block(0x0bad_0bad, &[7; 5000]);
        file.enhanced(0, (5 << 32) + 7, b"micro", 90);
        file.enhanced(1, 5_000_000_007, b"", 0);
        file.block(5, &[0; 12]);
        file.enhanced(2, 7, b"halves", 6);
        let simple = [&file.number(5)[..], b"abc"].concat();
        file.block(3, &simple);
        // Another section, of the other byte order and with interfaces of its own.
        file.section(!big);
        file.interface(7, 0, &[]);
        let simple = [&file.number(5)[..], b"abcde"].concat();
        file.block(3, &simple);
        let micro = Duration::from_micros((5 << 32) + 7);
        let expected = [
            (101, micro, b"micro".to_vec(), 90),
            (1, Duration::new(5, 7), vec![], 0),
            (1, Duration::from_millis(2500), b"halves".to_vec(), 6),
            (101, Duration::ZERO, b"abc".to_vec(), 5),
            (7, Duration::ZERO, b"abcde".to_vec(), 5),
        ];
        assert_eq!(all(&file.bytes[..]).expect("reads"), expected);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let field = |bytes: &[u8]| match all(bytes) {
        Err(PacketError::BadField { layer: "pcapng", field, .. }) => field,
        Err(PacketError::Truncated { layer: "pcapng", .. }) => "truncated",
        other => panic!("{other:?}"),
    };
    let with = |make: &dyn Fn(&mut File)| {
        let mut file = file(false);
        file.interface(1, 0, &[]);
        make(&mut file);
        field(&file.bytes)
    };
    assert_eq!(field(b""), "truncated");
    assert_eq!(field(&[1; 40]), "first block");
    assert_eq!(field(&include_bytes!("data/scapy.pcap")[..]), "first block");
    let mut order = RECORD.to_vec();
    order[8] ^= 1;
    assert_eq!(field(&order), "byte order");
    let mut odd = RECORD.to_vec();
    odd[4] += 1;
    assert_eq!(field(&odd), "block length");
    let mut behind = RECORD.to_vec();
    let last = behind.len() - 1;
    behind[last] ^= 1;
    assert_eq!(field(&behind), "block length");
    assert_eq!(with(&|file| file.enhanced(1, 0, b"x", 1)), "interface");
    assert_eq!(with(&|file| file.interface(1, 0, &[(9, &[20])])), "resolution");
    assert_eq!(with(&|file| (0..4096).for_each(|_| file.interface(1, 0, &[]))), "interfaces");
    assert_eq!(with(&|file| file.block(6, &[0; 16])), "truncated");
    assert_eq!(with(&|file| file.block(1, &[0; 4])), "truncated");
    // Lengths without the bytes: no memory is taken for them.
    let claims = |kept: u32| [&[0; 12][..], &kept.to_le_bytes(), &[0; 4]].concat();
    assert_eq!(with(&|file| file.block(6, &claims(u32::MAX))), "length");
    assert_eq!(with(&|file| file.block(6, &claims(4))), "truncated");
    assert_eq!(with(&|file| file.block(3, &[0xff, 0xff, 0, 0])), "truncated");
    for len in 0..RECORD.len() {
        match all(&RECORD[..len]) {
            Ok(packets) => assert!(packets.len() < 47, "{len}"),
            Err(error) => {
                let cut = matches!(error, PacketError::Truncated { layer: "pcapng", .. });
                assert!(cut, "{len}: {error}");
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_files_never_panic(damage in proptest::collection::vec((0..600usize, any::<u8>()), 0..6), cut in 0..2000usize, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut file = RECORD.to_vec();
        for (at, value) in damage {
            file[at] = value;
        }
        all(&file[..cut]).ok();
        all(&bytes[..]).ok();
    }
}
