//! A subscriber of a node's feed: reconnects by itself, goes on where it stood, and hands out events as they lie.
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use straightway_buffer::{BufferPool, PoolConfig};
use straightway_codec::compress::EVENTS;
use straightway_codec::event::{self, Event, Gap, Hello, Kind, OnLag, Stats, Subscribe};
use straightway_codec::{
    Archived, Codec, CodecError, Encoding, Envelope, Flags, HEADER_BYTES, Header, JSON_SUBPROTOCOL,
    JsonCodec, MessageMetadata, RKYV_SUBPROTOCOL, RKYV_ZSTD_SUBPROTOCOL, RkyvCodec, TypeRegistry,
    WireType, type_id,
};
use tokio_websockets::{ClientBuilder, Limits, Message as Frame, WebSocketStream};

use super::connection::{Client, ClientError, Io};

/// Longest message that is taken from a node.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// A node that says nothing for this long, not even a ping, is gone.
const SILENCE: Duration = Duration::from_mins(1);
/// The first pause before a new attempt is at most this long, and each next one twice as long ...
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After this long a connection counts as good, and the pauses begin again.
const GOOD_AFTER: Duration = Duration::from_mins(1);

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
    socket: Option<(Box<Socket>, Instant)>,
    place: Place,
    attempts: u32,
    reconnects: u64,
}

impl std::fmt::Debug for FeedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedClient")
            .field("wanted", &self.wanted)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Where a subscriber stands in the stream.
#[derive(Debug, Default)]
struct Place {
    epoch: Option<u64>,
    /// The first offset that was not seen.
    next: Option<u64>,
    /// Offsets beyond that which came ahead of others.
    ahead: BTreeSet<u64>,
}

impl Place {
    /// Takes note of an event; whether it is new.
    fn see(&mut self, offset: u64, urgent: bool) -> bool {
        let seen = self.next.is_some_and(|next| offset < next) || self.ahead.contains(&offset);
        if seen {
            if !urgent {
                self.advance(offset + 1);
            }
            return false;
        }
        if urgent {
            self.ahead.insert(offset);
        } else {
            self.advance(offset + 1);
        }
        true
    }

    fn advance(&mut self, to: u64) {
        let next = self.next.map_or(to, |next| next.max(to));
        self.next = Some(next);
        self.ahead = self.ahead.split_off(&next);
    }

    fn restart(&mut self, epoch: u64) {
        *self = Self { epoch: Some(epoch), ..Self::default() };
    }
}

/// A message, as it came.
#[derive(Debug, Clone)]
pub struct FeedMessage(Form);

#[derive(Debug, Clone)]
enum Form {
    Archive { header: Header, payload: Bytes, registry: Arc<TypeRegistry> },
    Text(serde_json::Value),
}

/// A message, read where it lies.
pub enum FeedView<'a> {
    /// Something happened to an object, or to many.
    Event(&'a Archived<Event>),
    /// The node's numbers.
    Stats(&'a Archived<Stats>),
    /// Events were left out.
    Gap(&'a Archived<Gap>),
    /// The node speaks JSON with us.
    Json(&'a serde_json::Value),
}

impl FeedMessage {
    /// Its place in the stream.
    pub fn offset(&self) -> u64 {
        match &self.0 {
            Form::Archive { header, .. } => header.offset,
            Form::Text(text) => text["offset"].as_u64().unwrap_or(0),
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp(&self) -> u64 {
        match &self.0 {
            Form::Archive { header, .. } => header.time_us / 1000,
            Form::Text(text) => text["timestamp"].as_u64().unwrap_or(0),
        }
    }

    /// Validates and reads it, without copying anything.
    ///
    /// # Errors
    /// Those of [`TypeRegistry::check`].
    pub fn view(&self) -> Result<FeedView<'_>, CodecError> {
        match &self.0 {
            Form::Text(text) => Ok(FeedView::Json(text)),
            Form::Archive { header, payload, registry } => {
                let checked = registry.check(header, payload)?;
                if header.type_id == type_id(Stats::NAME) {
                    checked.view::<Stats>().map(FeedView::Stats)
                } else if header.type_id == type_id(Gap::NAME) {
                    checked.view::<Gap>().map(FeedView::Gap)
                } else {
                    checked.view::<Event>().map(FeedView::Event)
                }
            }
        }
    }

    /// The same as the JSON that the node gives browsers.
    pub fn to_json(&self) -> Result<serde_json::Value, CodecError> {
        let Form::Archive { header, payload, .. } = &self.0 else {
            let Form::Text(text) = &self.0 else { return Ok(serde_json::Value::Null) };
            return Ok(text.clone());
        };
        let (mut body, kind) = match self.view()? {
            FeedView::Stats(_) => {
                (value(&Codec::<Stats>::decode(&RkyvCodec, payload)?), Some(Kind::Stats))
            }
            FeedView::Gap(_) => {
                (value(&Codec::<Gap>::decode(&RkyvCodec, payload)?), Some(Kind::Gap))
            }
            _ => (value(&Codec::<Event>::decode(&RkyvCodec, payload)?), None),
        };
        if let serde_json::Value::Object(fields) = &mut body {
            if let Some(kind) = kind {
                fields.insert("kind".into(), kind.name().into());
                fields.entry("key").or_insert_with(|| "".into());
                fields.entry("node").or_insert_with(|| "".into());
            }
            fields.insert("offset".into(), header.offset.into());
            fields.insert("timestamp".into(), (header.time_us / 1000).into());
        }
        Ok(body)
    }
}

fn value(of: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(of).unwrap_or_default()
}

impl FeedClient {
    /// A subscriber of the node whose admin listener `client` leads to. Connects with the first [`Self::next`].
    ///
    /// # Errors
    /// [`ClientError::Codec`], if the types of this build contradict each other.
    pub fn new(client: Client, wanted: Subscribe) -> Result<Self, ClientError> {
        let place = Place { epoch: wanted.epoch, next: wanted.from, ..Place::default() };
        let pool = BufferPool::new(PoolConfig { name: "feed-client", ..PoolConfig::tiered() });
        Ok(Self {
            client,
            wanted,
            registry: Arc::new(event::registry().map_err(ClientError::Codec)?),
            pool: pool.map_err(|error| ClientError::Codec(error.into()))?,
            encoding: Encoding::Rkyv,
            foreign: false,
            socket: None,
            place,
            attempts: 0,
            reconnects: 0,
        })
    }

    /// Asks for an encoding other than rkyv.
    #[must_use]
    pub fn with_encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
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
            if self.socket.is_none() {
                self.connect().await?;
            }
            let Some((socket, since)) = &mut self.socket else { continue };
            if self.attempts > 0 && since.elapsed() > GOOD_AFTER {
                self.attempts = 0;
            }
            let frame = tokio::time::timeout(SILENCE, socket.next()).await;
            let Ok(Some(Ok(frame))) = frame else {
                self.lost();
                continue;
            };
            match self.understand(&frame) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a message of the node cannot be read; asking for JSON");
                    self.foreign = true;
                    self.lost();
                }
            }
        }
    }

    /// Asks for other events from here on. The answer is not waited for.
    pub async fn subscribe(&mut self, wanted: Subscribe) -> Result<(), ClientError> {
        self.wanted = wanted;
        let Some((socket, _)) = &mut self.socket else { return Ok(()) };
        let metadata =
            MessageMetadata { source: Some("client".to_owned()), ..MessageMetadata::default() };
        let envelope = Envelope::new("subscribe", self.wanted.clone()).with_metadata(metadata);
        let frame = if self.foreign || self.encoding == Encoding::Json {
            let text = serde_json::json!({ "id": envelope.id, "subscribe": envelope.payload });
            Frame::text(text.to_string())
        } else {
            Frame::binary(envelope.encode(&self.pool).map_err(ClientError::Codec)?.freeze())
        };
        if socket.send(frame).await.is_err() {
            // The new connection asks for it.
            self.lost();
        }
        Ok(())
    }

    fn lost(&mut self) {
        self.socket = None;
        self.reconnects += 1;
    }

    /// Connects; when that fails, waits and tries again, unless the node has never been reached.
    async fn connect(&mut self) -> Result<(), ClientError> {
        loop {
            if self.attempts > 0 {
                tokio::time::sleep(pause(self.attempts)).await;
            }
            self.attempts = self.attempts.saturating_add(1);
            match self.try_connect().await {
                Ok(socket) => {
                    self.socket = Some((Box::new(socket), Instant::now()));
                    return Ok(());
                }
                Err(error @ ClientError::Refused { .. }) if !is_passing(&error) => {
                    return Err(error);
                }
                Err(error) if self.reconnects == 0 && self.place.epoch.is_none() => {
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, "the node cannot be reached"),
            }
        }
    }

    async fn try_connect(&self) -> Result<Socket, ClientError> {
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
        match builder.connect_on(io).await {
            Ok((socket, _)) => Ok(socket),
            // Why it was refused is said to those who ask without upgrading.
            Err(error) => {
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

    /// What a frame says to the user of this client, if anything.
    fn understand(&mut self, frame: &Frame) -> Result<Option<FeedMessage>, CodecError> {
        if frame.is_text() {
            return Ok(self.understand_text(frame.as_payload()));
        }
        if !frame.is_binary() {
            return Ok(None);
        }
        let message: Bytes = frame.as_payload().clone().into();
        let (header, _) = Header::parse(&message)?;
        if header.flags.has(Flags::EXTENDED) {
            return Ok(None);
        }
        let payload = if header.flags.has(Flags::ZSTD) {
            let mut plain = self.pool.acquire(64 * 1024)?;
            EVENTS.decompress(&message[HEADER_BYTES..], &mut plain)?;
            plain.freeze()
        } else {
            message.slice(HEADER_BYTES..)
        };
        if header.type_id == type_id(Hello::NAME) {
            self.meet(&header, &payload)?;
            return Ok(None);
        }
        let message =
            FeedMessage(Form::Archive { header, payload, registry: self.registry.clone() });
        let new = match message.view()? {
            FeedView::Stats(_) => true,
            FeedView::Gap(gap) => {
                self.place.next = Some(gap.to.to_native());
                true
            }
            _ => self.place.see(header.offset, header.flags.has(Flags::URGENT)),
        };
        Ok(new.then_some(message))
    }

    fn understand_text(&mut self, text: &[u8]) -> Option<FeedMessage> {
        let value: serde_json::Value = JsonCodec.decode(text).ok()?;
        let offset = value["offset"].as_u64()?;
        let new = match value["kind"].as_str()? {
            "stats" => {
                self.place.next.get_or_insert(offset);
                true
            }
            "gap" => {
                self.place.next = Some(offset);
                true
            }
            _ => self.place.see(offset, value["urgent"].as_bool() == Some(true)),
        };
        new.then_some(FeedMessage(Form::Text(value)))
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
        let epoch = hello.epoch.to_native();
        if self.place.epoch.is_some_and(|known| known != epoch) {
            self.place.restart(epoch);
        }
        self.place.epoch = Some(epoch);
        if self.place.next.is_none() {
            self.place.next = Some(hello.head.to_native());
        }
        Ok(())
    }
}

/// Whether a refusal may be over later.
fn is_passing(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { status, .. } if status.is_server_error() || status.as_u16() == 429)
}

/// A random pause, so that a restarted node's subscribers do not all come back at once.
fn pause(attempt: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(10)).min(LONGEST_PAUSE);
    let mut random = [0; 4];
    // Without randomness the longest pause is as good as any.
    if getrandom::fill(&mut random).is_err() {
        return most;
    }
    most.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_new_once_whatever_overtook_it() {
        let mut place = Place { next: Some(10), ..Place::default() };
        assert!(place.see(10, false) && !place.see(10, false) && !place.see(3, false));
        assert!(place.see(20, true), "ahead of others");
        assert!(place.see(11, false) && place.next == Some(12), "which are still missing");
        assert!(!place.see(20, true) && !place.see(20, false), "in its turn");
        assert_eq!((place.next, place.ahead.len()), (Some(21), 0));
    }

    #[test]
    fn pauses_grow_and_end_somewhere() {
        for attempt in 1..50 {
            assert!(pause(attempt) <= LONGEST_PAUSE);
        }
        assert!(pause(1) <= FIRST_PAUSE);
    }
}
