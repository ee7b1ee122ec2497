//! Any bytes as an overlay message: what reads is written back the same, flat and nested.
#![no_main]
use libfuzzer_sys::fuzz_target;
use straightway_packet::overlay::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::parse(bytes) {
        let flat: Vec<u8> = (&message).into();
        assert_eq!(flat, bytes[..flat.len()]);
        let nested: Vec<Vec<u8>> = (&message).into();
        assert_eq!(nested.concat(), flat);
    }
});
