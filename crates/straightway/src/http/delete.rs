//! DELETE: durable before it is answered.
use std::sync::Arc;

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::request::Parts;
use http::{Response, StatusCode};

use straightway_cache::Expect;

use super::body::Body;
use super::conditional::{self, Action, Current, Outcome};
use super::exchange::Exchange;
use super::problem::Problem;
use super::{bad_key, etag, key, require_token};
use crate::member;

/// Answers DELETE.
pub(crate) async fn answer(
    exchange: &Arc<Exchange>,
    parts: Parts,
) -> Result<Response<Body>, Problem> {
    let headers = &parts.headers;
    require_token(exchange.node(), headers)?;
    let key = key::from_target(parts.uri.path(), parts.uri.query()).map_err(bad_key)?;
    let conditional = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name));
    if let Some(cluster) = exchange.node().cluster() {
        let condition = member::condition(cluster, headers, &key, conditional).await?;
        let removed = member::remove(cluster, &key, condition).await?;
        return if removed { Ok(gone()) } else { Err(Problem::not_found()) };
    }
    let cache = &exchange.node().cache;
    let cache_error = |error| Problem::from_cache(&error);
    let mut expect = Expect::Any;
    if conditional {
        // The version that the condition was judged by is the one that is removed, or none is.
        let object = cache.open(&key).await.map_err(cache_error)?.ok_or_else(Problem::not_found)?;
        let meta = object.meta();
        let tag = etag::of(meta);
        let current = Current { etag: tag.as_bytes(), last_modified_ms: meta.last_modified_ms };
        if conditional::evaluate(Action::Change, headers, Some(current)) != Outcome::Proceed {
            return Err(Problem::precondition());
        }
        expect = Expect::Version(object.version());
    }
    if !cache.remove_if(&key, expect).await.map_err(cache_error)? {
        return Err(Problem::not_found());
    }
    Ok(gone())
}

fn gone() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
