//! Everything that `serve` can be told, as typed: flags and environment by clap, the file by serde, merged here.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use straightway_cache::IoMode;
use straightway_cluster::{Start, Ticket};
use straightway_codec::OptimizerMode;
use straightway_wire::Compression;
use thiserror::Error;

use crate::config::settings::{
    AccessLog, ClusterSettings, DEFAULT_COPIES, DEFAULT_LOG_ENTRIES, DEFAULT_REPAIR_AFTER,
    NodeSettings, Secret, TlsPaths,
};
use crate::config::units::{duration, size};

/// The file that is read when it exists and none was named.
pub const DEFAULT_FILE: &str = "straightway.toml";

/// A setting that is not usable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read; name another with --config, or none", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or holds an unknown key or a value of the wrong kind.
    #[error("{} is not usable: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, key and what would be right.
        message: String,
    },
    /// A value that cannot be what it should.
    #[error("{key}: {message}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
}

macro_rules! options {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {
        /// Settings of a node, as typed. In `straightway.toml` the same names with underscores.
        #[derive(Debug, Clone, Default, Args, Deserialize, Serialize, PartialEq, Eq)]
        #[serde(deny_unknown_fields, default)]
        pub struct ServeOptions {
            $($(#[$meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<String>,)*
        }

        impl ServeOptions {
            /// Takes from `lower` what is not set here.
            #[must_use]
            pub fn over(self, lower: Self) -> Self {
                Self { $($name: self.$name.or(lower.$name),)* }
            }
        }
    };
}

options! {
    /// Address of the data listener [default: 127.0.0.1:8080]
    #[arg(long, env = "STRAIGHTWAY_LISTEN", value_name = "ADDR")] listen,
    /// Address of the admin listener [default: 127.0.0.1:8081]
    #[arg(long, env = "STRAIGHTWAY_ADMIN", value_name = "ADDR")] admin,
    /// Cache file or block device [default: ./straightway.cache]
    #[arg(long, env = "STRAIGHTWAY_CACHE", value_name = "FILE")] cache,
    /// Size of the cache file [default: 1GiB]
    #[arg(long, env = "STRAIGHTWAY_SIZE", value_name = "SIZE")] size,
    /// Alignment of large objects, a power of two from 512 to 1MiB [default: 4KiB]
    #[arg(long, env = "STRAIGHTWAY_BLOCK_SIZE", value_name = "SIZE")] block_size,
    /// I/O backend: auto, standard, `io_uring` or portable [default: auto]
    #[arg(long, env = "STRAIGHTWAY_IO", value_name = "MODE")] io,
    /// Overwrite a file that is not a cache, or one of another format: yes or no [default: no]
    #[arg(long, env = "STRAIGHTWAY_FORMAT", value_name = "BOOL", num_args = 0..=1, default_missing_value = "yes")] format,
    /// Lifetime of objects stored without one, 0 for none [default: 0]
    #[arg(long, env = "STRAIGHTWAY_TTL", value_name = "DURATION")] ttl,
    /// Largest object [default: a quarter of the cache]
    #[arg(long, env = "STRAIGHTWAY_MAX_OBJECT", value_name = "SIZE")] max_object,
    /// Objects of at least this size are served from the mapping [default: 64KiB]
    #[arg(long, env = "STRAIGHTWAY_MMAP_THRESHOLD", value_name = "SIZE")] mmap_threshold,
    /// Whether sendfile may be used: yes or no [default: yes]
    #[arg(long, env = "STRAIGHTWAY_SENDFILE", value_name = "BOOL")] sendfile,
    /// Whether the way out is chosen from measured costs: yes or no [default: yes]
    #[arg(long, env = "STRAIGHTWAY_ADAPTIVE", value_name = "BOOL")] adaptive,
    /// Objects up to this size are verified whole before their first byte is served [default: 64MiB]
    #[arg(long, env = "STRAIGHTWAY_VERIFY_AHEAD", value_name = "SIZE")] verify_ahead,
    /// Bytes per second that the scrubber verifies, 0 for off [default: 0]
    #[arg(long, env = "STRAIGHTWAY_SCRUB_RATE", value_name = "SIZE")] scrub_rate,
    /// File with the bearer token that changing methods must show
    #[arg(long, env = "STRAIGHTWAY_TOKEN_FILE", value_name = "FILE", id = "serve_token_file")] token_file,
    /// Certificate chain (PEM); the data listener then speaks TLS only
    #[arg(long, env = "STRAIGHTWAY_TLS_CERT", value_name = "FILE")] tls_cert,
    /// Private key (PEM) of the certificate
    #[arg(long, env = "STRAIGHTWAY_TLS_KEY", value_name = "FILE")] tls_key,
    /// Allow listening beyond loopback without a token: yes or no [default: no]
    #[arg(long, env = "STRAIGHTWAY_INSECURE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "yes")] insecure,
    /// Network threads, 0 for one a core [default: 0]
    #[arg(long, env = "STRAIGHTWAY_WORKERS", value_name = "N")] workers,
    /// Connections held at a time [default: 10000]
    #[arg(long, env = "STRAIGHTWAY_MAX_CONNECTIONS", value_name = "N")] max_connections,
    /// A transfer without progress is cut off after this long [default: 60s]
    #[arg(long, env = "STRAIGHTWAY_SEND_TIMEOUT", value_name = "DURATION")] send_timeout,
    /// A request's head must be complete after this long [default: 15s]
    #[arg(long, env = "STRAIGHTWAY_HEADER_TIMEOUT", value_name = "DURATION")] header_timeout,
    /// An idle connection is closed after this long [default: 75s]
    #[arg(long, env = "STRAIGHTWAY_IDLE_TIMEOUT", value_name = "DURATION")] idle_timeout,
    /// How long running requests may take to finish on SIGTERM [default: 30s]
    #[arg(long, env = "STRAIGHTWAY_DRAIN_TIMEOUT", value_name = "DURATION")] drain_timeout,
    /// What the node calls itself in events [default: the host's name]
    #[arg(long, env = "STRAIGHTWAY_NODE_NAME", value_name = "NAME")] node_name,
    /// Encoded events that are kept for subscribers who resume [default: 64MiB]
    #[arg(long, env = "STRAIGHTWAY_FEED_HISTORY", value_name = "SIZE")] feed_history,
    /// Subscribers of the feed at a time [default: 10000]
    #[arg(long, env = "STRAIGHTWAY_FEED_SUBSCRIBERS", value_name = "N")] feed_subscribers,
    /// How long events are gathered for one write while many come [default: 2ms]
    #[arg(long, env = "STRAIGHTWAY_FEED_WINDOW", value_name = "DURATION")] feed_window,
    /// A silent subscriber is asked whether it is there after this long [default: 20s]
    #[arg(long, env = "STRAIGHTWAY_FEED_HEARTBEAT", value_name = "DURATION")] feed_heartbeat,
    /// Whether encoding follows what is measured: off, observe or on [default: on]
    #[arg(long, env = "STRAIGHTWAY_FEED_OPTIMIZER", value_name = "MODE")] feed_optimizer,
    /// Origins of pages that may use the admin listener besides its own, comma-separated
    #[arg(long, env = "STRAIGHTWAY_ORIGINS", value_name = "ORIGINS")] origins,
    /// Log of requests on standard error: off, text or json [default: off]
    #[arg(long, env = "STRAIGHTWAY_ACCESS_LOG", value_name = "FORMAT")] access_log,
    /// Be the first node of a new cluster, or go on as the member that the data folder names; prints a join ticket
    #[arg(long, env = "STRAIGHTWAY_CLUSTER", value_name = "BOOL", num_args = 0..=1, default_missing_value = "yes")] cluster,
    /// Join the cluster that issued this ticket; a node that has joined goes on as the member that it is
    #[arg(long, env = "STRAIGHTWAY_JOIN", value_name = "TICKET")] join,
    /// UDP address for members of the cluster [default: the data listener's address, port 8082 or any that is free]
    #[arg(long, env = "STRAIGHTWAY_CLUSTER_LISTEN", value_name = "ADDR")] cluster_listen,
    /// Addresses that other members are told, comma-separated [default: the one it listens on]
    #[arg(long, env = "STRAIGHTWAY_CLUSTER_ADVERTISE", value_name = "ADDRS")] cluster_advertise,
    /// Look for members that have moved, and be found, by multicast on the local network [default: no]
    #[arg(long, env = "STRAIGHTWAY_CLUSTER_DISCOVER", value_name = "BOOL", num_args = 0..=1, default_missing_value = "yes")] cluster_discover,
    /// Members that keep a copy of each object that is stored, never fewer than a majority [default: 3]
    #[arg(long, env = "STRAIGHTWAY_COPIES", value_name = "N")] copies,
    /// How long a member may not answer before the copies that it holds are made anew on others; 0: never [default: 10m]
    #[arg(long, env = "STRAIGHTWAY_REPAIR_AFTER", value_name = "DURATION")] repair_after,
    /// Compress what the cluster's log carries, to members set alike: no, zstd or lz4 [default: no]
    #[arg(long, env = "STRAIGHTWAY_CLUSTER_COMPRESS", value_name = "CODEC")] cluster_compress,
    /// Entries at which the log of changes is cut; a member that was away for longer takes a snapshot [default: 10000]
    #[arg(long, env = "STRAIGHTWAY_LOG_ENTRIES", value_name = "N")] log_entries,
    /// Folder for a cluster node's key, log and catalogue [default: beside the cache file, ending in .data]
    #[arg(long, env = "STRAIGHTWAY_DATA_DIR", value_name = "DIR")] data_dir,
}

impl ServeOptions {
    /// Reads the file that was named, or the default one if it exists.
    pub fn from_file(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(ConfigError::Unreadable { path: path.to_path_buf(), source });
            }
        };
        Self::from_toml(&text)
            .map_err(|message| ConfigError::File { path: path.to_path_buf(), message })
    }

    /// Reads TOML. Numbers and booleans may stand bare; they mean what the same text means as a flag.
    fn from_toml(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let bare = |value: toml::Value| match value {
            toml::Value::Integer(number) => toml::Value::String(number.to_string()),
            toml::Value::Boolean(yes) => {
                toml::Value::String(if yes { "yes" } else { "no" }.to_owned())
            }
            other => other,
        };
        let table: toml::Table = table.into_iter().map(|(key, value)| (key, bare(value))).collect();
        table.try_into().map_err(|error: toml::de::Error| error.to_string())
    }

    /// Turns text into checked values.
    pub fn settings(&self) -> Result<NodeSettings, ConfigError> {
        let defaults = NodeSettings::default();
        let cache = self.cache.as_ref().map_or(defaults.cache, PathBuf::from);
        let data_dir =
            self.data_dir.as_ref().map_or_else(|| cache.with_extension("data"), PathBuf::from);
        let mut zero_copy = defaults.zero_copy;
        set(
            &mut zero_copy.mmap_threshold,
            "mmap_threshold",
            self.mmap_threshold.as_ref(),
            |text| usize::try_from(size(text)?).map_err(|error| error.to_string()),
        )?;
        set(&mut zero_copy.enable_sendfile, "sendfile", self.sendfile.as_ref(), yes_or_no)?;
        set(&mut zero_copy.adaptive, "adaptive", self.adaptive.as_ref(), yes_or_no)?;
        let mut settings = NodeSettings {
            cache,
            data_dir,
            zero_copy,
            tls: self.tls()?,
            token: self.token()?,
            ..NodeSettings::default()
        };
        let s = &mut settings;
        set(&mut s.listen, "listen", self.listen.as_ref(), |text| {
            address(text).map(|address| vec![address])
        })?;
        set(&mut s.admin, "admin", self.admin.as_ref(), address)?;
        set(&mut s.size, "size", self.size.as_ref(), size)?;
        set(&mut s.block_size, "block_size", self.block_size.as_ref(), |text| {
            u32::try_from(size(text)?).map_err(|error| error.to_string())
        })?;
        set(&mut s.io, "io", self.io.as_ref(), io_mode)?;
        set(&mut s.format, "format", self.format.as_ref(), yes_or_no)?;
        set(&mut s.ttl, "ttl", self.ttl.as_ref(), duration)?;
        set(&mut s.max_object, "max_object", self.max_object.as_ref(), |text| {
            size(text).map(Some)
        })?;
        set(&mut s.verify_ahead, "verify_ahead", self.verify_ahead.as_ref(), size)?;
        set(&mut s.scrub_rate, "scrub_rate", self.scrub_rate.as_ref(), size)?;
        set(&mut s.insecure, "insecure", self.insecure.as_ref(), yes_or_no)?;
        set(&mut s.workers, "workers", self.workers.as_ref(), count)?;
        set(&mut s.max_connections, "max_connections", self.max_connections.as_ref(), count)?;
        set(&mut s.send_timeout, "send_timeout", self.send_timeout.as_ref(), duration)?;
        set(&mut s.header_timeout, "header_timeout", self.header_timeout.as_ref(), duration)?;
        set(&mut s.idle_timeout, "idle_timeout", self.idle_timeout.as_ref(), duration)?;
        set(&mut s.drain_timeout, "drain_timeout", self.drain_timeout.as_ref(), duration)?;
        set(&mut s.node_name, "node_name", self.node_name.as_ref(), |text| {
            Ok(Some(text.to_owned()))
        })?;
        self.feed(s)?;
        self.cluster(s)?;
        Ok(settings)
    }

    fn cluster(&self, s: &mut NodeSettings) -> Result<(), ConfigError> {
        let (mut first, mut ticket) = (false, None);
        set(&mut first, "cluster", self.cluster.as_ref(), yes_or_no)?;
        set(&mut ticket, "join", self.join.as_ref(), |text| {
            text.parse::<Ticket>().map(Some).map_err(|error| error.to_string())
        })?;
        let start = match ticket {
            Some(ticket) => Start::Join(Box::new(ticket)),
            None if first => Start::First,
            None => return Ok(()),
        };
        let ip = s.listen.first().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), SocketAddr::ip);
        let mut cluster = ClusterSettings {
            start,
            listen: SocketAddr::new(ip, 0),
            advertise: Vec::new(),
            discover: false,
            copies: DEFAULT_COPIES,
            repair_after: DEFAULT_REPAIR_AFTER,
            compress: None,
            log_entries: DEFAULT_LOG_ENTRIES,
        };
        set(&mut cluster.listen, "cluster_listen", self.cluster_listen.as_ref(), address)?;
        set(
            &mut cluster.advertise,
            "cluster_advertise",
            self.cluster_advertise.as_ref(),
            |text| text.split(',').map(|one| address(one.trim())).collect(),
        )?;
        let discover = self.cluster_discover.as_ref();
        set(&mut cluster.discover, "cluster_discover", discover, yes_or_no)?;
        set(&mut cluster.copies, "copies", self.copies.as_ref(), count)?;
        let repair_after = self.repair_after.as_ref();
        set(&mut cluster.repair_after, "repair_after", repair_after, duration)?;
        set(&mut cluster.log_entries, "log_entries", self.log_entries.as_ref(), |text| {
            count(text).map(|entries| entries as u64)
        })?;
        let compress = self.cluster_compress.as_ref();
        set(&mut cluster.compress, "cluster_compress", compress, |text| match text {
            "no" => Ok(None),
            "zstd" => Ok(Some(Compression::Zstd)),
            "lz4" => Ok(Some(Compression::Lz4)),
            _ => Err(format!("{text:?} is no codec; choose no, zstd or lz4")),
        })?;
        s.cluster = Some(cluster);
        Ok(())
    }

    fn feed(&self, s: &mut NodeSettings) -> Result<(), ConfigError> {
        let feed = &mut s.feed;
        set(&mut feed.history_bytes, "feed_history", self.feed_history.as_ref(), |text| {
            usize::try_from(size(text)?).map_err(|error| error.to_string())
        })?;
        let subscribers = self.feed_subscribers.as_ref();
        set(&mut feed.max_subscribers, "feed_subscribers", subscribers, count)?;
        set(&mut feed.flush_window, "feed_window", self.feed_window.as_ref(), duration)?;
        set(&mut feed.heartbeat, "feed_heartbeat", self.feed_heartbeat.as_ref(), duration)?;
        set(&mut s.optimizer, "feed_optimizer", self.feed_optimizer.as_ref(), |text| match text {
            "off" => Ok(OptimizerMode::Off),
            "observe" => Ok(OptimizerMode::Observe),
            "on" => Ok(OptimizerMode::On),
            _ => Err(format!("{text:?} is no mode; choose off, observe or on")),
        })?;
        set(&mut s.origins, "origins", self.origins.as_ref(), |text| {
            Ok(text.split(',').map(|origin| origin.trim().to_owned()).collect())
        })?;
        set(&mut s.access_log, "access_log", self.access_log.as_ref(), |text| match text {
            "off" => Ok(AccessLog::Off),
            "text" => Ok(AccessLog::Text),
            "json" => Ok(AccessLog::Json),
            _ => Err(format!("{text:?} is no format; choose off, text or json")),
        })
    }

    fn tls(&self) -> Result<Option<TlsPaths>, ConfigError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Ok(Some(TlsPaths { cert: cert.into(), key: key.into() })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(ConfigError::Value {
                key: "tls_key",
                message: "is missing beside tls_cert; give both".into(),
            }),
            (None, Some(_)) => Err(ConfigError::Value {
                key: "tls_cert",
                message: "is missing beside tls_key; give both".into(),
            }),
        }
    }

    fn token(&self) -> Result<Option<Secret>, ConfigError> {
        self.token_file.as_deref().map(|path| read_token(Path::new(path))).transpose()
    }
}

/// Reads a token: the file's text without the white space around it.
pub fn read_token(path: &Path) -> Result<Secret, ConfigError> {
    let failed = |message: String| ConfigError::Value { key: "token_file", message };
    let text = std::fs::read_to_string(path)
        .map_err(|error| failed(format!("{} cannot be read: {error}", path.display())))?;
    match text.trim() {
        "" => Err(failed(format!("{} is empty; put a token of your choice in it", path.display()))),
        token if token.chars().any(char::is_control) => {
            Err(failed(format!("{} holds more than one line; put one token in it", path.display())))
        }
        token => Ok(Secret::new(token)),
    }
}

fn set<T>(
    target: &mut T,
    key: &'static str,
    text: Option<&String>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<(), ConfigError> {
    if let Some(text) = text {
        *target = read(text).map_err(|message| ConfigError::Value { key, message })?;
    }
    Ok(())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address; write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    })
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number; write a whole number"))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither yes nor no")),
    }
}

fn io_mode(text: &str) -> Result<IoMode, String> {
    match text {
        "auto" => Ok(IoMode::Auto),
        "standard" => Ok(IoMode::Standard),
        "io_uring" => Ok(IoMode::IoUring),
        "portable" => Ok(IoMode::Portable),
        _ => {
            Err(format!("{text:?} is no I/O backend; choose auto, standard, io_uring or portable"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_wrong_values_are_named() {
        let unknown = ServeOptions::from_toml("sise = \"1GiB\"").expect_err("unknown");
        assert!(unknown.contains("sise") && unknown.contains("size"), "{unknown}");
        let wrong = ServeOptions::from_toml("size = \"1GB\"")
            .expect("reads")
            .settings()
            .expect_err("wrong");
        assert!(wrong.to_string().contains("size: \"1GB\""), "{wrong}");
    }

    #[test]
    fn flags_rule_over_the_file_and_the_file_over_defaults() {
        let file =
            ServeOptions::from_toml("size = \"2GiB\"\nttl = \"5m\"\nworkers = 3\nsendfile = false")
                .expect("reads");
        let flags = ServeOptions { size: Some("3GiB".into()), ..ServeOptions::default() };
        let settings = flags.over(file).settings().expect("good");
        assert_eq!((settings.size, settings.workers), (3 << 30, 3));
        assert_eq!(settings.ttl, std::time::Duration::from_mins(5));
        assert!(!settings.zero_copy.enable_sendfile);
        assert_eq!(settings.admin, NodeSettings::default().admin);
    }

    #[test]
    fn half_a_tls_pair_is_refused() {
        let half = ServeOptions { tls_cert: Some("c.pem".into()), ..ServeOptions::default() };
        assert!(half.settings().is_err());
    }
}
