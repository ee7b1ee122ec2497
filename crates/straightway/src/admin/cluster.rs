//! `/api/cluster`: who belongs to the cluster, who leads, how far everybody is; and, by POST, tickets and members.
//!
//! `GET /api/cluster`; `POST /api/cluster/ticket` `{"lifetime_s": 900, "role": "voter"}`, `/add`, `/remove` and `/transfer`
//! `{"id": 3}`. A node that is in no cluster answers 404 to the latter, and `{"members": []}` to the former.
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use straightway_cluster::{Cluster, JoinRole};

use super::api::{Answer, json as answer_json};
use super::settings::read_json;
use crate::http::problem::Problem;
use crate::http::require_token;
use crate::member::not_served;
use crate::state::NodeState;

/// How long a ticket is good for, unless told otherwise.
const LIFETIME: Duration = Duration::from_mins(15);
/// The longest that it may be.
const MAX_LIFETIME: Duration = Duration::from_hours(24);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    lifetime_s: Option<u64>,
    role: Option<Role>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Voter,
    Learner,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    id: u64,
}

/// Answers whatever lies under `/api/cluster`.
pub(super) async fn answer(
    node: &Arc<NodeState>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Problem> {
    let action = request.uri().path().trim_start_matches("/api/cluster").to_owned();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (action.as_str(), reads) {
        ("", true) => match node.cluster() {
            Some(cluster) => answer_json(&cluster.status()),
            None => answer_json(&json!({ "node": null, "leader": null, "members": [] })),
        },
        ("", false) => Err(Problem::method("GET, HEAD")),
        ("/ticket" | "/add" | "/remove" | "/transfer", true) => Err(Problem::method("POST")),
        ("/ticket", false) => {
            let cluster = permitted(node, &request)?;
            ticket(cluster, read_json(request).await?).await
        }
        ("/add" | "/remove" | "/transfer", false) => {
            let cluster = permitted(node, &request)?;
            let Member { id } = read_json(request).await?;
            let done = match action.as_str() {
                "/add" => cluster.add(id).await,
                "/remove" => cluster.remove_member(id).await,
                _ => cluster.transfer(id).await,
            };
            done.map_err(|error| not_served(&error))?;
            answer_json(&cluster.status())
        }
        _ => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "there is no such resource; /api lists what there is",
        )),
    }
}

/// The cluster, for those who may change it.
fn permitted<'a>(node: &'a NodeState, request: &Request<Incoming>) -> Result<&'a Cluster, Problem> {
    require_token(node, request.headers())?;
    let detail = "this node is in no cluster; start it with --cluster, or with --join TICKET";
    node.cluster().ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, detail))
}

async fn ticket(cluster: &Cluster, wanted: Wanted) -> Result<Response<Answer>, Problem> {
    let lifetime = wanted.lifetime_s.map_or(LIFETIME, Duration::from_secs);
    if lifetime > MAX_LIFETIME {
        let detail = format!("a ticket is good for at most {} s", MAX_LIFETIME.as_secs());
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let role = match wanted.role {
        Some(Role::Learner) => JoinRole::Learner,
        Some(Role::Voter) | None => JoinRole::Voter,
    };
    let ticket = cluster.ticket(lifetime, role).await.map_err(|error| not_served(&error))?;
    answer_json(&json!({ "ticket": ticket.to_string(), "expires_ms": ticket.expires_ms }))
}
