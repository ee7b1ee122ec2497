//! `put`, `get`, `ls`, `stat`, `rm`: objects of a running node.
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::output::{Bar, print_json, print_line, print_table};
use crate::cli::{Failure, Global, client};
use crate::client::{
    Client, ClientError, PutOptions, fetch_to_file, fetch_to_writer, put_file, put_stdin,
};
use crate::config::options::ConfigError;
use crate::config::units::{duration, human_bytes};

/// Arguments of `put`.
#[derive(Debug, Args)]
pub(super) struct Put {
    /// File to store; - for standard input
    file: PathBuf,
    /// Key to store it under [default: the file's name]
    key: Option<String>,
    /// MIME type [default: guessed from the file's name]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Lifetime, such as 12h [default: the node's]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_age: Option<std::time::Duration>,
    /// Tag for group invalidation; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// File with the node's bearer token
    #[arg(long, env = "STRAIGHTWAY_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Put {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = client(&global.url, global, self.token_file.as_ref())?;
        let stdin = self.file.as_os_str() == "-";
        let name = self.file.file_name().map(|name| name.to_string_lossy().into_owned());
        let key = match self.key {
            Some(key) => key,
            None if stdin => {
                let what = "standard input has no name; give a KEY".to_owned();
                return Err(ConfigError::Value { key: "KEY", message: what }.into());
            }
            None => name.unwrap_or_default(),
        };
        let options = PutOptions {
            content_type: self.content_type.or_else(|| guess_type(&key).map(str::to_owned)),
            max_age: self.max_age.map(|age| age.as_secs() + u64::from(age.subsec_nanos() > 0)),
            tags: self.tags,
        };
        let bar = Arc::new(Bar::new(&key, global.quiet));
        let stored = if stdin {
            put_stdin(&client, &key, &options, bar.clone()).await
        } else {
            put_file(&client, &self.file, &key, &options, bar.clone()).await
        };
        bar.finish();
        let stored = stored?;
        if global.json {
            print_json(&json!({ "key": key, "bytes": stored.bytes, "sha256": stored.sha256 }))?;
        } else if !global.quiet {
            let bytes = human_bytes(stored.bytes);
            print_line(&format!("{key}: {bytes} stored, sha256 {}", stored.sha256))?;
        }
        Ok(())
    }
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// Key to fetch
    key: String,
    /// File to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Get {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = client(&global.url, global, None)?;
        let bar = Bar::new(&self.key, global.quiet);
        let fetched = match &self.output {
            Some(path) => fetch_to_file(&client, &self.key, path, &bar).await,
            None => fetch_to_writer(&client, &self.key, tokio::io::stdout(), &bar).await,
        };
        bar.finish();
        let fetched = fetched?;
        let Some(path) = self.output else { return Ok(()) };
        if global.json {
            print_json(
                &json!({ "key": self.key, "file": path, "bytes": fetched.bytes, "resumed": fetched.resumed, "sha256": fetched.sha256 }),
            )?;
        } else if !global.quiet {
            let resumed = if fetched.resumed > 0 {
                format!(" ({} were there)", human_bytes(fetched.resumed))
            } else {
                String::new()
            };
            print_line(&format!(
                "{}: {}{resumed}, sha256 {} verified",
                path.display(),
                human_bytes(fetched.bytes),
                fetched.sha256
            ))?;
        }
        Ok(())
    }
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    prefix: String,
}

#[derive(Debug, Deserialize)]
struct Page {
    objects: Vec<Value>,
    /// A number, or a key.
    cursor: Option<Value>,
}

impl Ls {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = client(&global.admin_url, global, None)?;
        let objects = list(&client, &self.prefix).await?;
        if global.json {
            print_json(&objects)?;
        } else if std::io::stdout().is_terminal() {
            let now_ms = now_ms();
            let rows: Vec<Vec<String>> = objects.iter().map(|object| row(object, now_ms)).collect();
            print_table(&["KEY", "SIZE", "TYPE", "AGE", "EXPIRES"], &rows)?;
        } else {
            use std::io::Write;
            let mut out = std::io::stdout().lock();
            for object in &objects {
                writeln!(out, "{}", object["key"].as_str().unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

async fn list(client: &Client, prefix: &str) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    let prefix = utf8_percent_encode(prefix, NON_ALPHANUMERIC);
    let mut path = format!("/api/objects?prefix={prefix}&limit=1000");
    loop {
        let page: Page = fetch_json(client, &path).await?;
        objects.extend(page.objects);
        let from = match page.cursor {
            None => break,
            Some(Value::String(key)) => key,
            Some(place) => place.to_string(),
        };
        let from = utf8_percent_encode(&from, NON_ALPHANUMERIC);
        path = format!("/api/objects?prefix={prefix}&limit=1000&cursor={from}");
    }
    objects.sort_by(|a, b| a["key"].as_str().cmp(&b["key"].as_str()));
    Ok(objects)
}

async fn fetch_json<T: for<'de> Deserialize<'de>>(
    client: &Client,
    path: &str,
) -> Result<T, Failure> {
    let reply = client.expect_success(Method::GET, path, path, HeaderMap::new(), None).await?;
    let text = reply.text(64 << 20).await;
    Ok(serde_json::from_str(&text)?)
}

fn row(object: &Value, now_ms: u64) -> Vec<String> {
    let text = |name: &str| object[name].as_str().unwrap_or("-").to_owned();
    let number = |name: &str| object[name].as_u64();
    let age = number("stored_ms").map_or(0, |stored| now_ms.saturating_sub(stored));
    let left = number("expires_ms").map(|end| human_ms(end.saturating_sub(now_ms)));
    vec![
        text("key"),
        human_bytes(number("len").unwrap_or(0)),
        text("content_type"),
        human_ms(age),
        left.unwrap_or_else(|| "-".to_owned()),
    ]
}

/// Arguments of `stat`.
#[derive(Debug, Args)]
pub(super) struct Stat {
    /// Key to describe [default: none, the node's statistics]
    key: Option<String>,
}

impl Stat {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let Some(key) = self.key else { return node_statistics(global).await };
        let client = client(&global.url, global, None)?;
        let path = Client::key_path(&key);
        let reply = client.send(Method::HEAD, &path, HeaderMap::new(), None).await?;
        if !reply.status.is_success() {
            let detail = match reply.status {
                StatusCode::NOT_FOUND => "no such object",
                _ => "the node refuses",
            };
            let detail = detail.to_owned();
            return Err(ClientError::Refused {
                method: Method::HEAD,
                key,
                status: reply.status,
                detail,
            }
            .into());
        }
        let field = |name: &str| reply.header(name).map(str::to_owned);
        let described = json!({
            "key": key,
            "len": field("content-length").and_then(|len| len.parse::<u64>().ok()),
            "content_type": field("content-type"),
            "etag": field("etag"),
            "last_modified": field("last-modified"),
            "age": field("age").and_then(|age| age.parse::<u64>().ok()),
            "cache_control": field("cache-control"),
        });
        print_fields(&described, global.json)
    }
}

async fn node_statistics(global: &Global) -> Result<(), Failure> {
    let client = client(&global.admin_url, global, None)?;
    let statistics: Value = fetch_json(&client, "/api/stats").await?;
    print_fields(&statistics, global.json)
}

fn print_fields(value: &Value, json: bool) -> Result<(), Failure> {
    if json {
        return Ok(print_json(value)?);
    }
    let mut rows = Vec::new();
    flatten("", value, &mut rows);
    Ok(print_table(&["NAME", "VALUE"], &rows)?)
}

fn flatten(prefix: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name =
                    if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&name, value, rows);
            }
        }
        Value::Null => {}
        Value::String(text) => rows.push(vec![prefix.to_owned(), text.clone()]),
        other => rows.push(vec![prefix.to_owned(), other.to_string()]),
    }
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Keys to remove
    #[arg(required = true)]
    keys: Vec<String>,
    /// File with the node's bearer token
    #[arg(long, env = "STRAIGHTWAY_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Rm {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = client(&global.url, global, self.token_file.as_ref())?;
        let mut missing = false;
        for key in &self.keys {
            let removed = client
                .expect_success(Method::DELETE, key, &Client::key_path(key), HeaderMap::new(), None)
                .await;
            match removed {
                Ok(_) if global.json => print_json(&json!({ "key": key, "removed": true }))?,
                Ok(_) if !global.quiet => print_line(&format!("{key}: removed"))?,
                Ok(_) => {}
                Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => {
                    missing = true;
                    eprintln!("error: {key}: no such object");
                }
                Err(error) => return Err(error.into()),
            }
        }
        if missing { Err(Failure::Told) } else { Ok(()) }
    }
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

fn human_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A short table: what people store most. Everything else is `application/octet-stream`.
fn guess_type(name: &str) -> Option<&'static str> {
    let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
    Some(match extension.as_str() {
        "txt" | "log" | "md" => "text/plain; charset=utf-8",
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css",
        "csv" => "text/csv",
        "js" | "mjs" => "text/javascript",
        "json" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" | "whl" | "jar" => "application/zip",
        "gz" | "tgz" | "crate" => "application/gzip",
        "zst" => "application/zstd",
        "tar" => "application/x-tar",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        "mp3" => "audio/mpeg",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "m3u8" => "application/vnd.apple.mpegurl",
        "ts" => "video/mp2t",
        _ => return None,
    })
}
