//! `/api/purge`: POST `{"key"|"prefix"|"tag": "..."}` or `{"all": true}`; answers `{"purged": N}` once no reader can find
//! what was purged, whatever happens to the node.
//!
//! `complete: false` stands beside it when counting took too long: then N is what was counted until then.
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use straightway_cache::Purge;

use super::api::{Answer, json as answer_json};
use super::settings::read_json;
use crate::http::problem::Problem;
use crate::http::require_token;
use crate::state::NodeState;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    key: Option<String>,
    prefix: Option<String>,
    tag: Option<String>,
    #[serde(default)]
    all: bool,
}

/// Answers POST.
pub(super) async fn answer(
    node: &Arc<NodeState>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Problem> {
    require_token(node, request.headers())?;
    let wanted: Wanted = read_json(request).await?;
    let what = match wanted {
        Wanted { key: Some(key), prefix: None, tag: None, all: false } => Purge::Key(key),
        Wanted { key: None, prefix: Some(prefix), tag: None, all: false } => Purge::Prefix(prefix),
        Wanted { key: None, prefix: None, tag: Some(tag), all: false } => Purge::Tag(tag),
        Wanted { key: None, prefix: None, tag: None, all: true } => Purge::All,
        _ => {
            let detail = "give exactly one of key, prefix and tag, or all: true";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    tracing::info!(?what, "purge");
    answer_json(&crate::http::purge::purge(node, what).await?)
}
