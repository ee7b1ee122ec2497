//! Any bytes as a pcapng file: nothing panics, no packet is longer than what there was to read it from, reading in pieces
//! of one byte sees the same, and what reads can be written as pcap.
#![no_main]
use std::io::Read;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use straightway_packet::capture::{pcap, pcapng};

type Seen = (u32, Duration, Vec<u8>, u32);

/// The packets up to the end or the first error, and whether it was the end.
fn all(file: impl Read) -> (Vec<Seen>, bool) {
    let Ok(mut reader) = pcapng::Reader::new(file) else { return (Vec::new(), false) };
    let (mut buffer, mut seen) = (Vec::new(), Vec::new());
    loop {
        match reader.next(&mut buffer) {
            Ok(Some((link, packet))) => {
                seen.push((link, packet.time, packet.bytes.to_vec(), packet.original_len));
            }
            end => return (seen, end.is_ok()),
        }
    }
}

/// Gives one byte at a time.
struct Slowly<'a>(&'a [u8]);

impl Read for Slowly<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let len = into.len().min(1);
        self.0.read(&mut into[..len])
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (seen, ended) = all(bytes);
    let held: usize = seen.iter().map(|(_, _, packet, _)| packet.len()).sum();
    assert!(held <= bytes.len());
    assert_eq!(all(Slowly(bytes)), (seen.clone(), ended));
    let Ok(mut writer) = pcap::Writer::new(Vec::new(), pcap::LINKTYPE_ETHERNET) else { return };
    for (_, time, packet, original_len) in &seen {
        // Times beyond what pcap holds, and lengths that contradict each other, are refused.
        let _ = writer.write(*time, packet, *original_len);
    }
});
