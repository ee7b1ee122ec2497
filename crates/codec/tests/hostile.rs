//! Bytes that nobody meant: each is refused or is a valid value, and none does harm.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod samples;

use proptest::prelude::*;
use straightway_buffer::{BufferPool, PoolConfig};
use straightway_codec::event::{self, ArchivedEvent, Event, Hello, Stats, Subscribe};
use straightway_codec::{Codec, Envelope, HEADER_BYTES, Header, RkyvCodec, Stamp, WireType};

/// Touches every byte that a view leads to.
fn traverse(event: &ArchivedEvent) -> usize {
    let mut sum = event.key.len() + event.node.len() + event.kind as usize + event.scope as usize;
    sum += usize::try_from(event.len.to_native() & 1).expect("small");
    sum += event.content_type.as_ref().map_or(0, |text| text.chars().count());
    sum += event.etag.as_ref().map_or(0, |text| text.chars().count());
    sum += event.expires_ms.as_ref().map_or(0, |ms| usize::from(ms.to_native() > 0));
    sum + event.tags.iter().map(|tag| tag.chars().count()).sum::<usize>()
}

/// The acceptance test of the specification: 10,000 mutated valid messages.
#[test]
fn ten_thousand_mutated_messages_are_refused_or_valid() {
    let pool = BufferPool::new(PoolConfig::tiered()).expect("a pool");
    let mut dice = samples::Dice::new(11);
    // Miri looks at every access, and takes its time.
    let count = if cfg!(miri) { 100 } else { 10_000 };
    let (mut refused, mut valid, mut touched) = (0, 0, 0);
    for event in samples::events(5, count) {
        let mut bytes = RkyvCodec.encode(&event, &pool).expect("archived").to_vec();
        for _ in 0..=dice.below(3) {
            let at = usize::try_from(dice.below(bytes.len() as u64)).expect("short");
            match dice.below(4) {
                0 => bytes[at] ^= 1 << dice.below(8),
                1 => bytes[at] = u8::try_from(dice.below(256)).expect("a byte"),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, 0xff),
            }
        }
        match Codec::<Event>::access(&RkyvCodec, &bytes) {
            Ok(seen) => {
                touched += traverse(seen);
                Codec::<Event>::decode(&RkyvCodec, &bytes).expect("what is valid can be rebuilt");
                valid += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert_eq!(refused + valid, count);
    assert!(
        refused > count / 4 && valid > count / 10 && touched > 0,
        "{refused} refused, {valid} valid"
    );
}

fn every_type(bytes: &[u8]) {
    fn one<T: WireType>(bytes: &[u8]) {
        if Codec::<T>::access(&RkyvCodec, bytes).is_ok() {
            let value =
                Codec::<T>::decode(&RkyvCodec, bytes).expect("what is valid can be rebuilt");
            serde_json::to_string(&value).expect("text");
        }
    }
    one::<Event>(bytes);
    one::<Stats>(bytes);
    one::<Hello>(bytes);
    one::<Subscribe>(bytes);
}

proptest! {
    #[test]
    fn any_bytes_are_a_value_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        every_type(&bytes);
    }

    #[test]
    fn any_message_is_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), which in 0..4usize, extended: bool, packed: bool) {
        let registry = event::registry().expect("a registry");
        if bytes.len() >= HEADER_BYTES {
            let types: Vec<_> = registry.types().copied().collect();
            let info = types[which];
            let header = Header { flags: straightway_codec::Flags::default(), type_id: info.id, version: info.version, priority: 0, ttl_ms: 0, offset: 0, time_us: 0 };
            bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
            bytes[3] = 4 * u8::from(extended) + u8::from(packed);
        }
        drop(Envelope::<Subscribe>::open(&bytes, &registry, &BufferPool::new(PoolConfig::tiered()).expect("a pool"), 1000));
        let read = Envelope::<Subscribe>::read(&bytes, &registry);
        if let Ok(received) = read {
            received.to_envelope().expect("what is valid can be rebuilt");
        }
    }

    /// A valid event's header with any payload behind it.
    #[test]
    fn headers_lead_to_checked_payloads_only(offset: u64, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let registry = event::registry().expect("a registry");
        let optimizer = std::sync::Arc::new(straightway_codec::SerializationOptimizer::new(straightway_codec::OptimizerMode::Off));
        let encoder = straightway_codec::Encoder::new(optimizer, 1 << 16).expect("an encoder");
        let message = encoder.encode(Stamp { offset, ..Stamp::default() }, &Event::default()).expect("encoded");
        let (header, _) = Header::parse(&message).expect("sound");
        prop_assert_eq!(header.offset, offset);
        if let Ok(checked) = registry.check(&header, &payload) {
            traverse(checked.view::<Event>().expect("checked"));
        }
    }
}
