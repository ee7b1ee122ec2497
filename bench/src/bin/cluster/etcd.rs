//! etcd: its processes, and as much of its gRPC interface as a put needs.
use std::marker::PhantomData;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::Processes;
use crate::load::{Asked, Target};

/// Connections at most.
const CONNECTIONS: usize = 64;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

struct Prost<A, B>(PhantomData<(A, B)>);

impl<A: prost::Message + 'static, B: prost::Message + Default + 'static> Codec for Prost<A, B> {
    type Encode = A;
    type Decode = B;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<A: prost::Message, B> Encoder for Prost<A, B> {
    type Item = A;
    type Error = Status;

    fn encode(&mut self, item: A, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<A, B: prost::Message + Default> Decoder for Prost<A, B> {
    type Item = B;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<B>, Status> {
        B::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// A connection to a member, shared by some clients.
pub type Kv = Grpc<Channel>;

async fn call<A, B>(kv: &mut Kv, path: &'static str, request: A) -> Result<B, String>
where
    A: prost::Message + 'static,
    B: prost::Message + Default + 'static,
{
    kv.ready().await.map_err(|error| error.to_string())?;
    let codec = Prost::<A, B>(PhantomData);
    let answer = kv.unary(Request::new(request), PathAndQuery::from_static(path), codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

pub fn put(kv: &mut Kv, number: u64, value: Bytes) -> Asked<'_> {
    Box::pin(async move {
        let request = PutRequest { key: format!("bench/{number:08}").into(), value };
        let answer: PutResponse = call(kv, "/etcdserverpb.KV/Put", request).await?;
        if answer.header.is_some_and(|header| header.revision > 1) { Ok(()) } else { Err("no revision".to_owned()) }
    })
}

pub fn install() {
    let there = |program: &str| Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if there("etcd") {
        return;
    }
    println!("installing etcd-server (apt-get install); its service is not started");
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    if ours {
        std::fs::write(policy, "#!/bin/sh\nexit 101\n").expect("root");
        Command::new("chmod").args(["+x", "/usr/sbin/policy-rc.d"]).status().expect("chmod");
    }
    let apt = |args: &[&str]| Command::new("apt-get").args(args).status().is_ok_and(|status| status.success());
    let installed = apt(&["update", "-q"]) && apt(&["install", "-y", "-q", "--no-install-recommends", "etcd-server"]);
    if ours {
        std::fs::remove_file(policy).expect("removed");
    }
    assert!(installed, "install etcd-server by hand");
}

/// Three members; what is sent to goes to the leader.
pub async fn cluster(folder: &Path, share: usize) -> (Processes, Target) {
    let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
    let peers: Vec<String> = (0..3).map(|n| format!("e{n}=http://127.0.0.1:{}", ports[n + 3])).collect();
    let mut processes = Processes(Vec::new());
    for n in 0..3 {
        let client = format!("http://127.0.0.1:{}", ports[n]);
        let peer = format!("http://127.0.0.1:{}", ports[n + 3]);
        let child = Command::new("etcd")
            .args(["--name", &format!("e{n}"), "--log-level", "error", "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new", "--data-dir"])
            .arg(folder.join(format!("e{n}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd");
        processes.0.push(child);
    }
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(30), "no leader");
        tokio::time::sleep(Duration::from_millis(100)).await;
        for port in &ports[..3] {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL");
            let Ok(channel) = endpoint.connect().await else { continue };
            let status: Result<StatusResponse, _> = call(&mut Grpc::new(channel), "/etcdserverpb.Maintenance/Status", StatusRequest {}).await;
            if status.is_ok_and(|status| status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader)) {
                let mut connections = Vec::new();
                for _ in 0..CONNECTIONS {
                    connections.push(Grpc::new(endpoint.connect().await.expect("connected")));
                }
                return (processes, Target::Etcd(connections, share));
            }
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
