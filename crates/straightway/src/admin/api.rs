//! What the admin listener answers.
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Serialize;

use super::table::Snapshot;
use super::{dashboard, events, metrics, objects, origin, purge, regions, settings};
use crate::http::problem::Problem;
use crate::state::NodeState;

/// The body of an admin answer.
pub(super) type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// A body in one piece.
pub(super) fn full(body: Bytes) -> Answer {
    Full::new(body).boxed_unsync()
}

const INDEX: &str = "\
straightway admin listener

/                     the dashboard
/metrics              statistics for Prometheus
/health/live          200 while the process runs
/health/ready         200 while the node takes requests, 503 while it drains
/api/stats            statistics as JSON
/api/regions          what the cache's regions hold
/api/objects          stored objects as JSON: ?prefix=, ?limit=, ?cursor=
/api/purge            POST a JSON object with key, prefix, tag or all: true
/events               the live feed: WebSocket (straightway.v1.json, straightway.v1.rkyv) or server-sent events
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
        origin::check(node, request.headers())?;
    }
    match path {
        "/events" => events::answer(node, request, peer),
        "/api/purge" if request.method() == Method::POST => purge::answer(node, request).await,
        "/api/purge" => Err(Problem::method("POST")),
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
        "/health/live" => Ok(text(StatusCode::OK, "text/plain; charset=utf-8", "live\n".into())),
        "/health/ready" if node.is_draining() => Err(Problem::busy("the node is draining")),
        "/health/ready" => Ok(text(StatusCode::OK, "text/plain; charset=utf-8", "ready\n".into())),
        "/api/stats" => json(&Snapshot::take(node).await.to_json()),
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

async fn render_metrics(node: &NodeState) -> Result<Response<Answer>, Problem> {
    let rendered = metrics::render(Snapshot::take(node).await);
    let body = rendered.map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written")
    })?;
    Ok(text(StatusCode::OK, metrics::CONTENT_TYPE, body.into()))
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
