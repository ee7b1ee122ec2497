//! The service of the data listeners: which method goes where, and what is counted.
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use tracing::Instrument;

use super::body::Body;
use super::exchange::{Exchange, Phase};
use super::problem::Problem;
use super::{delete, get, purge, put};

/// Methods that a key answers.
const ALLOW: &str = "GET, HEAD, PUT, DELETE, PURGE";

/// Answers one request. Errors become answers, so that this never fails.
pub(crate) async fn handle(
    exchange: Arc<Exchange>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    // Free of charge unless somebody asks for this level: `STRAIGHTWAY_LOG=straightway=debug`.
    let span = tracing::debug_span!(
        "request",
        method = %request.method(),
        target = %request.uri(),
        status = tracing::field::Empty,
    );
    let response = respond(&exchange, request).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    Ok(response)
}

async fn respond(exchange: &Arc<Exchange>, request: Request<Incoming>) -> Response<Body> {
    exchange.start_request();
    let (parts, body) = request.into_parts();
    let target = exchange.logs().then(|| parts.uri.clone());
    let method = parts.method.clone();
    if method != Method::PUT && !body.is_end_stream() {
        // Nobody will read it: where it is long, the connection ends after the answer.
        exchange.linger();
    }
    let result = match method {
        _ if !names_one_host(&parts) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "send one Host header"))
        }
        Method::GET | Method::HEAD => get::answer(exchange, parts).await,
        _ => change(exchange, parts, body).await,
    };
    let response = result.unwrap_or_else(Problem::into_response);
    exchange.counters().count_request(&method, response.status());
    if let Some(target) = target {
        exchange.note(&method, &target, response.status());
    }
    // A body of several pieces says itself when it is complete.
    if !matches!(response.body(), Body::Object(_) | Body::Arriving(_)) {
        exchange.enter(Phase::Flushing);
    }
    response
}

/// HTTP/1.1 requests carry exactly one `Host` (RFC 9112 §3.2).
fn names_one_host(parts: &Parts) -> bool {
    let mut hosts = parts.headers.get_all(HOST).iter();
    parts.version != Version::HTTP_11 || (hosts.next().is_some() && hosts.next().is_none())
}

/// The methods that take time anyway: boxed, so that a connection that only reads does not carry their state.
fn change<'a>(
    exchange: &'a Arc<Exchange>,
    parts: Parts,
    body: Incoming,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Problem>> + Send + 'a>> {
    Box::pin(async move {
        match parts.method {
            Method::PUT => put::answer(exchange, parts, body).await,
            Method::DELETE => delete::answer(exchange, parts).await,
            // Not in any RFC, but what other caches call it.
            ref method if method.as_str() == "PURGE" => purge::answer(exchange, parts).await,
            _ => Err(Problem::method(ALLOW)),
        }
    })
}
