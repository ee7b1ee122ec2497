//! The developers' own command: `cargo xtask test|tidy|stress|bench`.
#![forbid(unsafe_code)]
mod stress;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(about = "The developers' own command")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run every check and test; installs the system packages that they need, and says so
    Test {
        /// 200 rounds of kill -9 instead of 20, and 5 GiB through the cache instead of 640 MiB
        #[arg(long)]
        slow: bool,
        /// Only the step of this name
        #[arg(long, value_name = "STEP", value_parser = PossibleValuesParser::new(test::names()))]
        only: Option<String>,
    },
    /// Check the rules of the house
    Tidy,
    /// Run the tests with threads that are late at random, to find what holds only on a quick machine
    Stress {
        /// How often
        #[arg(long, value_name = "TIMES", default_value_t = 1)]
        times: u32,
        /// After one in so many system calls the thread sleeps
        #[arg(long, value_name = "CALLS", default_value_t = 40)]
        one_in: u32,
        /// For so many milliseconds at most
        #[arg(long, value_name = "MS", default_value_t = 15)]
        most_ms: u32,
        /// Which tests, as cargo-nextest's `-E` takes it
        #[arg(default_value = "all()")]
        filter: String,
    },
    /// Run the benchmarks beside their rivals
    Bench {
        /// Which
        #[arg(value_enum, default_value = "all")]
        what: Bench,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Bench {
    /// Lookups, beside foyer and cacache
    Lookup,
    /// HTTP hits, beside nginx, Varnish and Traffic Server
    Http,
    /// Taking and giving back buffers, beside malloc, mimalloc and other pools
    Pool,
    /// Serialising, building, parsing and summing packets, beside etherparse, smoltcp and pnet
    Packet,
    /// UDP packets a second, beside iperf3; as root
    Udp,
    /// Encoding and reading events, beside JSON, postcard and prost
    Codec,
    /// Events to many subscribers, beside Bun, ws, tokio-tungstenite and axum
    Feed,
    /// Appending to a Raft log, beside redb and fjall
    Log,
    /// Raft messages, beside protobuf, prost, tokio-util's codec and tonic
    Wire,
    /// Committed writes and replicated objects of three nodes, beside etcd
    Cluster,
    /// All of them
    All,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Steps name paths from the top of the repository; cargo tells this program where its package is.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    if let Some(top) = package.as_deref().and_then(|package| package.parent())
        && let Err(error) = std::env::set_current_dir(top)
    {
        eprintln!("{} cannot be entered: {error}", top.display());
        return ExitCode::FAILURE;
    }
    let good = match command {
        Task::Test { slow, only } => test::run(slow, only.as_deref()),
        Task::Tidy => tidy::run(),
        Task::Stress { times, one_in, most_ms, filter } => {
            stress::run(times, one_in, most_ms, &filter)
        }
        Task::Bench { what } => bench(what),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where rivals in JavaScript are put.
const RIVALS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench-js");

/// Bun and ws, from npm; without it the others are measured without them.
fn install_rivals() {
    println!("installing bun and ws into {RIVALS} (npm install)");
    let made = std::fs::create_dir_all(RIVALS);
    let packages = ["install", "--no-audit", "--no-fund", "--prefix", RIVALS, "bun@1.4", "ws@8"];
    if made.is_err() || !Command::new("npm").args(packages).status().is_ok_and(|s| s.success()) {
        println!("npm did not install them; they are left out");
    }
}

fn bench(what: Bench) -> bool {
    let bins: &[&str] = match what {
        Bench::Lookup => &["lookup"],
        Bench::Http => &["http"],
        Bench::Pool => &["pool"],
        Bench::Packet => &["packet"],
        Bench::Udp => &["udp"],
        Bench::Codec => &["codec"],
        Bench::Feed => &["feed"],
        Bench::Log => &["log"],
        Bench::Wire => &["wire"],
        Bench::Cluster => &["cluster"],
        Bench::All => {
            &["lookup", "http", "pool", "packet", "udp", "codec", "feed", "log", "wire", "cluster"]
        }
    };
    let cargo = || Command::new("cargo");
    if bins.contains(&"feed") {
        install_rivals();
    }
    // The node that is measured; the rivals are built in their own workspace.
    let built = cargo().args(["build", "--release", "--package", "straightway"]).status();
    built.is_ok_and(|status| status.success())
        && bins.iter().all(|bin| {
            let run = ["run", "--release", "--manifest-path", "bench/Cargo.toml", "--bin", bin];
            cargo().args(run).env("BENCH_JS", RIVALS).status().is_ok_and(|status| status.success())
        })
}
