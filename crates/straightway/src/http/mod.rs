//! HTTP semantics of the data listeners (RFC 9110): what a request means for the cache.
//!
//! Decisions ([`range`], [`conditional`], [`key`], [`etag`], [`digest`]) are pure functions; `route` and its
//! neighbours put them together. *Does not know:* sockets, TLS, threads.
pub(crate) mod access;
mod arriving;
pub mod body;
pub mod cache_status;
pub mod conditional;
mod delete;
pub mod digest;
pub mod etag;
pub(crate) mod exchange;
mod get;
mod head;
pub mod key;
pub mod problem;
pub(crate) mod purge;
mod put;
pub mod range;
pub(crate) mod route;

use http::{HeaderMap, StatusCode};

use self::key::KeyError;
use self::problem::Problem;
use crate::state::NodeState;

/// Refuses a request that must show the node's token and does not.
pub(crate) fn require_token(node: &NodeState, headers: &HeaderMap) -> Result<(), Problem> {
    match &node.token {
        Some(token) if !token.admits(headers) => Err(Problem::unauthorized()),
        _ => Ok(()),
    }
}

fn bad_key(error: KeyError) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error.to_string())
}
