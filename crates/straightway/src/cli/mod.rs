//! The command line: what was typed, and what each command does with it.
mod bench;
mod cluster;
mod fsck;
mod objects;
mod output;
mod probe;
mod purge;
mod serve;
#[cfg(feature = "otel")]
mod spans;
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, ClientError, STANDARD_OUTPUT};
use crate::config::options::{ConfigError, read_token};

/// A cache node whose bytes go straight through, from disk to socket.
#[derive(Debug, Parser)]
#[command(name = "straightway", version, about, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command that talks to a node needs.
#[derive(Debug, Clone, Args)]
struct Global {
    /// Data listener of the node
    #[arg(
        long,
        global = true,
        env = "STRAIGHTWAY_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    url: String,
    /// Admin listener of the node
    #[arg(
        long,
        global = true,
        env = "STRAIGHTWAY_ADMIN_URL",
        default_value = "http://127.0.0.1:8081",
        value_name = "URL"
    )]
    admin_url: String,
    /// Certificates (PEM) to trust for https
    #[arg(long, global = true, env = "STRAIGHTWAY_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(Box<serve::Serve>),
    /// Store a file under a key
    Put(objects::Put),
    /// Fetch an object; an interrupted download is resumed, and its digest verified
    Get(objects::Get),
    /// List objects
    Ls(objects::Ls),
    /// Show an object's description, or without a key the node's statistics
    Stat(objects::Stat),
    /// Remove objects
    Rm(objects::Rm),
    /// Purge objects by key, prefix or tag, or all of them: durable when it returns
    Purge(purge::Purge),
    /// Show what happens on a node as it happens
    Watch(watch::Watch),
    /// Show and change the cluster that a node belongs to
    Cluster(cluster::Cluster),
    /// Check a cache file that no node uses
    Fsck(fsck::Fsck),
    /// Measure a UDP path to another machine: loss, reordering, round trips, rates by size, path MTU
    Probe(probe::Probe),
    /// Put load on a node and measure it: requests and bytes a second, latencies, errors
    Bench(bench::Bench),
}

/// A command's outcome other than success.
#[derive(Debug)]
enum Failure {
    /// Told as an error with its causes.
    Error(Box<dyn Error + Send + Sync>),
    /// Told already.
    Told,
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(Box::new(error))
    }
}

/// Parses the arguments of this process and runs its command. Exit code 0: done; 1: failed; 2: wrong usage.
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let outcome = match command {
        Command::Serve(serve) => serve.run(),
        Command::Put(put) => talk(put.run(&global)),
        Command::Get(get) => talk(get.run(&global)),
        Command::Ls(ls) => talk(ls.run(&global)),
        Command::Stat(stat) => talk(stat.run(&global)),
        Command::Rm(rm) => talk(rm.run(&global)),
        Command::Purge(purge) => talk(purge.run(&global)),
        Command::Watch(watch) => talk(watch.run(&global)),
        Command::Cluster(cluster) => talk(cluster.run(&global)),
        Command::Fsck(fsck) => fsck.run(&global),
        Command::Probe(probe) => probe.run(&global),
        Command::Bench(bench) => talk(bench.run(&global)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Error(error)) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(Failure::Error(error)) => {
            let usage = error.is::<ConfigError>()
                || matches!(error.downcast_ref(), Some(ClientError::Url { .. }));
            output::print_error(&*error, global.json);
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// Runs a command that talks to a node. What it still reads from standard input when it is done is not waited for.
fn talk(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}

/// Whoever read our output has had enough: that is not a failure of ours. A connection to a node that broke is.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let source = match error.downcast_ref::<ClientError>() {
        Some(ClientError::File { path, source, .. }) if path.as_os_str() == STANDARD_OUTPUT => {
            Some(source)
        }
        Some(_) => None,
        None => error.downcast_ref::<std::io::Error>(),
    };
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The client for one of a node's listeners.
fn client(url: &str, global: &Global, token_file: Option<&PathBuf>) -> Result<Client, Failure> {
    let token = token_file.map(|path| read_token(path)).transpose()?;
    Ok(Client::new(url, token, global.ca_file.as_deref())?)
}
