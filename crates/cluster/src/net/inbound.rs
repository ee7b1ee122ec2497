//! A lane that a member dialled: a hello first, then messages, as fast as the node takes them.
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, VarInt};
use straightway_wire::io::Source;
use straightway_wire::raft::Lane;
use straightway_wire::{
    Decompressor, Hello, IoConfig, Limits, MessageParser, MessageReader, MessageType, ParserStats,
    WireError,
};

use super::LocalNode;
use super::close::CloseCode;
use super::dispatch::Dispatcher;
use super::endpoint::{BULK_WINDOW, node_key};
use super::half_open::Shaking;
use super::members::MemberAddress;
use super::peer::Peer;
use super::refusals::Refusal;
use super::shared::Shared;

/// Pieces that are read at once.
const PIECES: usize = 64;
/// QUIC's packets are slices of what was received at once: a part of one keeps at least as much in memory.
const SLICED_FROM: usize = 64 << 10;

/// Why a connection is closed from here.
#[derive(Debug)]
pub(crate) struct Refused {
    why: Option<Refusal>,
    code: CloseCode,
    text: String,
}

impl Refused {
    pub(crate) fn new(why: Refusal, code: CloseCode, text: impl Into<String>) -> Self {
        Self { why: Some(why), code, text: text.into() }
    }

    /// For what is nobody's fault.
    pub(crate) fn quietly(code: CloseCode) -> Self {
        Self { why: None, code, text: code.to_string() }
    }

    fn close(&self, shared: &Shared, connection: &Connection, who: &dyn std::fmt::Display) {
        if let Some(why) = self.why {
            shared.refusals.count(why, format_args!("{who}: {}", self.text));
        }
        connection.close(self.code.var_int(), self.text.as_bytes());
    }
}

impl From<WireError> for Refused {
    fn from(error: WireError) -> Self {
        match error {
            // The connection is gone already, or as good as.
            WireError::Io { .. } => Self::quietly(CloseCode::Done),
            error => Self::new(Refusal::Frame, CloseCode::Protocol, error.to_string()),
        }
    }
}

/// Serves a lane that a member dialled.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    lane: Lane,
    connection: Connection,
    shaking: Shaking,
) {
    let key = node_key(connection.remote_id());
    let greeted = match tokio::time::timeout(shared.limits.hello, greet(&shared, lane, &connection))
        .await
    {
        Ok(greeted) => greeted,
        Err(_) => {
            Err(Refused::new(Refusal::Hello, CloseCode::NoHello, CloseCode::NoHello.to_string()))
        }
    };
    drop(shaking);
    let (peer, reader, features) = match greeted {
        Ok(greeted) => greeted,
        Err(refused) => return refused.close(&shared, &connection, &key),
    };
    let mut stop = peer.stopped();
    let served = tokio::select! {
        // What has arrived is taken before it is looked whether more can.
        biased;
        // Whoever stops the peer has closed its connections.
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        served = async {
            match lane {
                Lane::Bulk => serve_bulk(&shared, &peer, &connection).await,
                Lane::Control | Lane::Append => reader.run(&shared, &peer, lane, features).await,
            }
        } => served,
        // While the node takes nothing, the lane above waits and does not notice.
        _ = connection.closed() => Ok(()),
    };
    peer.let_go(lane, &connection);
    if let Err(refused) = served {
        refused.close(&shared, &connection, &format_args!("member {}", peer.id));
    }
}

/// Waits for the hello, and takes the connection in if it fits.
async fn greet(
    shared: &Shared,
    lane: Lane,
    connection: &Connection,
) -> Result<(Arc<Peer>, Reader, u64), Refused> {
    let stream = connection.accept_uni().await;
    let stream = stream.map_err(|_| Refused::quietly(CloseCode::Done))?;
    let mut reader = Reader::new(stream, Limits::for_messages(shared.limits.message(lane)));
    let no_hello = |text: String| Refused::new(Refusal::Hello, CloseCode::NoHello, text);
    let frame = match reader.messages.next().await? {
        Some(frame) if frame.header.msg_type == MessageType::Hello => frame,
        Some(frame) => {
            return Err(no_hello(format!("the first frame is a {:?}", frame.header.msg_type)));
        }
        None => return Err(no_hello("the stream ended".to_owned())),
    };
    let hello = Hello::decode(&frame.payload).map_err(|error| no_hello(error.to_string()))?;
    // It may have been removed since the handshake.
    let Some(member) = shared.members.by_key(node_key(connection.remote_id())) else {
        return Err(Refused::quietly(CloseCode::NotAMember));
    };
    check_hello(&shared.node, &member, &hello)
        .map_err(|code| Refused::new(Refusal::Hello, code, code.to_string()))?;
    // A member is a peer, unless this node has said goodbye to all of them.
    let Some(peer) = shared.peer(member.id) else {
        return Err(Refused::quietly(CloseCode::Stopping));
    };
    peer.take_in(lane, &hello, connection)
        .map_err(|code| Refused::new(Refusal::Hello, code, code.to_string()))?;
    Ok((peer, reader, shared.hello(lane).agree(&hello).features))
}

/// Whether whoever says this is the member that its key belongs to.
fn check_hello(node: &LocalNode, member: &MemberAddress, hello: &Hello) -> Result<(), CloseCode> {
    if hello.cluster != node.cluster.0 {
        return Err(CloseCode::OtherCluster);
    }
    if hello.raft_id != member.id {
        return Err(CloseCode::WrongNumber);
    }
    if member.storage.is_some_and(|storage| storage.0 != hello.storage) {
        return Err(CloseCode::Wiped);
    }
    Ok(())
}

/// Lets the peer open its transfers.
async fn serve_bulk(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    connection: &Connection,
) -> Result<(), Refused> {
    connection.set_receive_window(VarInt::from_u32(BULK_WINDOW));
    let streams = u32::try_from(shared.limits.streams()).unwrap_or(u32::MAX);
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
    loop {
        let streams = connection.accept_bi().await;
        let (send, receive) = streams.map_err(|_| Refused::quietly(CloseCode::Done))?;
        // Of one connection there are no more than that; of an older one some may still be under way.
        let permit = Arc::clone(&peer.served).acquire_owned().await;
        let permit = permit.map_err(|_| Refused::quietly(CloseCode::Stopping))?;
        let (handler, peer) = (Arc::clone(&shared.handlers.bulk), peer.id);
        shared.spawn(async move {
            handler.serve(peer, send, receive).await;
            drop(permit);
        });
    }
}

/// What has arrived on a lane, as QUIC has it: pieces of the packets, by reference.
#[derive(Debug)]
struct Pieces {
    stream: RecvStream,
    read: Vec<Bytes>,
    /// Those of them that were not parsed.
    ready: Range<usize>,
}

impl Source for Pieces {
    async fn read(&mut self, into: &mut MessageParser) -> io::Result<bool> {
        if self.ready.is_empty() {
            match self.stream.read_many_chunks(&mut self.read).await? {
                Some(read) => self.ready = 0..read,
                None => return Ok(false),
            }
        }
        if let Some(at) = self.ready.next() {
            into.feed(std::mem::take(&mut self.read[at]));
        }
        Ok(true)
    }
}

/// Reads messages.
struct Reader {
    messages: MessageReader<Pieces>,
    limits: Limits,
    /// What of its doings has been counted.
    counted: ParserStats,
}

impl Reader {
    fn new(stream: RecvStream, limits: Limits) -> Self {
        let pieces = Pieces { stream, read: vec![Bytes::new(); PIECES], ready: 0..0 };
        // A connection without a sign of life is ended by QUIC.
        let config = IoConfig { limits, idle: None, ..IoConfig::default() };
        let (messages, counted) = (MessageReader::of(pieces, config), ParserStats::default());
        Self { messages, limits, counted }
    }

    /// Hands messages on until the connection ends. `features`: what was agreed on.
    async fn run(
        mut self,
        shared: &Arc<Shared>,
        peer: &Arc<Peer>,
        lane: Lane,
        features: u64,
    ) -> Result<(), Refused> {
        let mut dispatcher = Dispatcher::new(shared, peer, lane);
        let mut decompressor = Decompressor::new(features);
        while let Some(frame) = self.messages.next().await? {
            let (since, bytes) = (Instant::now(), frame.payload.len());
            let parser = self.messages.parser();
            let (parsed, sliced) = (parser.stats(), parser.was_sliced());
            let gathered = parsed.gathered_bytes.saturating_sub(self.counted.gathered_bytes);
            if frame.header.msg_type != MessageType::Heartbeat {
                Shared::received(peer, lane, bytes, gathered);
            }
            shared.wire.parsed(&self.counted, &parsed);
            self.counted = parsed;
            let compressed = frame.header.compressed.is_some();
            let frame = decompressor.open(frame, &self.limits)?;
            let len = frame.payload.len();
            let kept = if sliced && !compressed { len.max(SLICED_FROM) } else { len };
            dispatcher.dispatch(frame, kept).await?;
            // How long the node was busy counts: the peer waits for it.
            shared.wire.processed(since.elapsed());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, NodeKey, StorageId};

    #[test]
    fn a_hello_has_to_fit() {
        let node = LocalNode {
            cluster: ClusterId([1; 16]),
            raft_id: 1,
            storage: StorageId([1; 16]),
            boot: 1,
        };
        let member = MemberAddress {
            id: 2,
            key: NodeKey([2; 32]),
            addresses: Vec::new(),
            storage: Some(StorageId([2; 16])),
        };
        let hello =
            Hello { cluster: [1; 16], raft_id: 2, storage: [2; 16], boot: 1, ..Hello::default() };
        assert_eq!(check_hello(&node, &member, &hello), Ok(()));
        let unknown = MemberAddress { storage: None, ..member.clone() };
        let other = Hello { storage: [3; 16], ..hello };
        assert_eq!(check_hello(&node, &unknown, &other), Ok(()));
        assert_eq!(check_hello(&node, &member, &other), Err(CloseCode::Wiped));
        let other = Hello { raft_id: 1, ..hello };
        assert_eq!(check_hello(&node, &member, &other), Err(CloseCode::WrongNumber));
        let other = Hello { cluster: [9; 16], ..hello };
        assert_eq!(check_hello(&node, &member, &other), Err(CloseCode::OtherCluster));
    }
}
