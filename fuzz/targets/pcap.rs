//! Any bytes as a pcap file: what reads is written back and reads the same.
#![no_main]
use libfuzzer_sys::fuzz_target;
use straightway_packet::capture::pcap::{Reader, Writer};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = Reader::new(bytes) else { return };
    let (mut file, mut buffer, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    let mut writer = Writer::new(&mut file, reader.link_type()).expect("memory");
    while let Ok(Some(packet)) = reader.next(&mut buffer) {
        writer.write(packet.time, packet.bytes, packet.original_len).expect("memory");
        seen.push((packet.time, packet.bytes.to_vec()));
    }
    let mut again = Reader::new(&file[..]).expect("our own");
    for (time, packet) in seen {
        let read = again.next(&mut buffer).expect("our own").expect("as many");
        // Seconds have 32 bits in the file.
        assert_eq!((read.time.subsec_nanos(), read.bytes), (time.subsec_nanos(), &packet[..]));
    }
});
