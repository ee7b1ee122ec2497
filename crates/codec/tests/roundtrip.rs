//! What is written is read: in place, rebuilt, as JSON, in envelopes, compressed, by other versions.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod samples;

use std::sync::Arc;

use rkyv::{Archive, Deserialize, Serialize};
use straightway_buffer::{BufferPool, PoolConfig};
use straightway_codec::compress::EVENTS;
use straightway_codec::event::{self, Event, Gap, GapReason, Kind, Stats, Subscribe};
use straightway_codec::{
    Codec, CodecError, Compression, Encoder, Encoding, Envelope, Flags, HEADER_BYTES, Header,
    JsonCodec, MessageMetadata, OptimizerMode, Read, RkyvCodec, SerializationOptimizer, Stamp,
    TypeRegistry, WireType, type_id,
};

fn pool() -> BufferPool {
    BufferPool::new(PoolConfig::tiered()).expect("a pool")
}

fn encoder(mode: OptimizerMode) -> Encoder {
    Encoder::new(Arc::new(SerializationOptimizer::new(mode)), 1 << 20).expect("an encoder")
}

#[test]
fn every_encoding_gives_the_same_event() {
    let pool = pool();
    for event in samples::events(1, 500) {
        let archive = RkyvCodec.encode(&event, &pool).expect("archived");
        assert_eq!(Codec::<Event>::decode(&RkyvCodec, &archive).expect("sound"), event);
        let seen = Codec::<Event>::access(&RkyvCodec, &archive).expect("sound");
        assert_eq!((seen.key.as_str(), Kind::from(seen.kind)), (event.key.as_str(), event.kind));
        // The view lies in the bytes: nothing was copied.
        let range = archive.as_ptr_range();
        assert!(range.contains(&std::ptr::from_ref(seen).cast()));
        let text = JsonCodec.encode(&event, &pool).expect("text");
        assert_eq!(Codec::<Event>::decode(&JsonCodec, &text).expect("sound"), event);
        assert!(Codec::<Event>::decode(&JsonCodec, &archive).is_err(), "an archive is no JSON");
    }
    assert_eq!(Codec::<Event>::content_type(&RkyvCodec), "application/rkyv");
    assert_eq!(Codec::<Event>::content_type(&JsonCodec), "application/json");
}

/// A receive library hands payloads out at any offset: all of them are read where they are.
#[test]
fn archives_are_read_at_every_offset() {
    let pool = pool();
    let event = &samples::events(2, 1)[0];
    let archive = RkyvCodec.encode(event, &pool).expect("archived");
    for offset in 0..16 {
        let mut bytes = vec![0xee; offset];
        bytes.extend_from_slice(&archive);
        let seen = Codec::<Event>::access(&RkyvCodec, &bytes[offset..]).expect("sound");
        assert_eq!(seen.key.as_str(), event.key);
    }
}

#[test]
fn a_full_buffer_is_left_as_it_was_and_a_larger_one_found() {
    let pool = pool();
    let event =
        Event { key: "k".repeat(2000), tags: vec!["t".repeat(900); 30], ..Event::default() };
    let mut small = pool.acquire(1024).expect("a buffer");
    small.set_len(small.capacity() - 10).expect("room");
    let before = small.len();
    for result in
        [RkyvCodec.encode_into(&event, &mut small), JsonCodec.encode_into(&event, &mut small)]
    {
        assert!(matches!(result, Err(CodecError::Full { .. })));
        assert_eq!(small.len(), before);
    }
    for archive in [
        RkyvCodec.encode(&event, &pool),
        encoder(OptimizerMode::On).encode(Stamp::default(), &event),
    ] {
        assert!(archive.expect("found room").len() > 29_000);
    }
}

#[test]
fn an_envelope_carries_what_was_said() {
    let registry = event::registry().expect("a registry");
    let metadata = MessageMetadata {
        priority: 7,
        ttl: Some(60),
        source: Some("watch".into()),
        destination: Some("node".into()),
        ..MessageMetadata::default()
    };
    let gap = Gap { from: 3, to: 9, reason: GapReason::Expired };
    let envelope = Envelope::new("id-1", gap).with_metadata(metadata).with_priority(8).with_ttl(61);
    let message = envelope.encode(&pool()).expect("encoded");
    let received = Envelope::<Gap>::read(&message, &registry).expect("read");
    assert_eq!(
        (received.id, received.source, received.payload.to.to_native()),
        ("id-1", Some("watch"), 9)
    );
    assert_eq!(received.to_envelope().expect("rebuilt"), envelope);
    assert!(matches!(
        Envelope::<Event>::read(&message, &registry),
        Err(CodecError::WrongType { found: "straightway.gap", wanted: "straightway.event" })
    ));
    for cut in 0..message.len() {
        assert!(Envelope::<Gap>::read(&message[..cut], &registry).is_err(), "{cut}");
    }
    let text = serde_json::to_string(&envelope).expect("text");
    assert_eq!(serde_json::from_str::<Envelope<Gap>>(&text).expect("sound"), envelope);
}

/// What the metadata say of the payload is how it is written, and none of it is taken for an archive.
#[test]
fn an_envelope_is_written_as_its_metadata_say() {
    let (registry, pool) = (event::registry().expect("a registry"), pool());
    let event = samples::events(8, 1).remove(0);
    let plain = Envelope::new("7", event).with_ttl(0);
    let mut lengths = Vec::new();
    for content_type in [Encoding::Rkyv, Encoding::Json] {
        for compression in [None, Some(Compression::Zstd)] {
            let metadata = MessageMetadata { content_type, compression, ..plain.metadata.clone() };
            let envelope = plain.clone().with_metadata(metadata);
            let message = envelope.encode(&pool).expect("encoded");
            lengths.push(message.len());
            let opened = Envelope::<Event>::open(&message, &registry, &pool, 4096);
            assert_eq!(opened.expect("opened"), envelope);
            let in_place = Envelope::<Event>::read(&message, &registry);
            match (content_type, compression) {
                (Encoding::Rkyv, None) => assert!(in_place.is_ok()),
                _ => assert!(matches!(in_place.map(drop), Err(CodecError::NotInPlace { .. }))),
            }
            assert!(Envelope::<Gap>::open(&message, &registry, &pool, 4096).is_err());
            let packed = compression.is_some();
            let tight = Envelope::<Event>::open(&message, &registry, &pool, 100);
            assert_eq!(matches!(tight, Err(CodecError::TooLarge { limit: 100 })), packed);
            for cut in 0..message.len() {
                let opened = Envelope::<Event>::open(&message[..cut], &registry, &pool, 4096);
                assert!(opened.is_err(), "{cut}");
            }
        }
    }
    assert!(lengths[1] < lengths[0] && lengths[3] < lengths[2], "{lengths:?}");
    // What does not shrink is not marked as if it had.
    let metadata =
        MessageMetadata { compression: Some(Compression::Zstd), ..MessageMetadata::default() };
    let gap = Envelope::new("8", Gap { from: 1, to: 2, reason: GapReason::Expired });
    let message = gap.with_metadata(metadata).encode(&pool).expect("encoded");
    let opened = Envelope::<Gap>::open(&message, &registry, &pool, 4096).expect("opened");
    assert_eq!((opened.payload.to, opened.metadata.compression), (2, None));
    let second = Envelope::new("9", v2::Thing::default());
    assert_eq!(second.version, 2, "that of its type");
}

mod v1 {
    use super::*;

    #[derive(
        Debug,
        Clone,
        PartialEq,
        Archive,
        Serialize,
        Deserialize,
        serde::Serialize,
        serde::Deserialize,
    )]
    #[serde(default)]
    pub struct Thing {
        pub name: String,
        pub size: u32,
    }

    impl Default for Thing {
        fn default() -> Self {
            Self { name: "n".into(), size: 1 }
        }
    }

    impl WireType for Thing {
        const NAME: &'static str = "test.thing";
        const VERSION: u16 = 1;
        fn example() -> Self {
            Self::default()
        }
    }
}

mod v2 {
    use super::*;

    #[derive(
        Debug,
        Clone,
        PartialEq,
        Default,
        Archive,
        Serialize,
        Deserialize,
        serde::Serialize,
        serde::Deserialize,
    )]
    #[serde(default)]
    pub struct Thing {
        pub name: String,
        pub size: u64,
        pub tags: Vec<String>,
    }

    impl WireType for Thing {
        const NAME: &'static str = "test.thing";
        const VERSION: u16 = 2;
        fn example() -> Self {
            Self { name: "n".into(), size: 1, tags: vec!["t".into()] }
        }
    }

    impl From<v1::Thing> for Thing {
        fn from(old: v1::Thing) -> Self {
            Self { name: old.name, size: u64::from(old.size), tags: Vec::new() }
        }
    }

    impl From<Thing> for v1::Thing {
        fn from(new: Thing) -> Self {
            Self { name: new.name, size: u32::try_from(new.size).unwrap_or(u32::MAX) }
        }
    }
}

fn header<T: WireType>() -> Header {
    let flags = Flags::default();
    let type_id = type_id(T::NAME);
    Header { flags, type_id, version: T::VERSION, priority: 0, ttl_ms: 0, offset: 0, time_us: 0 }
}

#[test]
fn versions_are_read_in_both_directions() {
    let pool = pool();
    let (old, new) = (
        v1::Thing { name: "a name of some length".into(), size: 5 },
        v2::Thing { name: "a name of some length".into(), size: 5, tags: vec!["red".into()] },
    );
    let old_bytes = RkyvCodec.encode(&old, &pool).expect("archived");
    let new_bytes = RkyvCodec.encode(&new, &pool).expect("archived");
    // A reader of version 2 that knows how version 1 becomes it.
    let mut builder = TypeRegistry::builder();
    builder
        .register_type::<v2::Thing>()
        .expect("new")
        .convert::<v1::Thing, v2::Thing>()
        .expect("new");
    let reader = builder.build();
    let read: Read<'_, v2::Thing> = reader.read(&header::<v1::Thing>(), &old_bytes).expect("read");
    assert!(matches!(&read, Read::Converted(thing) if thing.size == 5 && thing.tags.is_empty()));
    let read: Read<'_, v2::Thing> = reader.read(&header::<v2::Thing>(), &new_bytes).expect("read");
    assert!(matches!(read, Read::InPlace(thing) if thing.tags.len() == 1));
    // A reader of version 1 says which version it lacks ...
    let mut builder = TypeRegistry::builder();
    builder.register_type::<v1::Thing>().expect("new");
    let reader = builder.build();
    assert!(matches!(
        reader.read::<v1::Thing>(&header::<v2::Thing>(), &new_bytes),
        Err(CodecError::UnknownVersion { version: 2, known: 1, .. })
    ));
    // ... and a writer of version 2 that hears it writes version 1, or JSON, which passes over what it does not know.
    let mut builder = TypeRegistry::builder();
    builder
        .register_type::<v2::Thing>()
        .expect("new")
        .convert::<v2::Thing, v1::Thing>()
        .expect("new");
    let writer = builder.build();
    let downgraded = writer.convert(type_id("test.thing"), 2, 1, &new_bytes).expect("converted");
    let read: Read<'_, v1::Thing> = reader.read(&header::<v1::Thing>(), &downgraded).expect("read");
    assert_eq!(read.into_owned().expect("rebuilt"), old);
    let text = serde_json::to_string(&new).expect("text");
    assert_eq!(serde_json::from_str::<v1::Thing>(&text).expect("read"), old);
    assert_eq!(
        writer.version_for(type_id("test.thing"), 1, straightway_codec::fingerprint::<v1::Thing>()),
        Some(1)
    );
    assert_eq!(writer.version_for(type_id("test.thing"), 2, 1), None, "another layout: JSON");
}

#[test]
fn registrations_that_contradict_are_refused() {
    let mut builder = TypeRegistry::builder();
    builder.register_type::<v2::Thing>().expect("new");
    assert!(
        builder.register_type::<v1::Thing>().is_err(),
        "another version comes in by conversion"
    );
    builder.add_alias("thing", "test.thing").expect("new");
    assert!(
        builder.add_alias("thing", "test.thing").is_err()
            && builder.add_alias("x", "nothing").is_err()
    );
    assert!(builder.convert::<Gap, Gap>().is_err(), "not registered");
    builder.convert::<v1::Thing, v2::Thing>().expect("new");
    assert!(builder.convert::<v1::Thing, v2::Thing>().is_err());
    let registry = builder.build();
    let info = registry.get_type_info("thing").expect("by its alias");
    assert_eq!((info.name, info.version), ("test.thing", 2));
    let bytes = RkyvCodec.encode(&v2::Thing::default(), &pool()).expect("archived");
    registry.validate_type("thing", &bytes).expect("valid");
    assert!(matches!(
        registry.validate_type("thing", &bytes[1..]),
        Err(CodecError::Invalid { .. })
    ));
    assert!(matches!(
        registry.validate_type("nothing", &bytes),
        Err(CodecError::UnknownType { .. })
    ));
}

/// Validation is not type checking, so the header decides: every pair of different types is refused.
#[test]
fn no_type_passes_for_another() {
    let registry = event::registry().expect("a registry");
    let pool = pool();
    let gap = RkyvCodec
        .encode(&Gap { from: 1, to: 2, reason: GapReason::Lagging }, &pool)
        .expect("archived");
    let checked = registry.check(&header::<Gap>(), &gap).expect("sound");
    assert!(checked.view::<Gap>().is_ok());
    assert!(matches!(checked.view::<Event>(), Err(CodecError::WrongType { .. })));
    assert!(matches!(checked.view::<Stats>(), Err(CodecError::WrongType { .. })));
    assert!(matches!(checked.view::<Subscribe>(), Err(CodecError::WrongType { .. })));
    let unknown = Header { type_id: 7, ..header::<Gap>() };
    assert!(matches!(registry.check(&unknown, &gap), Err(CodecError::UnknownType { id: 7 })));
    let newer = Header { version: 9, ..header::<Gap>() };
    assert!(matches!(
        registry.check(&newer, &gap),
        Err(CodecError::UnknownVersion { version: 9, known: 1, .. })
    ));
}

#[test]
fn a_message_is_header_and_archive_in_one_buffer_with_room_in_front() {
    let encoder = encoder(OptimizerMode::On);
    let registry = event::registry().expect("a registry");
    let stamp = Stamp { priority: 2, ttl_ms: 3, offset: 4, time_us: 5 };
    for event in samples::events(3, 300) {
        let mut message = encoder
            .encode_as::<Event, _>(stamp, event.as_ref().size_hint(), &event.as_ref())
            .expect("encoded");
        let before = message[HEADER_BYTES..].as_ptr();
        straightway_codec::ws::put_head(&mut message, straightway_codec::ws::Opcode::Binary)
            .expect("room");
        let head =
            message.len() - (message.as_ptr_range().end.addr() - before.addr()) - HEADER_BYTES;
        assert_eq!(message[head + HEADER_BYTES..].as_ptr(), before, "nothing moved");
        let (header, payload) = Header::parse(&message[head..]).expect("sound");
        assert_eq!((header.offset, header.priority, header.expires_ms()), (4, 2, Some(3)));
        let read: Read<'_, Event> = registry.read(&header, payload).expect("sound");
        assert_eq!(read.into_owned().expect("rebuilt"), event);
    }
    let report = encoder.optimizer().report();
    let (name, stats, plan) = &report[0];
    assert_eq!((*name, stats.serialization_count), ("straightway.event", 300));
    assert!(plan.pool && plan.reserve >= 300, "{plan:?}: it acts on what it saw");
}

#[test]
fn events_shrink_against_the_dictionary_and_come_back() {
    let encoder = encoder(OptimizerMode::On);
    let (mut plain_total, mut packed_total) = (0, 0);
    for event in samples::events(99, 1000) {
        let message = encoder.encode(Stamp::default(), &event).expect("encoded");
        let packed = encoder.compress::<Event>(&message).expect("compressed").expect("smaller");
        let (header, payload) = Header::parse(&packed).expect("sound");
        assert!(header.flags.has(Flags::ZSTD));
        let mut plain = encoder.pool().acquire(64 * 1024).expect("a buffer");
        EVENTS.decompress(payload, &mut plain).expect("sound");
        assert_eq!(plain[..], message[HEADER_BYTES..]);
        plain_total += plain.len();
        packed_total += payload.len();
    }
    // Measured: 75 of 177 bytes on average. Fails when the dictionary no longer fits the events: train a new one.
    assert!(packed_total * 100 < plain_total * 50, "{packed_total} of {plain_total}");
    let mut room = encoder.pool().acquire(100).expect("a buffer");
    assert!(EVENTS.decompress(b"nonsense", &mut room).is_err());
}

#[test]
fn compression_that_does_not_pay_is_given_up() {
    let encoder = encoder(OptimizerMode::On);
    let mut dice = samples::Dice::new(3);
    let mut compressed = 0;
    for _ in 0..300 {
        // Printable characters at random: six and a half bits in each byte.
        let noise =
            (0..4000).map(|_| char::from(b' ' + u8::try_from(dice.below(95)).expect("small")));
        let event = Event { key: noise.collect(), ..Event::default() };
        let message = encoder.encode(Stamp::default(), &event).expect("encoded");
        let packed = encoder.compress::<Event>(&message).expect("tried");
        compressed += usize::from(packed.is_some());
    }
    assert!(
        (2..150).contains(&compressed),
        "{compressed} of 300: a few to find out, then hardly any"
    );
}
