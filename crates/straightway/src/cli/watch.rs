//! `watch`: shows what happens on a node as it happens.
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use straightway_codec::Encoding;
use straightway_codec::event::{Kind, OnLag, Subscribe};

use crate::cli::output::harmless;
use crate::cli::{Failure, Global, client};
use crate::client::FeedClient;
use crate::config::options::ConfigError;
use crate::config::units::human_bytes;

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    prefix: String,
    /// Only these kinds: stored, removed, expired, evicted, purged, stats, member, leader [default: all but stats]
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<String>,
    /// Only objects that bear this tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Go on from this offset
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Disconnect and resume instead of leaving events out when this side is too slow
    #[arg(long)]
    lossless: bool,
    /// Encoding on the wire: rkyv or json
    #[arg(long, default_value = "rkyv", value_parser = ["rkyv", "json"])]
    encoding: String,
    /// File with the node's bearer token
    #[arg(long, env = "STRAIGHTWAY_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Watch {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let node = client(&global.admin_url, global, self.token_file.as_ref())?;
        if let Some(unknown) = self.kinds.iter().find(|kind| Kind::from_name(kind).is_none()) {
            let known: Vec<_> = Kind::ALL.into_iter().map(Kind::name).collect();
            let message = format!("{unknown:?} is none; choose of {}", known.join(", "));
            return Err(ConfigError::Value { key: "kind", message }.into());
        }
        let all = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Stats);
        let kinds = if self.kinds.is_empty() {
            all.map(|kind| kind.name().to_owned()).collect()
        } else {
            self.kinds
        };
        let wanted = Subscribe {
            kinds,
            prefix: self.prefix,
            tags: self.tags,
            from: self.from,
            epoch: None,
            on_lag: if self.lossless { OnLag::Disconnect } else { OnLag::Drop },
        };
        let encoding = if self.encoding == "json" { Encoding::Json } else { Encoding::Rkyv };
        let mut feed = FeedClient::new(node, wanted)?.with_encoding(encoding);
        let color = std::io::stdout().is_terminal();
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let event = feed.next().await?.to_json()?;
            let line = if global.json { event.to_string() } else { line(&event, color) };
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()?;
            left -= 1;
        }
        Ok(())
    }
}

/// An event in one line: time, kind, key, and what else there is to say.
fn line(event: &Value, color: bool) -> String {
    let kind = event["kind"].as_str().unwrap_or("?");
    let clock = {
        let ms = event["timestamp"].as_u64().unwrap_or(0);
        let seconds = ms / 1000 % 86_400;
        format!(
            "{:02}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            ms % 1000
        )
    };
    let paint = match (color, kind) {
        (false, _) => ("", ""),
        (_, "stored") => ("\x1b[32m", "\x1b[0m"),
        (_, "purged" | "removed") => ("\x1b[31m", "\x1b[0m"),
        (_, "gap") => ("\x1b[33m", "\x1b[0m"),
        _ => ("\x1b[2m", "\x1b[0m"),
    };
    let text = |name: &str| harmless(event[name].as_str().unwrap_or_default());
    let said = match kind {
        "stored" => {
            let size = human_bytes(event["len"].as_u64().unwrap_or(0));
            let tags = event["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let tags = tags.fold(String::new(), |line, tag| line + " #" + &harmless(tag));
            format!("{}  {size} {}{tags}", text("key"), text("content_type"))
        }
        "purged" => match &*text("scope") {
            "prefix" => format!("{}*", text("key")),
            "tag" => format!("#{}", text("key")),
            "all" => "everything".to_owned(),
            _ => text("key"),
        },
        "gap" if event["reason"] == "restarted" => {
            "the node was restarted; what happened in between may be missing".to_owned()
        }
        "gap" => format!(
            "{} to {} are missing ({})",
            event["from"],
            event["to"],
            event["reason"].as_str().unwrap_or_default()
        ),
        "stats" => {
            let number = |name: &str| event[name].as_u64().unwrap_or(0);
            let looked_up = number("hits") + number("misses");
            let ratio =
                if looked_up > 0 { 100.0 * number("hits") as f64 / looked_up as f64 } else { 0.0 };
            format!(
                "{} requests, {ratio:.1} % hits, {} served, {} copied, {} objects",
                number("requests"),
                human_bytes(number("bytes_served")),
                human_bytes(number("bytes_copied")),
                number("objects"),
            )
        }
        _ => text("key"),
    };
    format!("{clock} {}{kind:8}{} {said}", paint.0, paint.1).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_say_what_happened() {
        let stored = json!({ "kind": "stored", "key": "a/b", "timestamp": 3_723_004, "len": 2048, "tags": ["x"], "content_type": "text/plain" });
        assert_eq!(line(&stored, false), "01:02:03.004 stored   a/b  2.00 KiB text/plain #x");
        let purged = json!({ "kind": "purged", "key": "a/", "scope": "prefix", "timestamp": 0 });
        assert_eq!(line(&purged, false), "00:00:00.000 purged   a/*");
        let gap = json!({ "kind": "gap", "from": 3, "to": 9, "reason": "lagging", "timestamp": 0 });
        assert_eq!(line(&gap, false), "00:00:00.000 gap      3 to 9 are missing (lagging)");
        assert!(line(&stored, true).contains("\x1b[32mstored"));
        let hostile =
            json!({ "kind": "stored", "key": "a\x1b[2J\u{9b}b", "timestamp": 0, "tags": ["\r"] });
        let shown = line(&hostile, false);
        assert!(
            shown.contains("a\\u{1b}[2J\\u{9b}b") && !shown.chars().any(char::is_control),
            "{shown}"
        );
    }
}
