//! Raft messages: ours beside protobuf 2, prost, tokio-util's LengthDelimitedCodec with prost, and tonic.
//!
//! First the codec alone: nanoseconds of CPU (contestants take turns, 11 rounds, medians), allocations, and instructions where
//! valgrind is there. Then the same messages through one pipe, within one process and on one thread, so that time and CPU
//! are nearly the same: an in-memory pipe, and a Unix socket pair; messages that wait are written together, and one by one.
//!
//! prost's rows end with its own structures; raft built on them needs them in this form, raft as we build it does not.
mod arms;
mod codec;
mod count;
mod pipe;
mod rivals;
mod tonics;

use bytes::Bytes;
use raft::prelude::{Entry, Message, MessageType};

#[global_allocator]
static ALLOCATOR: count::Counting = count::Counting;

/// The messages that are compared, and how many of each make a round of the second part.
fn messages() -> [(&'static str, Message, u32); 4] {
    let heartbeat = Message { commit: 123_456, ..of(MessageType::MsgHeartbeat) };
    [
        ("heartbeat", heartbeat, 100_000),
        ("append 1 x 64 B", append(1, 64), 60_000),
        ("append 64 x 1 KiB", append(64, 1024), 2_000),
        ("append 1 x 1 MiB", append(1, 1 << 20), 200),
    ]
}

fn of(msg_type: MessageType) -> Message {
    Message { msg_type, from: 1, to: 2, term: 7, ..Message::default() }
}

fn append(count: u64, len: usize) -> Message {
    let entry = |at| Entry { index: 1000 + at, term: 7, data: Bytes::from(vec![at as u8; len]), ..Entry::default() };
    let entries: Vec<_> = (1..=count).map(entry).collect();
    Message { log_term: 7, index: 1000, commit: 990, entries: entries.into(), ..of(MessageType::MsgAppend) }
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // What valgrind runs.
        ["codec", message, op, times] => {
            let number = |text: &str| text.parse().expect("a number");
            codec::repeat(number(message), number(op), number(times));
        }
        ["pipe", message, arm, times] => {
            let number = |text: &str| text.parse().expect("a number");
            pipe::repeat(number(message), number(arm), number(times));
        }
        ["codec"] => codec::run(),
        ["pipe"] => pipe::run(""),
        // Only of messages with this in their name.
        ["pipe", which] => pipe::run(which),
        _ => {
            codec::run();
            pipe::run("");
        }
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
