//! The feed's event in rkyv (ours), serde_json, sonic-rs, postcard and prost: encoding into a reused buffer, reading three
//! fields, rebuilding; at three sizes. And the optimizer off, observing and on.
//!
//! Contestants take turns, 11 rounds; medians. Every one must give back what went in before it is timed.
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Buf;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use straightway_buffer::{BufferPool, PoolConfig};
use straightway_codec::event::{Event, Kind, Scope};
use straightway_codec::{Codec, Encoder, OptimizerMode, RkyvCodec, SerializationOptimizer, Stamp};

const ROUNDS: usize = 11;

#[derive(Clone, PartialEq, prost::Message)]
struct ProtoEvent {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    node: String,
    #[prost(uint64, tag = "4")]
    len: u64,
    #[prost(string, optional, tag = "5")]
    content_type: Option<String>,
    #[prost(string, repeated, tag = "6")]
    tags: Vec<String>,
    #[prost(string, optional, tag = "7")]
    etag: Option<String>,
    #[prost(uint64, optional, tag = "8")]
    expires_ms: Option<u64>,
}

/// The same without the attributes that leave fields out of JSON: postcard cannot leave any out.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct PlainEvent {
    kind: u8,
    key: String,
    node: String,
    len: u64,
    content_type: Option<String>,
    tags: Vec<String>,
    etag: Option<String>,
    expires_ms: Option<u64>,
}

fn event(payload: usize) -> Event {
    Event {
        kind: Kind::Stored,
        key: format!("artifacts/ci/{}", "k".repeat(payload)),
        node: "cache-07.example.net".into(),
        len: 123_456_789,
        content_type: Some("application/octet-stream".into()),
        tags: vec!["project:17".into(), "branch:main".into()],
        etag: Some("\"0123456789abcdef0123456789abcdef\"".into()),
        expires_ms: Some(1_790_000_000_000),
        scope: Scope::Key,
    }
}

/// Nanoseconds for one.
fn time(mut act: impl FnMut()) -> f64 {
    let mut count = 16_u32;
    loop {
        let started = Instant::now();
        (0..count).for_each(|_| act());
        let spent = started.elapsed();
        if spent.as_millis() >= 20 {
            return spent.as_nanos() as f64 / f64::from(count);
        }
        count *= 2;
    }
}

type Act<'a> = (&'static str, usize, Box<dyn FnMut() + 'a>, Box<dyn FnMut() + 'a>, Box<dyn FnMut() + 'a>);

fn main() {
    println!("| payload | codec | bytes | encode ns | read 3 fields ns | rebuild ns | encode, of ours | read, of ours |\n|---|---|---|---|---|---|---|---|");
    for payload in [200, 2048, 20_480] {
        compare(payload);
    }
    optimizer();
}

fn compare(payload: usize) {
    let value = event(payload);
    let pool = BufferPool::new(PoolConfig::tiered()).expect("a pool");
    let mut buffer = pool.acquire(64 * 1024).expect("a buffer");
    let archive = RkyvCodec.encode(&value, &pool).expect("encoded");
    let json = serde_json::to_vec(&value).expect("encoded");
    let plain = PlainEvent {
        kind: value.kind as u8,
        key: value.key.clone(),
        node: value.node.clone(),
        len: value.len,
        content_type: value.content_type.clone(),
        tags: value.tags.clone(),
        etag: value.etag.clone(),
        expires_ms: value.expires_ms,
    };
    let packed = postcard::to_allocvec(&plain).expect("encoded");
    let proto = ProtoEvent {
        kind: value.kind as u32,
        key: value.key.clone(),
        node: value.node.clone(),
        len: value.len,
        content_type: value.content_type.clone(),
        tags: value.tags.clone(),
        etag: value.etag.clone(),
        expires_ms: value.expires_ms,
    };
    let wire = proto.encode_to_vec();
    assert_eq!(Codec::<Event>::decode(&RkyvCodec, &archive).expect("sound"), value);
    assert_eq!(serde_json::from_slice::<Event>(&json).expect("sound"), value);
    assert_eq!(sonic_rs::from_slice::<Event>(&json).expect("sound"), value);
    assert_eq!(postcard::from_bytes::<PlainEvent>(&packed).expect("sound"), plain);
    assert_eq!(ProtoEvent::decode(&wire[..]).expect("sound"), proto);
    let (mut text, mut sonic, mut card, mut prost_out) = (Vec::new(), Vec::new(), vec![0; 64 * 1024], Vec::new());
    let (value, plain, proto) = (&value, &plain, &proto);
    let (archive, json, packed, wire) = (&archive, &json, &packed, &wire);
    let mut acts: Vec<Act<'_>> = vec![
        (
            "rkyv (straightway)", archive.len(),
            Box::new(|| { buffer.clear(); black_box(RkyvCodec.encode_into(black_box(value), &mut buffer).expect("fits")); }),
            Box::new(|| {
                let seen = Codec::<Event>::access(&RkyvCodec, black_box(archive)).expect("sound");
                black_box((seen.key.len(), seen.len.to_native(), seen.tags.len()));
            }),
            Box::new(|| { black_box(Codec::<Event>::decode(&RkyvCodec, black_box(archive)).expect("sound")); }),
        ),
        (
            "serde_json", json.len(),
            Box::new(|| { text.clear(); serde_json::to_writer(&mut text, black_box(value)).expect("encoded"); black_box(&text); }),
            Box::new(|| { let seen: Event = serde_json::from_slice(black_box(json)).expect("sound"); black_box((seen.key.len(), seen.len, seen.tags.len())); }),
            Box::new(|| { black_box(serde_json::from_slice::<Event>(black_box(json)).expect("sound")); }),
        ),
        (
            "sonic-rs", json.len(),
            Box::new(|| { sonic.clear(); sonic_rs::to_writer(&mut sonic, black_box(value)).expect("encoded"); black_box(&sonic); }),
            Box::new(|| { let seen: Event = sonic_rs::from_slice(black_box(json)).expect("sound"); black_box((seen.key.len(), seen.len, seen.tags.len())); }),
            Box::new(|| { black_box(sonic_rs::from_slice::<Event>(black_box(json)).expect("sound")); }),
        ),
        (
            "postcard", packed.len(),
            Box::new(|| { black_box(postcard::to_slice(black_box(plain), &mut card).expect("fits")); }),
            Box::new(|| { let seen: PlainEvent = postcard::from_bytes(black_box(packed)).expect("sound"); black_box((seen.key.len(), seen.len, seen.tags.len())); }),
            Box::new(|| { black_box(postcard::from_bytes::<PlainEvent>(black_box(packed)).expect("sound")); }),
        ),
        (
            "prost", wire.len(),
            Box::new(|| { prost_out.clear(); black_box(proto).encode(&mut prost_out).expect("fits"); black_box(&prost_out); }),
            Box::new(|| { let seen = ProtoEvent::decode(black_box(&wire[..]).chunk()).expect("sound"); black_box((seen.key.len(), seen.len, seen.tags.len())); }),
            Box::new(|| { black_box(ProtoEvent::decode(black_box(&wire[..])).expect("sound")); }),
        ),
    ];
    let mut rounds = vec![[const { Vec::new() }; 3]; acts.len()];
    for round in 0..ROUNDS {
        for n in 0..acts.len() {
            let which = (n + round) % acts.len();
            let (_, _, encode, read, rebuild) = &mut acts[which];
            rounds[which][0].push(time(encode));
            rounds[which][1].push(time(read));
            rounds[which][2].push(time(rebuild));
        }
    }
    let median = |times: &Vec<f64>| {
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let ours: Vec<f64> = rounds[0].iter().map(median).collect();
    for ((name, bytes, ..), times) in acts.iter().zip(&rounds) {
        let [encode, read, rebuild] = [median(&times[0]), median(&times[1]), median(&times[2])];
        println!(
            "| {payload} | {name} | {bytes} | {encode:.0} | {read:.0} | {rebuild:.0} | {:.1} | {:.1} |",
            encode / ours[0], read / ours[1]
        );
    }
}

/// A whole framed message, in each mode.
fn optimizer() {
    println!("\n| optimizer | ns a message | of off |\n|---|---|---|");
    let value = event(200);
    let encoders = [OptimizerMode::Off, OptimizerMode::Observe, OptimizerMode::On].map(|mode| {
        (mode, Encoder::new(Arc::new(SerializationOptimizer::new(mode)), 1 << 20).expect("an encoder"))
    });
    let mut times = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        for n in 0..3 {
            let which = (n + round) % 3;
            let encoder = &encoders[which].1;
            times[which].push(time(|| {
                black_box(encoder.encode(Stamp::default(), black_box(&value)).expect("encoded").share());
            }));
        }
    }
    let medians = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    for ((mode, _), ns) in encoders.iter().zip(medians) {
        println!("| {mode:?} | {ns:.1} | {:.3} |", ns / medians[0]);
    }
}
