//! `/events`: the live feed, as a WebSocket (RFC 6455) or as server-sent events for those who cannot upgrade.
//!
//! What is wanted stands in the query: `kind`, `prefix`, `tag`, `from` (an offset), `epoch`, `on_lag`. A WebSocket is
//! handed to the feed's own thread; a stream of server-sent events reads the ring by itself.
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use straightway_codec::event::{GapReason, Kind, Subscribe};
use straightway_codec::ws::{DEFLATE_ANSWER, accept_key, check_key, offers_deflate, tokens};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::api::Answer;
use super::{Pulse, origin};
use crate::feed::{Filter, Reserved, StreamSeat, Subscriber, from_query};
use crate::http::problem::Problem;
use crate::http::require_token;
use crate::state::NodeState;

/// A subprotocol that is no protocol but carries the bearer token, for browsers, which cannot set headers.
const BEARER_SUBPROTOCOL: &str = "straightway.bearer.";
/// Events in one piece of a stream.
const STREAM_BATCH: usize = 64;
/// The place of a stream, EPOCH-OFFSET: what follows is behind it. An `id` of server-sent events, and in the answer that
/// begins a WebSocket.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Answers `/events`.
pub(super) fn answer(
    node: &Arc<NodeState>,
    request: Request<Incoming>,
    peer: Option<IpAddr>,
) -> Result<Response<Answer>, Problem> {
    if request.method() != Method::GET {
        return Err(Problem::method("GET"));
    }
    let headers = request.headers();
    origin::check(node, headers, peer)?;
    authorize(node, headers)?;
    let wanted =
        from_query(request.uri().query().unwrap_or_default()).map_err(|e| bad(e.to_string()))?;
    let upgrades = list(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"));
    if upgrades {
        return upgrade(node, request, wanted, peer);
    }
    if list(headers, &ACCEPT).any(|range| range.starts_with("text/event-stream")) {
        let pulse = request.extensions().get::<Arc<Pulse>>().cloned().unwrap_or_default();
        return stream(node, headers, &wanted, pulse);
    }
    let detail = "ask for a WebSocket (Upgrade: websocket), or for Accept: text/event-stream";
    Err(Problem::new(StatusCode::UPGRADE_REQUIRED, detail)
        .with(UPGRADE, HeaderValue::from_static("websocket")))
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// The items of all lines of a header.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + Clone {
    let lines: Vec<&str> =
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    lines.into_iter().flat_map(tokens)
}

/// The feed names keys: where there is a token, it has to be shown, as a header or hidden among the subprotocols.
fn authorize(node: &NodeState, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(token) = &node.token else { return Ok(()) };
    let hidden = list(headers, &SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|offer| offer.strip_prefix(BEARER_SUBPROTOCOL))
        .filter_map(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok())
        .any(|shown| token.is(&shown));
    if hidden { Ok(()) } else { require_token(node, headers) }
}

fn upgrade(
    node: &Arc<NodeState>,
    mut request: Request<Incoming>,
    wanted: Subscribe,
    peer: Option<IpAddr>,
) -> Result<Response<Answer>, Problem> {
    let headers = request.headers();
    let connection_upgrades =
        list(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    if request.version() != Version::HTTP_11 || !connection_upgrades {
        return Err(bad("a WebSocket begins with HTTP/1.1 and Connection: Upgrade"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let version = HeaderValue::from_static("13");
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "only version 13 is spoken here")
            .with(SEC_WEBSOCKET_VERSION, version));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    check_key(key).map_err(|error| bad(error.to_string()))?;
    let offers = list(headers, &SEC_WEBSOCKET_PROTOCOL)
        .filter(|offer| !offer.starts_with(BEARER_SUBPROTOCOL));
    let agreed = node.feed.fallback().negotiate(offers).ok_or_else(|| {
        bad("none of these subprotocols is spoken; offer straightway.v1.json or straightway.v1.rkyv")
    })?;
    let deflate = headers
        .get_all(SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(offers_deflate);
    let accept = accept_key(key);
    let reserved = node.feed.reserve(&wanted, peer).map_err(|error| bad(error.to_string()))?;
    let reserved =
        reserved.ok_or_else(|| Problem::busy("there is no room for another subscriber"))?;
    let upgrading = hyper::upgrade::on(&mut request);
    let mut response = Response::new(super::api::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::try_from(accept) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(subprotocol) = agreed.subprotocol {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    if deflate {
        answer.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(DEFLATE_ANSWER));
    }
    // Text has no greeting that would say so.
    let place = format!("{}-{}", node.feed.epoch(), reserved.since().saturating_sub(1));
    if let Ok(place) = HeaderValue::try_from(place) {
        answer.insert(LAST_EVENT_ID, place);
    }
    let node = node.clone();
    tokio::spawn(async move {
        match take_over(upgrading).await {
            Ok((stream, unread)) => {
                let subscriber = Subscriber { stream, unread, agreed, deflate, wanted };
                hand_over(&node, reserved, subscriber);
            }
            Err(error) => tracing::debug!(%error, "a subscriber went away while it was upgraded"),
        }
    });
    Ok(response)
}

fn hand_over(node: &NodeState, reserved: Reserved, subscriber: Subscriber) {
    node.feed.join(reserved, subscriber);
}

/// The bare socket, and what was read from it beyond the request.
async fn take_over(
    upgrading: OnUpgrade,
) -> Result<(std::net::TcpStream, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let upgraded: Upgraded = upgrading.await?;
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| "the connection is no bare socket")?;
    Ok((parts.io.into_inner().into_std()?, parts.read_buf))
}

/// A stream of server-sent events: `id` is the offset, `event` the kind, `data` the JSON.
fn stream(
    node: &Arc<NodeState>,
    headers: &HeaderMap,
    wanted: &Subscribe,
    pulse: Arc<Pulse>,
) -> Result<Response<Answer>, Problem> {
    let filter = Filter::of(wanted).map_err(|error| bad(error.to_string()))?;
    let last_seen = headers
        .get(LAST_EVENT_ID)
        .and_then(|id| id.to_str().ok())
        .and_then(|id| id.split_once('-'))
        .and_then(|(epoch, offset)| {
            Some((epoch.parse::<u64>().ok()?, offset.parse::<u64>().ok()?))
        });
    let feed = &node.feed;
    let resume = match last_seen {
        Some((epoch, offset)) => Some((Some(epoch), offset.saturating_add(1))),
        None => wanted.from.map(|from| (wanted.epoch, from)),
    };
    let (cursor, why) = match resume {
        // Another life of the node: everything that is kept, behind a notice.
        Some((Some(epoch), _)) if epoch != feed.epoch() => (0, GapReason::Restarted),
        // So is an offset that is yet to come.
        Some((_, from)) if from > feed.head() => (0, GapReason::Restarted),
        Some((_, from)) => (from, GapReason::Expired),
        None => (feed.head(), GapReason::Expired),
    };
    let seat = feed.stream().ok_or_else(|| Problem::busy("there is no room for another stream"))?;
    let reading = Reading {
        node: node.clone(),
        filter,
        cursor,
        why,
        stats_seen: 0,
        told: None,
        head: feed.watch(),
        pulse,
        _seat: seat,
    };
    let pieces = futures_util::stream::unfold(reading, |mut reading| async move {
        let piece = reading.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), reading))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)));
    let answer = response.headers_mut();
    answer.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One reader of the ring.
struct Reading {
    node: Arc<NodeState>,
    filter: Filter,
    cursor: u64,
    /// Why there is a gap, if there is one.
    why: GapReason,
    stats_seen: u64,
    /// The place that the client knows of.
    told: Option<u64>,
    head: watch::Receiver<u64>,
    pulse: Arc<Pulse>,
    _seat: StreamSeat,
}

impl Reading {
    /// The next piece of the stream; `None`: the node stops.
    async fn next(&mut self) -> Option<Bytes> {
        let heartbeat = self.node.feed.limits().heartbeat;
        // Asked for the next piece: the one before has found room.
        self.pulse.beat();
        loop {
            self.head.borrow_and_update();
            if self.node.feed.is_stopping() {
                return None;
            }
            let (piece, more) = self.gather();
            if !piece.is_empty() {
                return Some(piece);
            }
            // An id without data fires no event, but is what the client resumes from.
            let place = self.cursor.saturating_sub(1);
            if self.told.is_none() {
                return Some(self.tell(place));
            }
            if more {
                tokio::task::yield_now().await;
            } else if self.changed_within(heartbeat).await.is_none() {
                return Some(self.tell(place));
            }
        }
    }

    fn tell(&mut self, place: u64) -> Bytes {
        self.told = Some(place);
        Bytes::from(format!("id: {}-{place}\n\n", self.node.feed.epoch()))
    }

    async fn changed_within(&mut self, time: Duration) -> Option<()> {
        tokio::time::timeout(time, self.head.changed()).await.ok()?.ok()
    }

    /// What there is to tell, and whether there may be more at once.
    fn gather(&mut self) -> (Bytes, bool) {
        let feed = &self.node.feed;
        let mut out = BytesMut::new();
        let batch = feed.read(self.cursor, STREAM_BATCH);
        if let Some((from, to)) = batch.gap {
            let gap = serde_json::json!({
                "offset": to, "kind": "gap", "key": "", "node": feed.node(),
                "timestamp": crate::feed::now_ms(), "from": from, "to": to, "reason": std::mem::replace(&mut self.why, GapReason::Lagging),
            });
            put(
                &mut out,
                feed.epoch(),
                to.saturating_sub(1),
                Kind::Gap,
                gap.to_string().as_bytes(),
            );
        }
        for slot in &batch.slots {
            let lives = slot.expires_ms.is_none_or(|end| crate::feed::now_ms() < end);
            if lives && self.filter.matches(slot) {
                put(&mut out, feed.epoch(), slot.offset, slot.kind, &slot.text(feed.forms()));
            }
        }
        self.cursor = batch.next;
        if self.filter.wants(Kind::Stats)
            && batch.slots.len() < STREAM_BATCH
            && let Some(slot) = feed.newer_stats(&mut self.stats_seen)
        {
            // No id: numbers are not resumed from.
            out.put_slice(b"event: stats\ndata: ");
            out.put_slice(&slot.text(feed.forms()));
            out.put_slice(b"\n\n");
        }
        if !out.is_empty() {
            self.told = Some(self.cursor.saturating_sub(1));
        }
        (out.freeze(), batch.slots.len() == STREAM_BATCH)
    }
}

fn put(out: &mut BytesMut, epoch: u64, offset: u64, kind: Kind, text: &[u8]) {
    out.put_slice(format!("id: {epoch}-{offset}\nevent: {}\ndata: ", kind.name()).as_bytes());
    out.put_slice(text);
    out.put_slice(b"\n\n");
}
