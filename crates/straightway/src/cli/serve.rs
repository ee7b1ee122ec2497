//! `serve`: runs a node.
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::cli::Failure;
use crate::cli::output::print_line;
use crate::config::options::{ConfigError, ServeOptions};
use crate::config::units::human_bytes;
use crate::node::{self, Ready};

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Configuration file [default: ./straightway.toml if it exists]
    #[arg(long, env = "STRAIGHTWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what would be set, as TOML, and end
    #[arg(long)]
    print_config: bool,
    /// Format of the log on standard error: text or json
    #[arg(long, env = "STRAIGHTWAY_LOG_FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    #[command(flatten)]
    options: ServeOptions,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let file = ServeOptions::from_file(self.config.as_deref())?;
        let options = self.options.over(file);
        let settings = options.settings()?;
        if self.print_config {
            let text = toml::to_string(&options).map_err(|error| ConfigError::Value {
                key: "config",
                message: error.to_string(),
            })?;
            print_line(text.trim_end())?;
            return Ok(());
        }
        let tracing = log_to_stderr(&self.log_format);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut told = Ok(());
        let size = settings.size;
        let ended = runtime.block_on(node::run(settings, |ready| told = announce(ready, size)));
        tracing.end();
        ended?;
        Ok(told?)
    }
}

/// What must happen with traces when the node has ended.
#[must_use]
struct Tracing {
    #[cfg(feature = "otel")]
    spans: Option<crate::cli::spans::Spans>,
}

impl Tracing {
    fn end(self) {
        let Self {
            #[cfg(feature = "otel")]
            spans,
        } = self;
        #[cfg(feature = "otel")]
        if let Some(spans) = spans {
            spans.end();
        }
    }
}

fn log_to_stderr(format: &str) -> Tracing {
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let filter =
        EnvFilter::try_from_env("STRAIGHTWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if format == "json" { lines.json().boxed() } else { lines.boxed() };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otel")]
    {
        let (layer, spans) = crate::cli::spans::start();
        let _first = registry.with(layer).try_init();
        Tracing { spans }
    }
    #[cfg(not(feature = "otel"))]
    {
        // Set once per process, and this is its only place.
        let _first = registry.try_init();
        Tracing {}
    }
}

/// One line a listener, what the cache found out, and READY as the last.
fn announce(ready: &Ready, size: u64) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let scheme = if ready.tls { "https" } else { "http" };
    for address in &ready.data {
        writeln!(out, "listening data {scheme}://{address}")?;
    }
    writeln!(out, "listening admin http://{}", ready.admin)?;
    if let Some(member) = &ready.cluster {
        writeln!(out, "listening cluster udp://{}, member {}", member.address, member.id)?;
        if let Some(ticket) = &member.ticket {
            writeln!(out, "join with: straightway serve --join {ticket}")?;
        }
    }
    let cache = &ready.cache;
    writeln!(
        out,
        "cache {} file, {} for data in {} regions of {}, objects up to {}",
        human_bytes(size),
        human_bytes(cache.capacity),
        cache.regions,
        human_bytes(cache.region_size),
        human_bytes(cache.max_object),
    )?;
    writeln!(
        out,
        "index {} in memory for {} objects, {} recovered in {:.1} ms",
        human_bytes(cache.index_bytes),
        cache.index_slots * 4 / 5,
        cache.recovered_objects,
        cache.recovery_us as f64 / 1000.0,
    )?;
    let yes = |yes| if yes { "yes" } else { "no" };
    writeln!(
        out,
        "io {}, direct writes {}, mapping {}, sendfile {}, {} network threads",
        cache.engine,
        yes(cache.direct),
        yes(cache.mapped),
        yes(cache.sendfile),
        ready.workers,
    )?;
    writeln!(out, "READY")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    #[test]
    fn defaults_are_the_published_ones() {
        let defaults = crate::config::settings::NodeSettings::default();
        assert_eq!(defaults.listen[0].to_string(), "127.0.0.1:8080");
        assert_eq!(defaults.admin.to_string(), "127.0.0.1:8081");
        assert_eq!(defaults.size, 1 << 30);
        assert_eq!(defaults.cache.to_str(), Some("./straightway.cache"));
    }
}
