//! What encoding and decoding Raft messages allocate and copy.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod messages;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use messages::{append, heartbeat};
use raft::prelude::Message;
use straightway_buffer::copied;
use straightway_wire::raft::*;
use straightway_wire::{MessageHeader, MessageType, Segments};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations, and what came of it. Only this thread counts, so tests may run beside one another.
fn cost<T>(act: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.with(Cell::get);
    let answer = act();
    (ALLOCATIONS.with(Cell::get) - before, answer)
}

fn decode(bytes: &Bytes) -> Message {
    deserialize_raft_message_fast(bytes).expect("sound")
}

/// One test, because the counters of copies belong to the process.
#[test]
fn entries_are_never_copied_and_heartbeats_cost_nothing() {
    heartbeats();
    appends();
    contiguous();
    borrowed();
}

fn heartbeats() {
    let message = heartbeat();
    let (mut vector, mut buffer, mut segments) =
        (Vec::with_capacity(64), BytesMut::with_capacity(64), Segments::default());
    let round = |vector: &mut Vec<u8>, buffer: &mut BytesMut, segments: &mut Segments| {
        vector.clear();
        serialize_raft_message_into(&message, vector).expect("encoded");
        buffer.clear();
        serialize_raft_message_into(&message, buffer).expect("encoded");
        segments.clear();
        serialize_raft_message_vectored(&message, segments).expect("encoded");
        assert_eq!(segments.finish()[0][..], vector[..]);
    };
    round(&mut vector, &mut buffer, &mut segments);
    let (allocations, ()) =
        cost(|| (0..100).for_each(|_| round(&mut vector, &mut buffer, &mut segments)));
    assert_eq!(allocations, 0);
    let bytes = Bytes::copy_from_slice(&vector);
    let (allocations, back) = cost(|| decode(&bytes));
    assert_eq!((allocations, back), (0, message.clone()));
    let (allocations, _) = cost(|| deserialize_raft_message_fast(&bytes[..]).expect("sound"));
    assert_eq!(allocations, 0, "borrowed bytes without a payload are not copied either");
    let (allocations, _) = cost(|| serialize_raft_message_fast(&message).expect("encoded"));
    assert_eq!(allocations, 1);
}

fn appends() {
    let message = append(64, 1024);
    let mut segments = Segments::default();
    let encode = |segments: &mut Segments| {
        segments.clear();
        serialize_raft_message_vectored(&message, segments).expect("encoded");
        segments.finish().len()
    };
    encode(&mut segments);
    let before = copied();
    let (allocations, parts) = cost(|| encode(&mut segments));
    assert_eq!((allocations, parts), (0, 64 * 2 + 1));
    let parts = segments.finish();
    let payloads = parts.iter().skip(1).step_by(2);
    assert!(
        payloads.zip(&message.entries).all(|(part, entry)| part.as_ptr() == entry.data.as_ptr())
    );
    assert_eq!(copied(), before, "no byte of an entry is copied on the way out");

    // Nor on the way through frames and chunks, where they are cut.
    let mut wire = Segments::default();
    let header = MessageHeader::new(MessageType::RaftMessage);
    let long = encode_raft_message(&mut wire, &header, &message, usize::MAX, 1).expect("encoded");
    let mut long = long.expect("more than a chunk");
    while long.next_chunk(&mut wire).expect("written") {}
    let entry = message.entries[3].data.as_ptr();
    assert!(wire.io_slices().any(|part| part.as_ptr() == entry));
    assert_eq!(copied(), before);

    let received = Bytes::from(parts.concat());
    let within = received.as_ptr_range();
    let before = copied();
    let (allocations, back) = cost(|| decode(&received));
    assert_eq!(back, message);
    assert!(
        allocations <= 2,
        "{allocations}: the list of entries, and the count of who shares the buffer"
    );
    for entry in &back.entries {
        let data = entry.data.as_ptr_range();
        assert!(within.start <= data.start && data.end <= within.end);
    }
    assert_eq!(copied(), before, "nor on the way in");
}

fn contiguous() {
    let message = append(64, 1024);
    let before = copied().gather;
    let (allocations, bytes) = cost(|| serialize_raft_message_fast(&message).expect("encoded"));
    assert_eq!(allocations, 1);
    assert_eq!(copied().gather - before, 64 * 1024, "which is counted");
    let mut buffer = BytesMut::with_capacity(bytes.len());
    let (allocations, ()) =
        cost(|| serialize_raft_message_into(&message, &mut buffer).expect("encoded"));
    assert_eq!((allocations, &buffer[..]), (0, &bytes[..]));
}

fn borrowed() {
    let bytes = serialize_raft_message_fast(&append(64, 1024)).expect("encoded");
    let before = copied().gather;
    let (allocations, back) = cost(|| deserialize_raft_message_fast(&bytes[..]).expect("sound"));
    assert!(allocations <= 3, "{allocations}");
    assert_eq!(back, append(64, 1024));
    assert_eq!(copied().gather - before, bytes.len() as u64, "copied once, and counted");
}

#[test]
fn a_length_allocates_nothing() {
    // Four gigabytes of entry, of context, of snapshot; and an entry with so much data.
    for hostile in [
        [0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        [0x62, 0xff, 0xff, 0xff, 0xff, 0x0f],
        [0x4a, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ] {
        let bytes = Bytes::copy_from_slice(&hostile);
        let (allocations, refused) = cost(|| deserialize_raft_message_fast(&bytes).is_err());
        assert!(refused);
        assert!(allocations <= 1, "{allocations}: the text of the error");
    }
}
