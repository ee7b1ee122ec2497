//! A subscriber of a node's feed: reconnects by itself, goes on where it stood, and hands out events as they lie.
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use straightway_buffer::{BufferPool, PoolConfig};
use straightway_codec::compress::{EVENTS, plain_len};
use straightway_codec::event::{self, ArchivedGapReason, Hello, OnLag, Subscribe, Subscribed};
use straightway_codec::{
    Codec, CodecError, Encoding, Envelope, Flags, HEADER_BYTES, Header, JSON_SUBPROTOCOL,
    JsonCodec, MessageMetadata, RKYV_SUBPROTOCOL, RKYV_ZSTD_SUBPROTOCOL, TypeRegistry, WireType,
    type_id,
};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_websockets::{ClientBuilder, Limits, Message as Frame, WebSocketStream};

use super::connection::{CONNECT_TIMEOUT, Client, ClientError, Io};
use super::message::{FeedMessage, FeedView, Form};
use super::place::{Backoff, Place};

/// Longest message that is taken from a node.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Longest that a compressed message may become.
const MAX_PLAIN_BYTES: usize = 64 * 1024;
/// A node that says nothing for this long, not even an answer to a ping, is gone.
const SILENCE: Duration = Duration::from_mins(1);

type Socket = WebSocketStream<Pin<Box<dyn Io>>>;

/// See the module's text.
///
/// ```no_run
/// use straightway::client::{Client, FeedClient, FeedView};
/// use straightway::codec::event::Subscribe;
///
/// # async fn watch() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Client::new("http://127.0.0.1:8081", None, None)?;
/// let wanted = Subscribe { prefix: "models/".into(), ..Subscribe::default() };
/// let mut feed = FeedClient::new(node, wanted)?;
/// loop {
///     let message = feed.next().await?;
///     if let FeedView::Event(event) = message.view()? {
///         println!("{} {}", message.offset(), event.key);
///     }
/// }
/// # }
/// ```
pub struct FeedClient {
    client: Client,
    wanted: Subscribe,
    registry: Arc<TypeRegistry>,
    pool: BufferPool,
    encoding: Encoding,
    /// The node's layouts differ from ours: it is asked for JSON.
    foreign: bool,
    link: Option<Link>,
    place: Place,
    backoff: Backoff,
    reconnects: u64,
    silence: Duration,
}

/// A connection that was made.
struct Link {
    socket: Box<Socket>,
    since: Instant,
    /// When to ask whether the node is there; once it was asked, when to give it up. Kept from call to call, so that
    /// whoever waits in short steps notices as well.
    due: Instant,
    asked: bool,
}

/// What a frame says.
enum Said {
    Message(FeedMessage),
    /// A subscription was not taken.
    Refused(String),
    Nothing,
}

impl std::fmt::Debug for FeedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedClient")
            .field("wanted", &self.wanted)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl FeedClient {
    /// A subscriber of the node whose admin listener `client` leads to. Connects with the first [`Self::next`].
    ///
    /// # Errors
    /// [`ClientError::Codec`], if the types of this build contradict each other.
    pub fn new(client: Client, wanted: Subscribe) -> Result<Self, ClientError> {
        let place = Place::of(&wanted);
        let pool = BufferPool::new(PoolConfig { name: "feed-client", ..PoolConfig::tiered() });
        Ok(Self {
            client,
            wanted,
            registry: Arc::new(event::registry().map_err(ClientError::Codec)?),
            pool: pool.map_err(|error| ClientError::Codec(error.into()))?,
            encoding: Encoding::Rkyv,
            foreign: false,
            link: None,
            place,
            backoff: Backoff::default(),
            reconnects: 0,
            silence: SILENCE,
        })
    }

    /// Asks for an encoding other than rkyv.
    #[must_use]
    pub fn with_encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// After this much silence a connection counts as lost; after half of it the node is asked whether it is there. A
    /// minute at first.
    #[must_use]
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// How often the connection was lost and found again.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// The first offset that was not seen, and the epoch that it counts in: what a later subscriber goes on from.
    pub fn place(&self) -> (Option<u64>, Option<u64>) {
        (self.place.epoch, self.place.next)
    }

    /// The next message. Waits for it; when the connection is lost, reconnects with growing, random pauses and goes on
    /// from where it stood: each event comes once, or a gap says that it does not.
    ///
    /// # Errors
    /// The node refuses (a token is missing, the filter makes no sense), or cannot be reached at all the first time.
    ///
    /// # Cancel safety
    /// Cancel safe: what was not handed out is handed out by the next call, or asked for again.
    pub async fn next(&mut self) -> Result<FeedMessage, ClientError> {
        loop {
            let Some(link) = &mut self.link else {
                self.connect().await?;
                continue;
            };
            let frame = match timeout_at(link.due, link.socket.next()).await {
                Ok(Some(Ok(frame))) => frame,
                Err(_) if !link.asked => {
                    self.ask().await;
                    continue;
                }
                _ => {
                    self.lost();
                    continue;
                }
            };
            (link.due, link.asked) = (Instant::now() + self.silence / 2, false);
            match self.understand(&frame) {
                Ok(Said::Message(message)) => return Ok(message),
                Ok(Said::Refused(reason)) => return Err(ClientError::Subscription { reason }),
                Ok(Said::Nothing) => {}
                Err(error) => {
                    tracing::debug!(%error, "a message of the node cannot be read; asking for JSON");
                    self.foreign = true;
                    self.lost();
                }
            }
        }
    }

    /// Asks for other events from here on, or from the place that is named: then over a new connection, or what is under
    /// way would be taken for what was asked for. The answer is not waited for: if the node does not take the
    /// subscription, [`Self::next`] says so, and something else has to be asked for.
    pub async fn subscribe(&mut self, wanted: Subscribe) -> Result<(), ClientError> {
        self.wanted = wanted;
        if self.wanted.from.is_some() {
            let known = self.place.epoch;
            self.place = Place::of(&self.wanted);
            self.place.epoch = self.place.epoch.or(known);
            self.lost();
            return Ok(());
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        let metadata =
            MessageMetadata { source: Some("client".to_owned()), ..MessageMetadata::default() };
        let envelope = Envelope::new("subscribe", self.wanted.clone()).with_metadata(metadata);
        let frame = if self.foreign || self.encoding == Encoding::Json {
            let text = serde_json::json!({ "id": envelope.id, "subscribe": envelope.payload });
            Frame::text(text.to_string())
        } else {
            Frame::binary(envelope.encode(&self.pool).map_err(ClientError::Codec)?.freeze())
        };
        if !matches!(timeout(self.silence, link.socket.send(frame)).await, Ok(Ok(()))) {
            // The new connection asks for it.
            self.lost();
        }
        Ok(())
    }

    /// Asks a silent node whether it is there.
    async fn ask(&mut self) {
        let Some(link) = &mut self.link else { return };
        (link.due, link.asked) = (Instant::now() + self.silence / 2, true);
        let asking = link.socket.send(Frame::ping(Bytes::new()));
        if !matches!(timeout_at(link.due, asking).await, Ok(Ok(()))) {
            self.lost();
        }
    }

    fn lost(&mut self) {
        if let Some(link) = self.link.take() {
            self.reconnects += 1;
            self.backoff.lost(link.since.elapsed());
        }
    }

    /// Connects; when that fails, waits and tries again, unless the node has never been reached.
    async fn connect(&mut self) -> Result<(), ClientError> {
        loop {
            if let Some(until) = self.backoff.until() {
                sleep_until(until).await;
            }
            self.backoff.begin();
            match self.try_connect().await {
                Ok((socket, place)) => {
                    if let Some((epoch, first)) = place {
                        self.place.meet(epoch, first);
                    }
                    let (since, socket) = (Instant::now(), Box::new(socket));
                    let due = since + self.silence / 2;
                    self.link = Some(Link { socket, since, due, asked: false });
                    return Ok(());
                }
                Err(error @ ClientError::Refused { .. }) if !is_passing(&error) => {
                    return Err(error);
                }
                Err(error) if self.reconnects == 0 => return Err(error),
                Err(error) => tracing::debug!(%error, "the node cannot be reached"),
            }
            self.backoff.rest();
        }
    }

    /// The connection, and the place that the node says it begins at.
    async fn try_connect(&self) -> Result<(Socket, Option<(u64, u64)>), ClientError> {
        let json = self.foreign || self.encoding == Encoding::Json;
        let offers = if json {
            HeaderValue::from_static(JSON_SUBPROTOCOL)
        } else {
            let offers = format!("{RKYV_ZSTD_SUBPROTOCOL}, {RKYV_SUBPROTOCOL}, {JSON_SUBPROTOCOL}");
            HeaderValue::try_from(offers)
                .map_err(|_| ClientError::Header { what: "subprotocol" })?
        };
        let (io, authority) = self.client.open().await?;
        let path = self.path();
        let uri = format!("ws://{authority}{path}");
        let bad = |reason: String| ClientError::Url { url: uri.clone(), reason };
        let uri = uri.parse().map_err(|error: http::uri::InvalidUri| bad(error.to_string()))?;
        let limits = Limits::default().max_payload_len(Some(MAX_MESSAGE_BYTES));
        let mut builder = ClientBuilder::from_uri(uri).limits(limits);
        builder = builder
            .add_header(SEC_WEBSOCKET_PROTOCOL, offers)
            .map_err(|_| ClientError::Header { what: "subprotocol" })?;
        if let Some(bearer) = self.client.bearer() {
            let bearer = bearer.map_err(|_| ClientError::Header { what: "token" })?;
            builder = builder
                .add_header(AUTHORIZATION, bearer)
                .map_err(|_| ClientError::Header { what: "token" })?;
        }
        let at_most = CONNECT_TIMEOUT.min(self.silence);
        match timeout(at_most, builder.connect_on(io)).await {
            Ok(Ok((socket, answer))) => Ok((socket, place_of(answer.headers()))),
            Err(_) => {
                let (what, seconds) = ("answered", at_most.as_secs());
                Err(ClientError::Silent { authority, what, seconds })
            }
            // Why it was refused is said to those who ask without upgrading.
            Ok(Err(error)) => {
                let reason = error.to_string();
                let reply =
                    self.client.send(http::Method::GET, &path, http::HeaderMap::new(), None);
                match reply.await {
                    Ok(reply) if reply.status == http::StatusCode::UPGRADE_REQUIRED => {
                        Err(ClientError::Upgrade { authority, reason })
                    }
                    Ok(reply) => {
                        Err(super::connection::refused(http::Method::GET, &path, reply).await)
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn path(&self) -> String {
        let mut query = Vec::new();
        let mut add = |name: &str, value: &str| {
            query.push(format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        };
        self.wanted.kinds.iter().for_each(|kind| add("kind", kind));
        self.wanted.tags.iter().for_each(|tag| add("tag", tag));
        if !self.wanted.prefix.is_empty() {
            add("prefix", &self.wanted.prefix);
        }
        if self.wanted.on_lag == OnLag::Disconnect {
            add("on_lag", "disconnect");
        }
        if let Some(next) = self.place.next {
            add("from", &next.to_string());
        }
        if let Some(epoch) = self.place.epoch.filter(|_| self.place.next.is_some()) {
            add("epoch", &epoch.to_string());
        }
        if query.is_empty() { "/events".to_owned() } else { format!("/events?{}", query.join("&")) }
    }

    fn understand(&mut self, frame: &Frame) -> Result<Said, CodecError> {
        if frame.is_text() {
            return Ok(self.understand_text(frame.as_payload()).unwrap_or(Said::Nothing));
        }
        if !frame.is_binary() {
            return Ok(Said::Nothing);
        }
        let message: Bytes = frame.as_payload().clone().into();
        let (header, _) = Header::parse(&message)?;
        if header.flags.has(Flags::EXTENDED) {
            let answer = Envelope::<Subscribed>::read(&message, &self.registry)?;
            let refused = answer.payload.error.as_ref();
            return Ok(refused.map_or(Said::Nothing, |why| Said::Refused(why.as_str().to_owned())));
        }
        let payload = if header.flags.has(Flags::ZSTD) {
            // It is handed out, and may be kept: in no more room than it takes.
            let len = plain_len(&message[HEADER_BYTES..]).unwrap_or(MAX_PLAIN_BYTES);
            let mut plain = self.pool.acquire(len.clamp(1, MAX_PLAIN_BYTES))?;
            EVENTS.decompress(&message[HEADER_BYTES..], &mut plain)?;
            plain.freeze()
        } else {
            message.slice(HEADER_BYTES..)
        };
        if header.type_id == type_id(Hello::NAME) {
            self.meet(&header, &payload)?;
            return Ok(Said::Nothing);
        }
        let message =
            FeedMessage(Form::Archive { header, payload, registry: self.registry.clone() });
        let new = match message.view()? {
            FeedView::Stats(_) => true,
            FeedView::Gap(gap) => {
                let restarted = gap.reason == ArchivedGapReason::Restarted;
                self.place.skip(gap.to.to_native(), restarted);
                true
            }
            _ => self.place.see(header.offset, header.flags.has(Flags::URGENT)),
        };
        Ok(if new { Said::Message(message) } else { Said::Nothing })
    }

    fn understand_text(&mut self, text: &[u8]) -> Option<Said> {
        let value: serde_json::Value = JsonCodec.decode(text).ok()?;
        if let Some(reason) = value["subscribed"]["error"].as_str() {
            return Some(Said::Refused(reason.to_owned()));
        }
        let offset = value["offset"].as_u64()?;
        let new = match value["kind"].as_str()? {
            "stats" => {
                self.place.next.get_or_insert(offset);
                true
            }
            "gap" => {
                self.place.skip(offset, value["reason"] == "restarted");
                true
            }
            _ => self.place.see(offset, value["urgent"].as_bool() == Some(true)),
        };
        Some(if new { Said::Message(FeedMessage(Form::Text(value))) } else { Said::Nothing })
    }

    /// Compares the node's types with ours: validation would not notice that they differ.
    fn meet(&mut self, header: &Header, payload: &[u8]) -> Result<(), CodecError> {
        let hello = self.registry.check(header, payload)?.view::<Hello>()?;
        for theirs in hello.types.iter() {
            let Some(ours) = self.registry.get_type_info(&theirs.name) else { continue };
            let same = ours.version == theirs.version.to_native()
                && ours.fingerprint == theirs.fingerprint.to_native();
            if !same {
                let (name, version) = (ours.name, theirs.version.to_native());
                return Err(CodecError::UnknownVersion { name, version, known: ours.version });
            }
        }
        self.place.meet(hello.epoch.to_native(), hello.head.to_native());
        Ok(())
    }
}

/// The place that the answer to an upgrade names: an epoch, and the first offset that follows.
fn place_of(headers: &http::HeaderMap) -> Option<(u64, u64)> {
    let (epoch, seen) = headers.get("last-event-id")?.to_str().ok()?.split_once('-')?;
    Some((epoch.parse().ok()?, seen.parse::<u64>().ok()?.checked_add(1)?))
}

/// Whether a refusal may be over later.
fn is_passing(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { status, .. } if status.is_server_error() || status.as_u16() == 429)
}
