//! PURGE: the object of this key is gone for good before it is answered.
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response};
use serde_json::json;
use straightway_cache::{Purge, Purged};

use super::body::Body;
use super::exchange::Exchange;
use super::problem::Problem;
use super::{bad_key, key, require_token};
use crate::member;
use crate::state::NodeState;

/// Answers PURGE; 200 whether there was an object or not: what the client wants to be true is true.
pub(crate) async fn answer(
    exchange: &Arc<Exchange>,
    parts: Parts,
) -> Result<Response<Body>, Problem> {
    require_token(exchange.node(), &parts.headers)?;
    let key = key::from_target(parts.uri.path(), parts.uri.query()).map_err(bad_key)?;
    let document = purge(exchange.node(), Purge::Key(key.into_owned())).await?.to_string();
    let mut response = Response::new(Body::from(Bytes::from(document)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Purges on this node, or on all members of its cluster; answers with what the client is told.
pub(crate) async fn purge(node: &NodeState, what: Purge) -> Result<serde_json::Value, Problem> {
    if let Some(cluster) = node.cluster() {
        let objects = member::purge(cluster, &what).await?;
        return Ok(document(Purged { objects, complete: true }));
    }
    let purged = node.cache.purge(what).await.map_err(|error| Problem::from_cache(&error))?;
    Ok(document(purged))
}

fn document(purged: Purged) -> serde_json::Value {
    if purged.complete {
        json!({ "purged": purged.objects })
    } else {
        json!({ "purged": purged.objects, "complete": false })
    }
}
