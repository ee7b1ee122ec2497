//! `bench`: load on a running node.
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::json;

use crate::bench::{Bench as Run, Latencies, Live, Mix, Options, Outcome, Side, Until};
use crate::cli::output::{harmless, print_json, print_line, print_table};
use crate::cli::{Failure, Global, client};
use crate::config::units::{duration, human_bytes, size};

/// The largest object; each request holds its bytes by reference, but they are made in memory.
const MAX_SIZE: u64 = 1 << 30;

/// Arguments of `bench`.
///
/// Objects PREFIX00000000, PREFIX00000001 and so on are stored, overwritten, read, and removed in the end.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Connections, each with one request under way
    #[arg(long, default_value = "16", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// How long to measure
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    duration: Duration,
    /// Measure so many requests instead, however long they take
    #[arg(long, conflicts_with = "duration", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Bytes of each object, at most 1GiB
    #[arg(long, default_value = "64KiB", value_name = "SIZE", value_parser = object_size)]
    size: usize,
    /// Objects
    #[arg(long, default_value = "1000", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: u32,
    /// What to do: get, put, or shares of both, GET:PUT, such as 90:10
    #[arg(long, default_value = "get", value_name = "MIX")]
    mix: Mix,
    /// What the objects' keys begin with; objects of that name are overwritten, and removed in the end
    #[arg(long, default_value = "bench/", value_name = "PREFIX")]
    prefix: String,
    /// Leave the objects where they are
    #[arg(long)]
    keep: bool,
    /// File with the node's bearer token
    #[arg(long, env = "STRAIGHTWAY_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

fn object_size(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    let fits = usize::try_from(bytes).ok().filter(|_| bytes <= MAX_SIZE);
    fits.ok_or_else(|| "give at most 1GiB".to_owned())
}

impl Bench {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = client(&global.url, global, self.token_file.as_ref())?;
        let options = Options {
            connections: self.connections.into(),
            until: self.requests.map_or(Until::Elapsed(self.duration), Until::Requests),
            size: self.size,
            keys: usize::try_from(self.keys).unwrap_or(usize::MAX),
            mix: self.mix,
            prefix: self.prefix,
        };
        let run = Run::new(client, options.clone())?;
        let line = LiveLine::start(global.quiet, run.live());
        let live = run.live();
        let asked = tokio::spawn(async move {
            // What has been measured by then is told, and cleaned up after.
            if tokio::signal::ctrl_c().await.is_ok() {
                live.stop();
            }
        });
        let outcome = measure(&run, &line, options.mix).await;
        let cleaned = if self.keep {
            Ok(())
        } else {
            line.now("removing");
            run.clean().await
        };
        asked.abort();
        line.end();
        let outcome = outcome?;
        if global.json {
            print_json(&as_json(&options, &outcome))?;
        } else if !global.quiet {
            tell(&options, &outcome)?;
        }
        cleaned?;
        if outcome.failed() > 0 { Err(Failure::Told) } else { Ok(()) }
    }
}

async fn measure(run: &Run, line: &LiveLine, mix: Mix) -> Result<Outcome, Failure> {
    if mix.get > 0 {
        line.now("filling");
        run.fill().await?;
    }
    line.now("measuring");
    Ok(run.measure().await?)
}

/// One line that says how it goes; on a terminal only.
struct LiveLine {
    bar: ProgressBar,
    what: Arc<parking_lot::Mutex<(&'static str, Instant)>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl LiveLine {
    fn start(quiet: bool, live: Arc<Live>) -> Self {
        let what = Arc::new(parking_lot::Mutex::new(("connecting", Instant::now())));
        if quiet || !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), what, task: None };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let (shown, seen) = (bar.clone(), what.clone());
        let task = tokio::spawn(async move {
            let mut turns = tokio::time::interval(Duration::from_millis(200));
            let mut before = live.requests.load(Ordering::Relaxed);
            loop {
                turns.tick().await;
                let (what, since) = *seen.lock();
                let requests = live.requests.load(Ordering::Relaxed);
                let rate = requests.saturating_sub(before) * 5;
                before = requests;
                let seconds = since.elapsed().as_secs();
                let bytes = human_bytes(live.bytes.load(Ordering::Relaxed));
                let failed = live.failed.load(Ordering::Relaxed);
                shown.set_message(format!(
                    "{what}: {seconds} s, {requests} requests, {rate}/s, {bytes}, {failed} failed"
                ));
                shown.tick();
            }
        });
        Self { bar, what, task: Some(task) }
    }

    fn now(&self, what: &'static str) {
        *self.what.lock() = (what, Instant::now());
    }

    fn end(self) {
        if let Some(task) = self.task {
            task.abort();
        }
        self.bar.finish_and_clear();
    }
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-9)
}

fn as_json(options: &Options, outcome: &Outcome) -> serde_json::Value {
    let latency = |latencies: &Latencies| {
        let at = |percent| microseconds(latencies.percentile_ns(percent));
        json!({ "p50": at(50.0), "p90": at(90.0), "p99": at(99.0), "max": microseconds(latencies.max_ns()) })
    };
    let side = |side: &Side| {
        json!({
            "requests": side.latencies.count(),
            "requests_per_second": rate(side.latencies.count(), outcome.elapsed),
            "bytes": side.bytes,
            "bytes_per_second": rate(side.bytes, outcome.elapsed),
            "latency_us": latency(&side.latencies),
        })
    };
    let all = outcome.all();
    let histogram = all.latencies.histogram().into_iter();
    let histogram: Vec<_> = histogram
        .map(|(from, count)| json!({ "from_us": microseconds(from), "count": count }))
        .collect();
    let mut told = side(&all);
    let more = json!({
        "connections": options.connections,
        "keys": options.keys,
        "size": options.size,
        "seconds": outcome.elapsed.as_secs_f64(),
        "failed": outcome.failed(),
        "errors": outcome.errors,
        "example": outcome.example,
        "get": side(&outcome.get),
        "put": side(&outcome.put),
        "histogram": histogram,
    });
    if let (Some(told), serde_json::Value::Object(more)) = (told.as_object_mut(), more) {
        told.extend(more);
    }
    told
}

fn tell(options: &Options, outcome: &Outcome) -> io::Result<()> {
    print_line(&format!(
        "{} connections, {} objects of {}, {:.1} s\n",
        options.connections,
        options.keys,
        human_bytes(options.size as u64),
        outcome.elapsed.as_secs_f64()
    ))?;
    let all = outcome.all();
    let sides = [("GET", &outcome.get), ("PUT", &outcome.put), ("all", &all)];
    let rows: Vec<Vec<String>> = sides
        .into_iter()
        .filter(|(_, side)| side.latencies.count() > 0)
        .map(|(name, side)| row(name, side, outcome.elapsed))
        .collect();
    print_table(
        &["", "requests", "requests/s", "throughput", "p50 us", "p90 us", "p99 us", "max us"],
        &rows,
    )?;
    if outcome.failed() > 0 {
        print_line("")?;
        let rows: Vec<Vec<String>> = outcome
            .errors
            .iter()
            .map(|(what, count)| vec![what.clone(), count.to_string()])
            .collect();
        print_table(&["failed", "requests"], &rows)?;
        if let Some(example) = &outcome.example {
            print_line(&format!("one of them: {}", harmless(example)))?;
        }
    }
    bars(&all.latencies)
}

fn row(name: &str, side: &Side, elapsed: Duration) -> Vec<String> {
    let latencies = &side.latencies;
    let time = |ns| format!("{:.0}", microseconds(ns));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "to be read")]
    let throughput = rate(side.bytes, elapsed) as u64;
    vec![
        name.to_owned(),
        latencies.count().to_string(),
        format!("{:.0}", rate(latencies.count(), elapsed)),
        format!("{}/s", human_bytes(throughput)),
        time(latencies.percentile_ns(50.0)),
        time(latencies.percentile_ns(90.0)),
        time(latencies.percentile_ns(99.0)),
        time(latencies.max_ns()),
    ]
}

fn bars(latencies: &Latencies) -> io::Result<()> {
    let histogram = latencies.histogram();
    if histogram.is_empty() {
        return Ok(());
    }
    print_line("\nlatencies")?;
    let most = histogram.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    for (from, count) in histogram {
        const WIDTH: u64 = 40;
        let wide = u128::from(count) * u128::from(WIDTH) / u128::from(most);
        let bar = "█".repeat(usize::try_from(wide).unwrap_or(0));
        print_line(&format!("{:>10.1} us  {bar:<40} {count}", microseconds(from)))?;
    }
    Ok(())
}
