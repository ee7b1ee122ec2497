//! PURGE: the object of this key is gone for good before it is answered.
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response};
use straightway_cache::Purge;

use super::body::Body;
use super::exchange::Exchange;
use super::problem::Problem;
use super::{bad_key, key, require_token};

/// Answers PURGE; 200 whether there was an object or not: what the client wants to be true is true.
pub(crate) async fn answer(
    exchange: &Arc<Exchange>,
    parts: Parts,
) -> Result<Response<Body>, Problem> {
    require_token(exchange.node(), &parts.headers)?;
    let key = key::from_target(parts.uri.path(), parts.uri.query()).map_err(bad_key)?;
    let purged = exchange.node().cache.purge(Purge::Key(key.into_owned())).await;
    let purged = purged.map_err(|error| Problem::from_cache(&error))?;
    let document = crate::admin::purge::document(purged).to_string();
    let mut response = Response::new(Body::from(Bytes::from(document)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
