//! Encoding into the form that a writer takes, into memory that is used again; decoding out of one received buffer.
use std::hint::black_box;
use std::process::Command;

use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use raft::prelude::Message;
use straightway_wire::Segments;
use straightway_wire::raft::{
    deserialize_raft_message_fast, serialize_raft_message_fast, serialize_raft_message_into,
    serialize_raft_message_vectored,
};

use crate::count::{allocated, worked};
use crate::rivals::{owned, shared};
use crate::{median, messages};

const ROUNDS: usize = 11;

type Op = (&'static str, Box<dyn FnMut()>);

fn ops(message: &Message) -> Vec<Op> {
    let wire = serialize_raft_message_fast(message).expect("encoded");
    let (one, two) = (owned::Message::from(message), shared::Message::from(message));
    assert_eq!(message.write_to_bytes().expect("encoded"), wire);
    assert_eq!(one.encode_to_vec(), wire);
    assert_eq!(two.encode_to_vec(), wire);
    assert_eq!(&deserialize_raft_message_fast(&wire).expect("sound"), message);
    let (mut segments, mut contiguous) = (Segments::default(), Vec::new());
    let (mut first, mut second, mut third) = (Vec::new(), Vec::new(), Vec::new());
    let theirs = message.clone();
    let ours = [message.clone(), message.clone()];
    let [vectored, joined] = ours;
    let bytes = || Bytes::clone(&wire);
    let (a, b, c, d) = (bytes(), bytes(), bytes(), bytes());
    vec![
        ("nothing", Box::new(|| {})),
        ("encode: ours, entries by reference", Box::new(move || {
            segments.clear();
            serialize_raft_message_vectored(black_box(&vectored), &mut segments).expect("encoded");
            black_box(segments.finish().len());
        })),
        ("encode: ours, one buffer", Box::new(move || {
            contiguous.clear();
            serialize_raft_message_into(black_box(&joined), &mut contiguous).expect("encoded");
            black_box(&contiguous);
        })),
        ("encode: protobuf 2", Box::new(move || {
            first.clear();
            black_box(&theirs).write_to_vec(&mut first).expect("encoded");
            black_box(&first);
        })),
        ("encode: prost, Vec", Box::new(move || {
            second.clear();
            black_box(&one).encode(&mut second).expect("encoded");
            black_box(&second);
        })),
        ("encode: prost, Bytes", Box::new(move || {
            third.clear();
            black_box(&two).encode(&mut third).expect("encoded");
            black_box(&third);
        })),
        ("decode: ours", Box::new(move || drop(black_box(deserialize_raft_message_fast(black_box(&a)).expect("sound"))))),
        ("decode: protobuf 2, Bytes", Box::new(move || drop(black_box(Message::parse_from_carllerche_bytes(black_box(&b)).expect("sound"))))),
        ("decode: prost, Vec", Box::new(move || drop(black_box(owned::Message::decode(&black_box(&c)[..]).expect("sound"))))),
        ("decode: prost, Bytes", Box::new(move || drop(black_box(shared::Message::decode(black_box(&d).clone()).expect("sound"))))),
    ]
}

/// One operation again and again: what valgrind counts.
pub fn repeat(message: usize, op: usize, times: usize) {
    let (_, act) = &mut ops(&messages()[message].1)[op];
    (0..times).for_each(|_| act());
}

pub fn run() {
    println!("| message | operation | CPU ns | of ours | allocations | bytes allocated | instructions | of ours |\n|---|---|---|---|---|---|---|---|");
    for (number, (name, message, _)) in messages().iter().enumerate() {
        let mut ops = ops(message);
        let counts: Vec<u32> = ops.iter_mut().map(|(_, act)| calibrate(act)).collect();
        let mut times = vec![Vec::new(); ops.len()];
        for round in 0..ROUNDS {
            for turn in 0..ops.len() {
                // In changing order.
                let at = (turn + round) % ops.len();
                times[at].push(time(&mut ops[at].1, counts[at]));
            }
        }
        let times: Vec<_> = times.into_iter().map(median).collect();
        let instructions = instructions(number, ops.len());
        for (at, (op, act)) in ops.iter_mut().enumerate().skip(1) {
            let ours = if op.starts_with("encode") { 1 } else { 6 };
            let before = allocated();
            (0..16).for_each(|_| act());
            let after = allocated();
            let (calls, bytes) = ((after.0 - before.0) as f64 / 16.0, (after.1 - before.1) / 16);
            let (count, ratio) = match &instructions {
                Some(all) => (format!("{:.0}", all[at]), format!("{:.2}", all[at] / all[ours])),
                None => ("-".into(), "-".into()),
            };
            println!("| {name} | {op} | {:.0} | {:.2} | {calls} | {bytes} | {count} | {ratio} |", times[at], times[at] / times[ours]);
        }
    }
}

fn time(act: &mut dyn FnMut(), count: u32) -> f64 {
    // What the processor worked: a shared machine makes others wait.
    let before = worked();
    (0..count).for_each(|_| act());
    (worked() - before) / f64::from(count)
}

/// As many as take five milliseconds.
fn calibrate(act: &mut dyn FnMut()) -> u32 {
    let mut count = 16_u32;
    while time(act, count) * f64::from(count) < 5e6 && count < 1 << 24 {
        count *= 2;
    }
    count
}

/// Instructions of one of each operation, as callgrind counts them.
fn instructions(message: usize, ops: usize) -> Option<Vec<f64>> {
    let program = std::env::current_exe().ok()?;
    let counted = |op: usize, times: u32| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&program)
            .args(["codec", &message.to_string(), &op.to_string(), &times.to_string()])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said.lines().find_map(|line| line.split("Collected : ").nth(1))?;
        line.trim().parse::<f64>().ok()
    };
    // Two lengths: what happens once, in either, is not counted.
    (0..ops).map(|op| Some((counted(op, 220)? - counted(op, 20)?) / 200.0)).collect()
}
