//! A bare WebSocket, to see and send every byte.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
use std::time::Duration;

use serde_json::Value;
use straightway::codec::ws::{FrameReader, Incoming, Limits, Opcode, Role, frame_head, mask};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::TestNode;

/// Generous: a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Subscribers that have taken their places.
pub async fn subscribed(node: &TestNode, count: u64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let stats = node.admin_client().await.get("api/stats", "").await.json();
        if stats["feed"]["subscribers"] == count {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{stats}");
        tokio::task::yield_now().await;
    }
}

/// A bare WebSocket, to see and send every byte.
pub struct Raw {
    pub stream: TcpStream,
    reader: FrameReader,
    input: Vec<u8>,
    pub head: String,
}

#[derive(Debug, PartialEq)]
pub enum Heard {
    Text(Value),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    End,
}

impl Raw {
    pub async fn open(node: &TestNode, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(node.admin()).await.expect("connected");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
            node.admin()
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let limits = Limits { max_message: 1 << 20, max_fragments: 64 };
        let deflate = head.windows(18).any(|window| window == b"permessage-deflate");
        let head = String::from_utf8(head).expect("text").to_lowercase();
        Self {
            stream,
            reader: FrameReader::new(Role::Client, limits, deflate),
            input: Vec::new(),
            head,
        }
    }

    pub async fn json(node: &TestNode, query: &str) -> Self {
        let raw = Self::open(
            node,
            &format!("/events{query}"),
            "Sec-WebSocket-Protocol: straightway.v1.json\r\n",
        )
        .await;
        assert!(raw.head.starts_with("http/1.1 101"), "{}", raw.head);
        assert!(
            raw.head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{}",
            raw.head
        );
        raw
    }

    pub async fn send(&mut self, first: u8, payload: &[u8]) {
        self.send_all(&[(first, payload)]).await;
    }

    /// Sends frames in one write.
    pub async fn send_all(&mut self, frames: &[(u8, impl AsRef<[u8]>)]) {
        let bytes: Vec<u8> =
            frames.iter().flat_map(|(first, payload)| frame(*first, payload.as_ref())).collect();
        // The node may have closed already: then what it said is still to be read.
        drop(self.stream.write_all(&bytes).await);
    }

    pub async fn hear(&mut self) -> Heard {
        tokio::time::timeout(PATIENCE, self.hear_any()).await.expect("in time")
    }

    async fn hear_any(&mut self) -> Heard {
        loop {
            if !self.input.is_empty() {
                let (taken, heard) = {
                    let (taken, incoming) =
                        self.reader.read(&mut self.input).expect("sound frames");
                    (taken, incoming.map(|incoming| heard(&incoming)))
                };
                self.input.drain(..taken);
                if let Some(heard) = heard {
                    return heard;
                }
                continue;
            }
            let mut chunk = vec![0; 64 * 1024];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return Heard::End,
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// The next message about an object.
    pub async fn event(&mut self) -> Value {
        loop {
            match self.hear().await {
                Heard::Text(value) if value["kind"] == "stats" => {}
                Heard::Ping(_) => {}
                Heard::Text(value) => return value,
                other => panic!("{other:?}"),
            }
        }
    }

    /// What the node closes with.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.hear().await {
                Heard::Close(code, _) => return code,
                Heard::End => panic!("closed without a word"),
                _ => {}
            }
        }
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let (head, used) = frame_head(Opcode::Binary, payload.len());
    let mut frame = head[head.len() - used..].to_vec();
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend_from_slice(&[1, 2, 3, 4]);
    let start = frame.len();
    frame.extend_from_slice(payload);
    mask(&mut frame[start..], [1, 2, 3, 4], 0);
    frame
}

fn heard(incoming: &Incoming<'_>) -> Heard {
    match incoming {
        Incoming::Text(text) => Heard::Text(serde_json::from_str(text).expect("JSON")),
        Incoming::Binary(bytes) => Heard::Binary(bytes.to_vec()),
        Incoming::Ping(payload) => Heard::Ping(payload.to_vec()),
        Incoming::Pong(payload) => Heard::Pong(payload.to_vec()),
        Incoming::Close(Some((code, reason))) => Heard::Close(*code, (*reason).to_owned()),
        Incoming::Close(None) => Heard::Close(1005, String::new()),
    }
}

/// A request to the admin listener that must succeed.
pub async fn post(node: &TestNode, path: &str, body: &str) -> Value {
    let mut client = node.admin_client().await;
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    client.send(head).await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}
