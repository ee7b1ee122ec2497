//! A bidirectional stream of tonic, at its best: messages by reference until they are encoded, large windows and frames,
//! payloads as `Bytes` on arrival.
use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream};
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint, Server, server::Connected};
use tonic::{Request, Response, Status, Streaming};

use crate::arms::Pipe;
use crate::pipe::BATCH_BYTES;

const LIMIT: usize = 16 << 20;
const WINDOW: u32 = 16 << 20;
const FRAME: u32 = 1 << 20;

pub trait Rival: prost::Message + Default + Send + Sync + 'static {}
impl<T: prost::Message + Default + Send + Sync + 'static> Rival for T {}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Prost<M>(PhantomData<M>);

impl<M: Rival> Codec for Prost<M> {
    type Encode = Arc<M>;
    type Decode = M;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<M: Rival> Encoder for Prost<M> {
    type Item = Arc<M>;
    type Error = Status;

    fn encode(&mut self, item: Arc<M>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(into).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BATCH_BYTES, BATCH_BYTES)
    }
}

impl<M: Rival> Decoder for Prost<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        M::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

struct Counts<M>(PhantomData<M>);

impl<M> Clone for Counts<M> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<M> NamedService for Counts<M> {
    const NAME: &'static str = "raft.Raft";
}

impl<M: Rival> StreamingService<M> for Counts<M> {
    type Response = Arc<M>;
    type ResponseStream = BoxStream<'static, Result<Arc<M>, Status>>;
    type Future = Boxed<Result<Response<Self::ResponseStream>, Status>>;

    /// Takes all, then answers once.
    fn call(&mut self, request: Request<Streaming<M>>) -> Self::Future {
        Box::pin(async move {
            let mut messages = request.into_inner();
            let answer = async move {
                while let Some(message) = messages.message().await? {
                    std::hint::black_box(message);
                }
                Ok(Arc::new(M::default()))
            };
            Ok(Response::new(stream::once(answer).boxed()))
        })
    }
}

impl<M: Rival> tower::Service<http::Request<Body>> for Counts<M> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let grpc = tonic::server::Grpc::new(Prost::<M>(PhantomData));
            let mut grpc = grpc.apply_max_message_size_config(Some(LIMIT), Some(LIMIT));
            Ok(grpc.streaming(service, request).await)
        })
    }
}

pub async fn connect<M: Rival, P: Pipe + Connected>(client: P, server: P) -> Channel {
    tokio::spawn(
        Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .add_service(Counts::<M>(PhantomData))
            .serve_with_incoming(stream::iter([Ok::<_, std::io::Error>(server)]).chain(stream::pending())),
    );
    let client = Mutex::new(Some(client));
    Endpoint::from_static("http://pipe")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(tower::service_fn(move |_| {
            let client = client.lock().expect("one thread").take();
            async move { client.map(TokioIo::new).ok_or_else(|| std::io::Error::other("connected before")) }
        }))
        .await
        .expect("connected")
}

pub async fn send<M: Rival>(channel: &Channel, message: &Arc<M>, n: u32) {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(LIMIT).max_encoding_message_size(LIMIT);
    grpc.ready().await.expect("ready");
    let message = message.clone();
    let messages = stream::iter(0..n).map(move |_| message.clone());
    let path = http::uri::PathAndQuery::from_static("/raft.Raft/Send");
    let answers = grpc.streaming(Request::new(messages), path, Prost::<M>(PhantomData)).await.expect("called");
    let answer = answers.into_inner().message().await.expect("sound");
    assert!(answer.is_some());
}
