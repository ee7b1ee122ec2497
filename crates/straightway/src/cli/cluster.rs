//! `cluster`: what a node says of its cluster, tickets, members.
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::cli::output::{print_json, print_line, print_table};
use crate::cli::{Failure, Global, client};
use crate::config::units::duration;

/// Longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Arguments of `cluster`.
#[derive(Debug, Args)]
pub(super) struct Cluster {
    #[command(subcommand)]
    action: Action,
    /// File with the node's bearer token
    #[arg(long, global = true, env = "STRAIGHTWAY_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the members, who leads, and how far everybody is
    Status,
    /// Issue a ticket with which a node can join: `straightway serve --join TICKET`
    Ticket {
        /// How long it is good for, 24h at most
        #[arg(long, default_value = "15m", value_name = "DURATION")]
        lifetime: String,
        /// The node is to keep copies and serve, and never to vote
        #[arg(long)]
        learner: bool,
    },
    /// Let a learner vote now, even if that makes the number of voters even
    Add {
        /// The member's number
        id: u64,
    },
    /// Remove a member for good; it may come back as a new one, with an empty data folder
    Remove {
        /// The member's number
        id: u64,
    },
    /// Hand leadership to another voter
    Transfer {
        /// The member's number
        id: u64,
    },
}

impl Cluster {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = client(&global.admin_url, global, self.token_file.as_ref())?;
        let ask = async |method: Method, path: &'static str, body: Option<Value>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let body = body.map(|body| {
                Full::new(Bytes::from(body.to_string()))
                    .map_err(|never| match never {})
                    .boxed_unsync()
            });
            let reply = client.expect_success(method, path, path, headers, body).await?;
            Ok::<Value, Failure>(serde_json::from_str(&reply.text(MAX_ANSWER).await)?)
        };
        let (path, id) = match self.action {
            Action::Status => {
                return status(global, &ask(Method::GET, "/api/cluster", None).await?);
            }
            Action::Ticket { lifetime, learner } => {
                let lifetime_s = lifetime_of(&lifetime)?.as_secs();
                let role = if learner { "learner" } else { "voter" };
                let wanted = json!({ "lifetime_s": lifetime_s, "role": role });
                let answer = ask(Method::POST, "/api/cluster/ticket", Some(wanted)).await?;
                return ticket(global, &answer);
            }
            Action::Add { id } => ("/api/cluster/add", id),
            Action::Remove { id } => ("/api/cluster/remove", id),
            Action::Transfer { id } => ("/api/cluster/transfer", id),
        };
        status(global, &ask(Method::POST, path, Some(json!({ "id": id }))).await?)
    }
}

fn lifetime_of(text: &str) -> Result<Duration, Failure> {
    duration(text).map_err(|message| {
        crate::config::options::ConfigError::Value { key: "lifetime", message }.into()
    })
}

fn ticket(global: &Global, answer: &Value) -> Result<(), Failure> {
    if global.json {
        print_json(&json!({ "ticket": answer["ticket"], "expires_ms": answer["expires_ms"] }))?;
    } else {
        print_line(answer["ticket"].as_str().unwrap_or_default())?;
    }
    Ok(())
}

fn status(global: &Global, status: &Value) -> Result<(), Failure> {
    if global.json {
        print_json(status)?;
        return Ok(());
    }
    if global.quiet {
        return Ok(());
    }
    let Some(members) = status["members"].as_array().filter(|members| !members.is_empty()) else {
        print_line("this node is in no cluster")?;
        return Ok(());
    };
    print_line(&format!(
        "cluster {}, member {}, term {}, committed {}, applied {}, {}",
        status["cluster"].as_str().unwrap_or("?"),
        status["node"],
        status["term"],
        status["commit_index"],
        status["applied_index"],
        if status["lease"]["held"] == true {
            "lease held"
        } else {
            "no lease: hits are asked for first"
        },
    ))?;
    let number = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows: Vec<_> = members
        .iter()
        .map(|member| {
            vec![
                number(&member["id"]),
                text(&member["name"]),
                text(&member["role"]),
                if member["healthy"] == true { "yes" } else { "no" }.to_owned(),
                number(&member["rtt_us"]),
                number(&member["lag"]),
                text(&member["http"]),
            ]
        })
        .collect();
    print_table(&["id", "name", "role", "healthy", "rtt µs", "lag", "http"], &rows)?;
    Ok(())
}
