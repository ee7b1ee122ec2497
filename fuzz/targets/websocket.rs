//! Frames of a hostile client: what we hand on is what tungstenite hands on, whatever the pieces, until one of us objects.
#![no_main]
use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;
use straightway_codec::ws::{FrameReader, Incoming, Limits, Role};
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tungstenite::{Message, WebSocket};

const LIMIT: usize = 4096;

#[derive(Debug, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close,
}

/// Our messages, and whether the whole input was taken without objection.
fn ours(bytes: &[u8], step: usize) -> (Vec<Seen>, bool) {
    let limits = Limits { max_message: LIMIT, max_fragments: u32::MAX };
    let mut reader = FrameReader::new(Role::Server, limits, false);
    let mut seen = Vec::new();
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let mut at = 0;
        while at < piece.len() {
            let Ok((taken, incoming)) = reader.read(&mut piece[at..]) else { return (seen, false) };
            seen.extend(incoming.map(|incoming| match incoming {
                Incoming::Text(text) => Seen::Text(text.to_owned()),
                Incoming::Binary(bytes) => Seen::Binary(bytes.to_vec()),
                Incoming::Ping(bytes) => Seen::Ping(bytes.to_vec()),
                Incoming::Pong(bytes) => Seen::Pong(bytes.to_vec()),
                Incoming::Close(_) => Seen::Close,
            }));
            if seen.last() == Some(&Seen::Close) {
                return (seen, true);
            }
            at += taken;
        }
    }
    (seen, true)
}

struct Wire<'a>(&'a [u8]);
impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}
impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(bytes: &[u8]) -> Vec<Seen> {
    let config = WebSocketConfig::default().max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Wire(bytes), TheirRole::Server, Some(config));
    let mut seen = Vec::new();
    while let Ok(message) = socket.read() {
        seen.push(match message {
            Message::Text(text) => Seen::Text(text.to_string()),
            Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Message::Close(_) => Seen::Close,
            Message::Frame(_) => continue,
        });
        if seen.last() == Some(&Seen::Close) {
            break;
        }
    }
    seen
}

fuzz_target!(|bytes: &[u8]| {
    let (whole, sound) = ours(bytes, usize::MAX);
    let (cut, also_sound) = ours(bytes, 3);
    assert_eq!((&whole, sound), (&cut, also_sound), "pieces make no difference");
    let theirs = theirs(bytes);
    // They take lengths that are not in their shortest form; we hold that against a peer. Otherwise we agree.
    let common = whole.len().min(theirs.len());
    assert_eq!(whole[..common], theirs[..common]);
    if sound {
        assert!(theirs.len() >= whole.len(), "what we take they take: {whole:?} {theirs:?}");
    }
});
