//! Who is not let in, and what is not taken.
use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{Connection, ConnectionError, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, PublicKey, RelayMode, SecretKey};
use raft::prelude::MessageType;
use straightway_cluster::net::{CloseCode, Inbound, Lane, MemberAddress, NetLimits, Rate, Refusal};
use straightway_cluster::{NodeKey, StorageId};
use straightway_wire::raft::serialize_raft_message_fast;
use straightway_wire::{
    Compressed, Compression, Hello, MessageHeader, MessageType as Kind, Segments, encode_frame,
    encode_hello,
};

use crate::support::{CLUSTER, Node, Start, append, cluster, loopback, message, soon, until};

const CONTROL: &[u8] = b"straightway/ctl/1";
const APPEND: &[u8] = b"straightway/append/1";

/// A program of somebody else's that speaks QUIC.
struct Client {
    endpoint: Endpoint,
}

impl Client {
    async fn new(secret: SecretKey) -> Self {
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(secret)
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr(loopback())
            .expect("an address")
            .bind()
            .await
            .expect("bound");
        Self { endpoint }
    }

    async fn dial(&self, node: &Node, alpn: &[u8]) -> Result<Connection, String> {
        let key = PublicKey::from_bytes(&node.key().0).expect("a key");
        let address = EndpointAddr::new(key).with_ip_addr(node.address());
        let dialled = soon("a handshake", self.endpoint.connect(address, alpn)).await;
        dialled.map_err(|error| format!("{error:#}"))
    }

    /// Dials, says hello, and goes on from there.
    async fn greet(&self, node: &Node, alpn: &[u8], hello: &Hello) -> (Connection, SendStream) {
        let connection = self.dial(node, alpn).await.expect("shaken");
        let mut stream = connection.open_uni().await.expect("a stream");
        let mut out = Segments::default();
        encode_hello(&mut out, hello).expect("encoded");
        stream.write_all_chunks(out.finish()).await.expect("written");
        (connection, stream)
    }
}

/// Why the node has closed.
async fn closed(connection: &Connection) -> (CloseCode, String) {
    match soon("the connection to be closed", connection.closed()).await {
        ConnectionError::ApplicationClosed(closed) => {
            let number = u32::try_from(closed.error_code.into_inner()).expect("small");
            (CloseCode::from_number(number), String::from_utf8_lossy(&closed.reason).into_owned())
        }
        other => panic!("closed otherwise: {other}"),
    }
}

fn secret(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32])
}

/// A node, and a client that has the key of member 2.
async fn node_and_member(limits: NetLimits) -> (Node, Client) {
    let node = Start { limits, ..Start::new(1) }.start().await;
    let client = Client::new(secret(2)).await;
    let member = MemberAddress {
        id: 2,
        key: NodeKey(*secret(2).public().as_bytes()),
        addresses: vec![client.endpoint.bound_sockets()[0]],
        storage: Some(StorageId([2; 16])),
    };
    node.network.set_members(&[node.member(), member]);
    (node, client)
}

fn hello() -> Hello {
    Hello { cluster: CLUSTER.0, raft_id: 2, storage: [2; 16], boot: 1, ..Hello::default() }
}

fn limits() -> NetLimits {
    Start::new(1).limits
}

fn refused(node: &Node, why: Refusal) -> u64 {
    node.network.stats().refused(why)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_other_protocols_are_refused_and_counted() {
    let (node, member) = node_and_member(limits()).await;
    let stranger = Client::new(secret(200)).await;
    for alpn in [CONTROL, APPEND, b"straightway/bulk/1"] {
        match stranger.dial(&node, alpn).await {
            Ok(connection) => assert_eq!(closed(&connection).await.0, CloseCode::NotAMember),
            Err(error) => assert!(error.contains("not a member"), "{error}"),
        }
    }
    assert_eq!(refused(&node, Refusal::Stranger), 3);
    for client in [&stranger, &member] {
        let error = client.dial(&node, b"straightway/ctl/2").await.expect_err("refused");
        assert!(!error.is_empty());
    }
    until("the count of protocols", || refused(&node, Refusal::WrongAlpn) == 2).await;
    let (connection, _stream) = member.greet(&node, CONTROL, &hello()).await;
    until("the member", || node.network.peer_stats()[0].inbound[0]).await;
    assert!(connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_does_not_fit_ends_the_connection() {
    let (node, client) = node_and_member(limits()).await;
    let cases = [
        (Hello { cluster: [9; 16], ..hello() }, CloseCode::OtherCluster),
        (Hello { raft_id: 3, ..hello() }, CloseCode::WrongNumber),
        (Hello { storage: [9; 16], ..hello() }, CloseCode::Wiped),
    ];
    for (count, (hello, code)) in cases.into_iter().enumerate() {
        let (connection, _stream) = client.greet(&node, CONTROL, &hello).await;
        let (found, text) = closed(&connection).await;
        assert_eq!((found, text), (code, code.to_string()));
        assert_eq!(refused(&node, Refusal::Hello), count as u64 + 1);
    }
    // Something else first.
    let connection = client.dial(&node, CONTROL).await.expect("shaken");
    let mut stream = connection.open_uni().await.expect("a stream");
    let mut out = Segments::default();
    encode_frame(&mut out, &MessageHeader::new(Kind::RaftMessage), Bytes::new()).expect("encoded");
    stream.write_all_chunks(out.finish()).await.expect("written");
    assert_eq!(closed(&connection).await.0, CloseCode::NoHello);
    // An older start of the same member.
    let (newer, _stream) = client.greet(&node, CONTROL, &Hello { boot: 5, ..hello() }).await;
    until("the newer start", || node.network.peer_stats()[0].boot == 5).await;
    let (older, _stream) = client.greet(&node, CONTROL, &Hello { boot: 4, ..hello() }).await;
    assert_eq!(closed(&older).await.0, CloseCode::StaleBoot);
    assert!(newer.close_reason().is_none());
    let (newest, _stream) = client.greet(&node, APPEND, &Hello { boot: 6, ..hello() }).await;
    assert_eq!(closed(&newer).await.0, CloseCode::Superseded);
    assert!(newest.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_hung_up_on() {
    // The handshake has to come to its end within that, too.
    let limits = NetLimits { hello: Duration::from_secs(5), ..limits() };
    let (node, client) = node_and_member(limits).await;
    let connection = client.dial(&node, CONTROL).await.expect("shaken");
    assert_eq!(closed(&connection).await.0, CloseCode::NoHello);
    assert_eq!(refused(&node, Refusal::Hello), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_lies_closes_its_connection_and_no_other() {
    let (node, client) = node_and_member(limits()).await;
    let (other, mut working) = client.greet(&node, APPEND, &hello()).await;
    let frame = |kind, payload: &[u8]| {
        let mut out = Segments::default();
        let payload = Bytes::copy_from_slice(payload);
        encode_frame(&mut out, &MessageHeader::new(kind), payload).expect("encoded");
        out.finish().concat()
    };
    let forged = serialize_raft_message_fast(&message(MessageType::MsgHeartbeat, 3, 1));
    let forged = frame(Kind::RaftMessage, &forged.expect("encoded"));
    let misplaced = serialize_raft_message_fast(&append(2, 1, 10, 0)).expect("encoded");
    let misplaced = frame(Kind::RaftMessage, &misplaced);
    // A length of 4 GiB under a right checksum, which allocates nothing.
    let mut header = [0; 256];
    let long = MessageHeader { payload_len: u32::MAX, ..MessageHeader::new(Kind::RaftMessage) };
    let len = long.encode(&mut header);
    let mut damaged = frame(Kind::RaftMessage, b"payload");
    damaged[20] ^= 1;
    let how = Compressed { codec: Compression::Lz4, uncompressed_len: 1000 };
    let compressed =
        MessageHeader { compressed: Some(how), ..MessageHeader::new(Kind::RaftMessage) };
    let mut out = Segments::default();
    encode_frame(&mut out, &compressed, Bytes::from_static(&[0; 9])).expect("encoded");
    let compressed = out.finish().concat();
    let cases: [(&str, &[u8], Refusal); 9] = [
        ("no frame at all", b"GET / HTTP/1.1\r\n\r\n", Refusal::Frame),
        ("a header that is too short", &[0x53, 3, 0, 0], Refusal::Frame),
        ("a length over the limit", &header[..len], Refusal::Frame),
        ("a damaged payload", &damaged, Refusal::Frame),
        ("a compression that nobody agreed on", &compressed, Refusal::Frame),
        ("no Raft message", &frame(Kind::RaftMessage, &[0xff; 9]), Refusal::RaftMessage),
        ("a sender that it is not", &forged, Refusal::RaftMessage),
        ("entries on the control lane", &misplaced, Refusal::RaftMessage),
        ("a second hello", &frame(Kind::Hello, &hello().encode()), Refusal::Message),
    ];
    for (what, bytes, why) in cases {
        let before = refused(&node, why);
        let (connection, mut stream) = client.greet(&node, CONTROL, &hello()).await;
        stream.write_all(bytes).await.expect("written");
        assert_eq!(closed(&connection).await.0, CloseCode::Protocol, "{what}");
        assert_eq!(refused(&node, why), before + 1, "{what}");
    }
    // Cut off in the middle.
    let (connection, mut stream) = client.greet(&node, CONTROL, &hello()).await;
    stream.write_all(&forged[..forged.len() - 1]).await.expect("written");
    stream.finish().expect("open");
    assert_eq!(closed(&connection).await.0, CloseCode::Protocol);

    let mut node = node;
    assert!(other.close_reason().is_none(), "the other lane goes on");
    let good = serialize_raft_message_fast(&append(2, 1, 10, 0)).expect("encoded");
    working.write_all(&frame(Kind::RaftMessage, &good)).await.expect("written");
    assert_eq!(node.message().await.0, 2);
    // What the Raft thread refuses.
    node.network.refuse(2, Lane::Append, &"entries out of order");
    let (code, text) = closed(&other).await;
    assert_eq!((code, text.as_str()), (CloseCode::Protocol, "entries out of order"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_removed_is_hung_up_on_and_told() {
    let mut nodes = cluster((1..=2).map(Start::new)).await;
    let only = [nodes[0].member()];
    nodes[0].network.set_members(&only);
    assert!(nodes[0].network.peer_stats().is_empty());
    let told =
        nodes[1].event("the refusal", |event| matches!(event, Inbound::Refused { .. })).await;
    let Inbound::Refused { peer: 1, code, .. } = told else { panic!("{told:?}") };
    assert!(matches!(code, CloseCode::Removed | CloseCode::NotAMember), "{code:?}");
    // It tries again, as a stranger.
    until("another try", || refused(&nodes[0], Refusal::Stranger) > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_and_starts_tells_nobody_that_it_was_removed() {
    // It tries all the time.
    let always = Duration::from_millis(1);
    let limits = NetLimits {
        dial: Duration::from_secs(5),
        redial_first: always,
        redial_most: always,
        ..limits()
    };
    let mut two = Start { limits, ..Start::new(2) }.start().await;
    for boot in 1..=20 {
        let known = vec![two.member()];
        let one = Start { boot, known, ..Start::new(1) }.start().await;
        two.network.set_members(&[one.member(), two.member()]);
        one.connected(2).await;
        one.network.close().await;
    }
    while let Ok(event) = two.inbound.try_recv() {
        assert!(!matches!(event, Inbound::Refused { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_come_no_faster_than_they_may() {
    let few = Rate { per_second: 0.001, burst: 2.0 };
    let (node, client) = node_and_member(NetLimits { connections_each: few, ..limits() }).await;
    for _ in 0..2 {
        client.dial(&node, CONTROL).await.expect("within the rate");
    }
    let third = tokio::spawn({
        let key = PublicKey::from_bytes(&node.key().0).expect("a key");
        let address = EndpointAddr::new(key).with_ip_addr(node.address());
        let endpoint = client.endpoint.clone();
        async move { endpoint.connect(address, CONTROL).await.map(drop) }
    });
    until("the count", || refused(&node, Refusal::RateLimited) > 0).await;
    assert!(!third.is_finished(), "it hears nothing");
    third.abort();
}

/// The first datagrams of so many connections, as somebody could send them under another's address.
async fn forged(client: &Client, node: &Node, alpn: &'static [u8], count: usize) -> Vec<Vec<u8>> {
    let sink = tokio::net::UdpSocket::bind(loopback()).await.expect("bound");
    let address = sink.local_addr().expect("bound");
    let key = PublicKey::from_bytes(&node.key().0).expect("a key");
    let mut seen = std::collections::BTreeMap::new();
    let mut buffer = [0; 2000];
    for _ in 0..count {
        let endpoint = client.endpoint.clone();
        let to = EndpointAddr::new(key).with_ip_addr(address);
        let dialling = tokio::spawn(async move { endpoint.connect(to, alpn).await.map(drop) });
        let before = seen.len();
        while seen.len() == before {
            let received = soon("a datagram", sink.recv_from(&mut buffer)).await;
            let datagram = &buffer[..received.expect("received").0];
            // A long header: the connection's own name follows version and a length.
            if datagram.first().is_some_and(|first| first & 0xf0 == 0xc0) {
                let name = datagram[6..6 + usize::from(datagram[5])].to_vec();
                seen.entry(name).or_insert_with(|| datagram.to_vec());
            }
        }
        dialling.abort();
    }
    seen.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_forges_an_address_does_not_lock_its_owner_out() {
    let few = Rate { per_second: 0.001, burst: 6.0 };
    let once = Rate { per_second: 0.001, burst: 1.0 };
    let limits =
        NetLimits { half_open_each: 4, connections_each: few, joins_each: once, ..limits() };
    let (node, member) = node_and_member(limits).await;
    let stranger = Client::new(secret(200)).await;
    let liar = tokio::net::UdpSocket::bind(loopback()).await.expect("bound");
    // More than the address may have: handshakes under way, connections, attempts to join.
    for alpn in [&b"straightway/join/1"[..], CONTROL] {
        for datagram in forged(&stranger, &node, alpn, 10).await {
            liar.send_to(&datagram, node.address()).await.expect("sent");
        }
    }
    // The node answers in the order of what comes: to this one after all of those.
    let (connection, _stream) = member.greet(&node, CONTROL, &hello()).await;
    until("the member", || node.network.peer_stats()[0].inbound[0]).await;
    assert!(connection.close_reason().is_none());
    assert_eq!((refused(&node, Refusal::HalfOpen), refused(&node, Refusal::RateLimited)), (0, 0));
    let joiner = stranger.dial(&node, b"straightway/join/1").await;
    assert!(joiner.is_ok(), "{joiner:?}");
}
