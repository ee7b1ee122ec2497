//! What the admin listener answers.
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Serialize;
use straightway_codec::event::Stats;
use straightway_codec::{Encoding, Stamp};

use super::table::Snapshot;
use super::ticker;
use super::{cluster, dashboard, events, metrics, objects, origin, purge, regions, settings};
use crate::feed::now_ms;
use crate::http::problem::Problem;
use crate::state::NodeState;

/// The body of an admin answer.
pub(super) type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// A body in one piece.
pub(super) fn full(body: Bytes) -> Answer {
    Full::new(body).boxed_unsync()
}

/// How long encoded numbers are good for another answer.
const FRESH: Duration = Duration::from_millis(250);

const INDEX: &str = "\
straightway admin listener

/                     the dashboard
/metrics              statistics for Prometheus
/health/live          200 while the process runs
/health/ready         200 while the node takes requests; 503 while it starts or drains, or has no serve lease in its cluster
/api/stats            statistics as JSON, or some of them in rkyv (Accept: application/rkyv)
/api/regions          what the cache's regions hold
/api/objects          stored objects as JSON: ?prefix=, ?limit=, ?cursor=
/api/purge            POST a JSON object with key, prefix, tag or all: true
/events               the live feed: WebSocket (straightway.v1.json, straightway.v1.rkyv) or server-sent events
/api/cluster          the cluster's members: GET; POST to .../ticket, .../add, .../remove, .../transfer
/api/config           settings that can change at run time: GET, PATCH
";

/// Answers one request.
pub(super) async fn answer(
    node: &Arc<NodeState>,
    request: Request<Incoming>,
    peer: Option<IpAddr>,
) -> Response<Answer> {
    route(node, request, peer)
        .await
        .unwrap_or_else(|problem| problem.into_response::<Bytes>().map(full))
}

async fn route(
    node: &Arc<NodeState>,
    request: Request<Incoming>,
    peer: Option<IpAddr>,
) -> Result<Response<Answer>, Problem> {
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads {
        origin::check(node, request.headers(), peer)?;
    }
    match path {
        "/events" => events::answer(node, request, peer),
        "/api/purge" if request.method() == Method::POST => purge::answer(node, request).await,
        "/api/purge" => Err(Problem::method("POST")),
        path if path.starts_with("/api/cluster") => cluster::answer(node, request).await,
        "/api/config" if request.method() == Method::PATCH => settings::change(node, request).await,
        "/api/config" if !reads => Err(Problem::method("GET, HEAD, PATCH")),
        "/api" | "/api/regions" | "/metrics" | "/health/live" | "/health/ready" | "/api/stats"
        | "/api/objects"
            if !reads =>
        {
            Err(Problem::method("GET, HEAD"))
        }
        "/api" => Ok(text(StatusCode::OK, "text/plain; charset=utf-8", INDEX.into())),
        "/api/regions" => json(&regions::current(node)),
        "/metrics" => render_metrics(node).await,
        "/health/live" => Ok(live()),
        "/health/ready" if node.is_draining() => Err(Problem::busy("the node is draining")),
        "/health/ready" if node.cluster().is_some_and(|cluster| !cluster.may_serve()) => Err(
            Problem::busy("the node holds no serve lease: it must ask a majority for each request"),
        ),
        "/health/ready" => Ok(text(StatusCode::OK, "text/plain; charset=utf-8", "ready\n".into())),
        "/api/stats" => statistics(node, request.headers()).await,
        "/api/objects" => {
            json(&objects::list(node, request.uri().query().unwrap_or_default()).await?)
        }
        "/api/config" => json(&settings::current(node)),
        other => match dashboard::file(other) {
            Some(file) if reads => Ok(file),
            Some(_) => Err(Problem::method("GET, HEAD")),
            None => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "there is no such resource; /api lists what there is",
            )),
        },
    }
}

/// That the process lives.
pub(super) fn live() -> Response<Answer> {
    text(StatusCode::OK, "text/plain; charset=utf-8", "live\n".into())
}

async fn render_metrics(node: &NodeState) -> Result<Response<Answer>, Problem> {
    let rendered = metrics::render(Snapshot::take(node).await);
    let body = rendered.map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written")
    })?;
    Ok(text(StatusCode::OK, metrics::CONTENT_TYPE, body.into()))
}

/// The numbers in JSON, or for who asks for `application/rkyv` those that the feed tells, as one message.
async fn statistics(node: &NodeState, headers: &HeaderMap) -> Result<Response<Answer>, Problem> {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let snapshot = Snapshot::take(node).await;
    if node.feed.fallback().negotiate_accept(accept) == Encoding::Json {
        return json(&snapshot.to_json());
    }
    let encoder = &node.feed.forms().encoder;
    let stamp = Stamp { offset: node.feed.head(), time_us: now_ms() * 1000, ..Stamp::default() };
    // Several who look at the same moment share one encoding.
    let message = encoder
        .cached::<Stats>(0, FRESH, || encoder.encode(stamp, &ticker::stats(node, &snapshot)))
        .map_err(|_| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the numbers could not be encoded")
        })?;
    Ok(text(StatusCode::OK, Encoding::Rkyv.content_type(), message.into_bytes()))
}

/// An answer in JSON.
pub(super) fn json(document: &impl Serialize) -> Result<Response<Answer>, Problem> {
    let body = serde_json::to_vec(document).map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written as JSON")
    })?;
    Ok(text(StatusCode::OK, "application/json", body.into()))
}

fn text(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Answer> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Numbers of this moment.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
