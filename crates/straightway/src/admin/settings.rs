//! `/api/config`: the settings that can change while the node runs.
//!
//! PATCH takes any of them and leaves the others; it answers with all that are in force then. What is not known is an
//! error, so that a typing mistake does not look like success.
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use straightway_cache::ZeroCopyConfig;

use super::api::{Answer, json};
use crate::http::problem::Problem;
use crate::http::require_token;
use crate::state::NodeState;

/// Largest body in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The settings in force.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    mmap_threshold: usize,
    enable_sendfile: bool,
    adaptive: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    mmap_threshold: Option<usize>,
    enable_sendfile: Option<bool>,
    adaptive: Option<bool>,
}

/// Answers GET.
pub(super) fn current(node: &NodeState) -> Settings {
    let ZeroCopyConfig { mmap_threshold, enable_sendfile, adaptive } =
        node.cache().zero_copy().config();
    Settings { mmap_threshold, enable_sendfile, adaptive }
}

/// Reads a request's body, a small JSON object of known fields.
pub(super) async fn read_json<T: DeserializeOwned>(
    request: Request<Incoming>,
) -> Result<T, Problem> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| {
        let status = if error.is::<http_body_util::LengthLimitError>() {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        Problem::new(status, "the body could not be taken; send a small JSON object")
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        let detail = format!("the body is not a JSON object of what is known here: {error}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}

/// Answers PATCH.
pub(super) async fn change(
    node: &Arc<NodeState>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Problem> {
    require_token(node, request.headers())?;
    let change: Change = read_json(request).await?;
    let manager = node.cache().zero_copy();
    let old = manager.config();
    manager.set_config(ZeroCopyConfig {
        mmap_threshold: change.mmap_threshold.unwrap_or(old.mmap_threshold),
        enable_sendfile: change.enable_sendfile.unwrap_or(old.enable_sendfile),
        adaptive: change.adaptive.unwrap_or(old.adaptive),
    });
    tracing::info!(settings = ?manager.config(), "settings changed");
    json(&current(node))
}
