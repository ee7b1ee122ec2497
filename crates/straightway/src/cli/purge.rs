//! `purge`: objects of a running node, by key, prefix, tag, or all.
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::cli::output::{print_json, print_line};
use crate::cli::{Failure, Global, client};

/// Arguments of `purge`.
#[derive(Debug, Args)]
pub(super) struct Purge {
    #[command(flatten)]
    what: What,
    /// File with the node's bearer token
    #[arg(long, env = "STRAIGHTWAY_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The object of this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// All objects whose keys begin so
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// All objects that bear this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// All objects
    #[arg(long)]
    all: bool,
}

impl Purge {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = client(&global.admin_url, global, self.token_file.as_ref())?;
        let What { key, prefix, tag, all: _ } = self.what;
        let wanted = match (key, prefix, tag) {
            (Some(key), ..) => json!({ "key": key }),
            (_, Some(prefix), _) => json!({ "prefix": prefix }),
            (.., Some(tag)) => json!({ "tag": tag }),
            _ => json!({ "all": true }),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Full::new(Bytes::from(wanted.to_string())).map_err(|never| match never {});
        let reply = client
            .expect_success(
                Method::POST,
                "/api/purge",
                "/api/purge",
                headers,
                Some(body.boxed_unsync()),
            )
            .await?;
        let answer: Value = serde_json::from_str(&reply.text(64 * 1024).await)?;
        if global.json {
            print_json(&answer)?;
        } else if !global.quiet {
            let more = if answer["complete"] == false { " or more" } else { "" };
            print_line(&format!("{}{more} objects purged", answer["purged"]))?;
        }
        Ok(())
    }
}
