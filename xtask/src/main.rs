//! The developers' own command: `cargo xtask test|tidy|bench`.
#![forbid(unsafe_code)]
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
        Task::Bench { what } => bench(what),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bench(what: Bench) -> bool {
    let bins: &[&str] = match what {
        Bench::Lookup => &["lookup"],
        Bench::Http => &["http"],
        Bench::Pool => &["pool"],
        Bench::Packet => &["packet"],
        Bench::Udp => &["udp"],
        Bench::All => &["lookup", "http", "pool", "packet", "udp"],
    };
    let cargo = || Command::new("cargo");
    // The node that is measured; the rivals are built in their own workspace.
    let built = cargo().args(["build", "--release", "--package", "straightway"]).status();
    built.is_ok_and(|status| status.success())
        && bins.iter().all(|bin| {
            let run = ["run", "--release", "--manifest-path", "bench/Cargo.toml", "--bin", bin];
            cargo().args(run).status().is_ok_and(|status| status.success())
        })
}
