//! Raft messages of hostile peers: what is decoded is what the library reads, and what is judged harmless is.
//!
//! The first byte is a role. Then each byte is something that happens, or the length of a message that arrives.
#![no_main]
#[path = "../../crates/wire/tests/nodes/mod.rs"]
mod nodes;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use nodes::{Node, ROLES};
use protobuf::Message as _;
use raft::prelude::Message;
use straightway_wire::raft::{deserialize_raft_message_fast, serialize_raft_message_fast};

fn decode(bytes: &[u8]) -> Option<Message> {
    let shared = Bytes::copy_from_slice(bytes);
    let ours = deserialize_raft_message_fast(&shared).ok()?;
    assert_eq!(ours, deserialize_raft_message_fast(bytes).expect("borrowed or not"));
    let encoded = serialize_raft_message_fast(&ours).expect("small");
    let mut theirs = Message::default();
    theirs.merge_from_bytes(bytes).expect("they take what we take");
    assert_eq!(encoded, serialize_raft_message_fast(&theirs).expect("small"), "and understand the same");
    assert_eq!(encoded, ours.write_to_bytes().expect("small"), "and write the same");
    Some(ours)
}

fuzz_target!(|input: &[u8]| {
    let Some((role, mut input)) = input.split_first() else { return };
    let mut node = Node::new(ROLES[usize::from(*role) % ROLES.len()]);
    while let Some((act, rest)) = input.split_first() {
        input = rest;
        match act {
            0xff => node.pump(),
            0xfe => {
                node.pump();
                node.settle();
            }
            0xfd => (0..12).for_each(|_| node.tick()),
            // Not everybody takes them.
            0xfc => drop(node.raw.propose(Vec::new(), b"mine".to_vec())),
            0xfb => node.raw.read_index(b"mine".to_vec()),
            len => {
                let (message, rest) = input.split_at(usize::from(*len).min(input.len()));
                input = rest;
                if let Some(mut message) = decode(message) {
                    // Whoever sends it says so: that rule holds without a fuzzer.
                    message.to = 1;
                    message.from = 2 + message.from % 3;
                    let _ = node.receive(message.from, message);
                }
            }
        }
    }
    node.live_on();
});
