//! The developers' own command: `cargo xtask test|tidy|bench`.
#![forbid(unsafe_code)]
mod test;
mod tidy;

use std::process::{Command, ExitCode};

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
        #[arg(long, value_name = "STEP")]
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
    /// Both
    All,
}

fn main() -> ExitCode {
    let good = match Cli::parse().command {
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
        Bench::All => &["lookup", "http"],
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
