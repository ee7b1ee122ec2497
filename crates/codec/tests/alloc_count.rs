//! Allocations, counted: none to encode into a warm pool, none to look, none to frame and share.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
#[path = "../../packet/tests/counting/mod.rs"]
mod counting;
mod samples;

use std::sync::Arc;

use counting::allocations;
use straightway_codec::event::{self, Event};
use straightway_codec::ws::{FrameReader, Incoming, Limits, Opcode, Role, put_head};
use straightway_codec::{
    Codec, Encoder, HEADER_BYTES, Header, OptimizerMode, RkyvCodec, SerializationOptimizer, Stamp,
};

fn encoder(mode: OptimizerMode) -> Encoder {
    Encoder::new(Arc::new(SerializationOptimizer::new(mode)), 1 << 20).expect("an encoder")
}

#[test]
fn encoding_and_looking_allocate_nothing() {
    let events = samples::events(1, 100);
    let pool = encoder(OptimizerMode::Off);
    let mut buffer = pool.pool().acquire(4096).expect("a buffer");
    let mut once = |event: &Event| {
        buffer.clear();
        RkyvCodec.encode_into(event, &mut buffer).expect("encoded");
        let seen = Codec::<Event>::access(&RkyvCodec, &buffer).expect("sound");
        assert_eq!(seen.key.as_str(), event.key);
    };
    once(&events[0]);
    assert_eq!(allocations(|| events.iter().for_each(&mut once)), 0);
}

#[test]
fn a_framed_message_in_a_warm_pool_allocates_nothing_in_any_mode() {
    let events = samples::events(2, 200);
    let registry = event::registry().expect("a registry");
    for mode in [OptimizerMode::Off, OptimizerMode::Observe, OptimizerMode::On] {
        let encoder = encoder(mode);
        let once = |event: &Event| {
            let message = encoder.encode_as::<Event, _>(
                Stamp::default(),
                event.as_ref().size_hint(),
                &event.as_ref(),
            );
            let mut message = message.expect("encoded");
            put_head(&mut message, Opcode::Binary).expect("room");
            let shared = message.share();
            let readers: [_; 8] = std::array::from_fn(|_| shared.clone());
            let (header, payload) = Header::parse(&readers[7][4..]).expect("sound");
            registry.check(&header, payload).expect("valid").view::<Event>().expect("an event");
        };
        // Twice through the sizes: the plan moves while it learns.
        events.iter().chain(&events).for_each(once);
        assert_eq!(allocations(|| events.iter().for_each(once)), 0, "{mode:?}");
    }
}

#[test]
fn messages_that_arrive_whole_are_read_without_allocating() {
    let mut reader =
        FrameReader::new(Role::Client, Limits { max_message: 1 << 20, max_fragments: 16 }, false);
    let encoder = encoder(OptimizerMode::On);
    let mut message = encoder.encode(Stamp::default(), &samples::events(3, 1)[0]).expect("encoded");
    put_head(&mut message, Opcode::Binary).expect("room");
    let mut wire = message.to_vec();
    let count = allocations(|| {
        let (taken, incoming) = reader.read(&mut wire).expect("sound");
        let Some(Incoming::Binary(payload)) = incoming else { panic!("{incoming:?}") };
        assert!(taken > HEADER_BYTES && Header::parse(payload).is_ok());
    });
    assert_eq!(count, 0);
}

/// The specification's bar: less than 100 KB of overhead for 1,000 messages in flight.
#[test]
fn a_thousand_messages_in_flight_cost_little_beside_their_bytes() {
    let encoder = encoder(OptimizerMode::On);
    let events = samples::events(4, 1200);
    for event in &events[..200] {
        drop(encoder.encode(Stamp::default(), event).expect("encoded"));
    }
    let mut bytes = 0;
    let flying: Vec<_> = events[200..]
        .iter()
        .map(|event| {
            let hint = event.as_ref().size_hint();
            let message = encoder.encode_as::<Event, _>(Stamp::default(), hint, event);
            let message = message.expect("encoded");
            bytes += message.len();
            message.share()
        })
        .collect();
    // What the buffers are larger than their messages, and a handle each.
    let held = usize::try_from(encoder.pool_stats().high_water_bytes).expect("small");
    let overhead = held - bytes + flying.len() * size_of_val(&flying[0]);
    assert!(overhead < 100_000, "{held} for {bytes}: {:?}", encoder.pool_stats());
}
