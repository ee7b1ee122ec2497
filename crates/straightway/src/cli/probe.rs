//! `probe`: measures a UDP path, or answers those who do.
use std::io::{self, IsTerminal};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::json;

use crate::cli::output::{print_json, print_line, print_table};
use crate::cli::{Failure, Global};
use crate::config::units::human_bytes;
use crate::probe::{Options, ProbeError, Report, RoundTrips, Tally, listen, probe};

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub(super) struct Probe {
    /// Where `straightway probe --listen` runs
    #[arg(required_unless_present = "listen", conflicts_with = "listen", value_name = "HOST:PORT")]
    target: Option<String>,
    /// Answer probes at this address until stopped
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Probes of each size
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Probes a second
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Sizes to measure, in bytes of UDP payload (52 to 65507)
    #[arg(long, value_delimiter = ',', default_values_t = Options::default().sizes, value_parser = size, value_name = "BYTES,...")]
    sizes: Vec<usize>,
}

fn size(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| "give a number of bytes".to_owned())?;
    if (crate::probe::MIN_PROBE..=65_507).contains(&size) {
        Ok(size)
    } else {
        Err("give 52 to 65507 bytes".to_owned())
    }
}

impl Probe {
    pub(super) fn run(&self, global: &Global) -> Result<(), Failure> {
        if let Some(address) = self.listen {
            return Self::answer(address, global);
        }
        let target = self.target.as_deref().unwrap_or_default();
        let unknown = |source| ProbeError::Resolve { target: target.to_owned(), source };
        let addresses = target.to_socket_addrs().map_err(unknown)?;
        let options = Options {
            sizes: self.sizes.clone(),
            count: self.count,
            rate: self.rate,
            ..Options::default()
        };
        let line = live_line(global.quiet);
        let nowhere = io::Error::new(io::ErrorKind::NotFound, "no such address");
        let mut outcome = Err(unknown(nowhere));
        for address in addresses {
            let report = probe(address, &options, |what| line.set_message(what.to_owned()));
            outcome = report.map(|report| (address, report));
            // A name may lead to several addresses, and the listener be at one of them only.
            if !matches!(outcome, Err(ProbeError::Silent { .. })) {
                break;
            }
        }
        line.finish_and_clear();
        let (address, report) = outcome?;
        if global.json {
            print_json(&as_json(&report))?;
        } else {
            tell(address, &report)?;
        }
        Ok(())
    }

    fn answer(address: SocketAddr, global: &Global) -> Result<(), Failure> {
        let ready = |address| {
            // Whether anybody reads it or not, probes are answered.
            let _read = if global.json {
                print_json(&json!({ "listening": address }))
            } else if global.quiet {
                Ok(())
            } else {
                print_line(&format!("answering probes at {address}; stop with Ctrl-C"))
            };
        };
        Ok(listen(address, &AtomicBool::new(false), ready)?)
    }
}

/// One line that says what is going on; on a terminal only.
fn live_line(quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    line.enable_steady_tick(Duration::from_millis(100));
    line
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn as_json(report: &Report) -> serde_json::Value {
    let rtt = |times: &RoundTrips| {
        let at = |percent| microseconds(times.percentile_ns(percent));
        json!({ "min": at(0.0), "p50": at(50.0), "p90": at(90.0), "p99": at(99.0), "max": at(100.0) })
    };
    let sizes = report.sizes.iter().map(|size| {
        json!({
            "size": size.size,
            "sent": size.tally.sent_count(),
            "received": size.tally.received(),
            "lost": size.tally.lost(),
            "reordered": size.tally.reordered(),
            "rtt_us": rtt(&size.tally.round_trips()),
            "pps": size.pps,
            "bytes_per_second": size.bytes_per_second,
        })
    });
    let best =
        |of: fn(&crate::probe::SizeReport) -> f64| report.sizes.iter().map(of).fold(0.0, f64::max);
    json!({
        "sent": report.total(Tally::sent_count),
        "received": report.total(Tally::received),
        "lost": report.total(Tally::lost),
        "reordered": report.total(Tally::reordered),
        "rtt_us": rtt(&report.round_trips()),
        "pps": best(|size| size.pps),
        "bytes_per_second": best(|size| size.bytes_per_second),
        "path_mtu": report.path_mtu,
        "sizes": sizes.collect::<Vec<_>>(),
    })
}

fn tell(target: SocketAddr, report: &Report) -> io::Result<()> {
    let mtu = report.path_mtu.map_or("unknown".to_owned(), |mtu| format!("{mtu} bytes"));
    print_line(&format!("{target}: path MTU {mtu}\n"))?;
    let rows: Vec<Vec<String>> = report
        .sizes
        .iter()
        .map(|size| {
            let times = size.tally.round_trips();
            let time = |percent| format!("{:.0}", microseconds(times.percentile_ns(percent)));
            let lost = 100.0 * size.tally.lost() as f64 / size.tally.sent_count().max(1) as f64;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "to be read"
            )]
            let rate = size.bytes_per_second as u64;
            vec![
                size.size.to_string(),
                format!("{lost:.1} %"),
                size.tally.reordered().to_string(),
                time(50.0),
                time(99.0),
                time(100.0),
                format!("{:.0}", size.pps),
                format!("{}/s", human_bytes(rate)),
            ]
        })
        .collect();
    print_table(
        &["bytes", "lost", "reordered", "p50 us", "p99 us", "max us", "answers/s", "throughput"],
        &rows,
    )?;
    print_line("\nround trips of all sizes")?;
    let histogram = report.round_trips().histogram();
    let most = histogram.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    for (from, count) in histogram {
        const WIDTH: u64 = 40;
        let bar = "█".repeat(usize::try_from(count * WIDTH / most).unwrap_or(0));
        print_line(&format!("{:>10.1} us  {bar:<40} {count}", microseconds(from)))?;
    }
    Ok(())
}
