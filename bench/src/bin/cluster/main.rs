//! Committed writes of a cluster of three on one machine, beside etcd.
//!
//! One cluster at a time, started anew for every round; rounds are interleaved: every contestant once, then every one
//! again. All write to the same disk and flush before they answer; clients (this process) talk to the leader, one request
//! under way each. Contestants:
//!
//! - `straightway PUT`: `straightway serve` three times, PUT over HTTP/1.1: the bytes are on a majority and on their way to the third node, the entry
//!   of the catalogue is committed.
//! - `straightway commit`: this program three times, with a cluster and a store in memory: a command of the payload's size is
//!   committed and applied, but stores nothing (a removal whose condition never holds). The log alone, as it were.
//! - `etcd put`: Debian's etcd three times, `Put` over gRPC.
//!
//! Then objects of 1 MiB and 16 MiB, three copies, beside a node that is alone. Options: `--seconds N` a cell, `--rounds N`,
//! `--clients A,B,..`, `--only NAME` (may be repeated), `--etcd-clients-a-connection N`.
mod etcd;
mod load;
mod node;
mod ours;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use load::{Cell, Target};

/// Bytes of a value.
const VALUE: usize = 1024;
/// Keys that are written to.
const KEYS: usize = 10_000;
const CONTESTANTS: [&str; 3] = ["straightway PUT", "straightway commit", "etcd put"];
/// Bytes of an object, and clients.
const OBJECTS: [(usize, usize); 2] = [(1 << 20, 8), (16 << 20, 4)];

struct Options {
    seconds: f64,
    rounds: usize,
    clients: Vec<usize>,
    only: Vec<String>,
    share: usize,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self { seconds: 2.0, rounds: 3, clients: vec![1, 16, 64, 256], only: Vec::new(), share: 16 };
        let mut args = std::env::args().skip(1);
        while let Some(flag) = args.next() {
            let value = args.next().expect("a value");
            match flag.as_str() {
                "--seconds" => options.seconds = value.parse().expect("a number"),
                "--rounds" => options.rounds = value.parse().expect("a number"),
                "--clients" => options.clients = value.split(',').map(|n| n.parse().expect("a number")).collect(),
                "--only" => options.only.push(value),
                "--etcd-clients-a-connection" => options.share = value.parse().expect("a number"),
                other => panic!("unknown option {other}"),
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("node") => return node::run(),
        // So that `STRAIGHTWAY=bench/target/release/cluster` measures the library as it was built with this program.
        Some("serve" | "--admin-url") => {
            straightway::cli::main();
            return;
        }
        _ => {}
    }
    let options = Options::parse();
    etcd::install();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(compare(&options));
}

/// The processes of a contestant; ended when dropped.
pub struct Processes(pub Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Processes {
    /// Processor time of all of them so far, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let ticks = |pid: u32| -> Option<u64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        };
        self.0.iter().filter_map(|child| ticks(child.id())).sum()
    }
}

async fn start(name: &str, folder: &Path, options: &Options) -> (Processes, Target) {
    match name {
        "straightway PUT" => ours::cluster(folder).await,
        "straightway commit" => node::cluster(folder),
        "straightway alone" => ours::alone(folder).await,
        _ => etcd::cluster(folder, options.share).await,
    }
}

async fn compare(options: &Options) {
    let mut writes: BTreeMap<(usize, &str), Vec<Cell>> = BTreeMap::new();
    let mut objects: BTreeMap<(usize, &str), Vec<Cell>> = BTreeMap::new();
    for round in 0..options.rounds {
        for name in CONTESTANTS.into_iter().filter(|name| options.wants(name)) {
            let folder = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
            let (processes, target) = start(name, folder.path(), options).await;
            for clients in &options.clients {
                let cell = measure(&processes, &target, *clients, VALUE, options.seconds).await;
                say(round, name, &format!("{clients} clients"), &cell);
                writes.entry((*clients, name)).or_default().push(cell);
            }
        }
        for name in ["straightway PUT", "straightway alone"].into_iter().filter(|_| options.wants("objects")) {
            let folder = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
            let (processes, target) = start(name, folder.path(), options).await;
            for (size, clients) in OBJECTS {
                let cell = measure(&processes, &target, clients, size, options.seconds).await;
                say(round, name, &format!("{} MiB", size >> 20), &cell);
                objects.entry((size, name)).or_default().push(cell);
            }
        }
    }
    report(options, &writes, &objects);
}

async fn measure(processes: &Processes, target: &Target, clients: usize, size: usize, seconds: f64) -> Cell {
    let warm = Duration::from_secs_f64(seconds / 4.0);
    load::run(target, clients, size, warm).await;
    let (before, begun) = (processes.ticks(), Instant::now());
    let mut cell = load::run(target, clients, size, Duration::from_secs_f64(seconds)).await;
    cell.rate = cell.done as f64 / begun.elapsed().as_secs_f64();
    // A tick is 10 ms on every Linux in use.
    cell.cpu_us = (processes.ticks() - before) as f64 * 10_000.0 / (cell.done as f64).max(1.0);
    cell
}

fn say(round: usize, name: &str, what: &str, cell: &Cell) {
    println!(
        "round {round} {name:18} {what:11}: {:8.0} /s, p50 {:6.2} ms, p99 {:6.2} ms, {:6.0} us CPU, {} failed{}",
        cell.rate,
        cell.p50_ms,
        cell.p99_ms,
        cell.cpu_us,
        cell.failed,
        cell.example.as_ref().map(|words| format!(" ({words})")).unwrap_or_default()
    );
}

fn median(cells: &[Cell], of: impl Fn(&Cell) -> f64) -> f64 {
    let mut values: Vec<f64> = cells.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(options: &Options, writes: &BTreeMap<(usize, &str), Vec<Cell>>, objects: &BTreeMap<(usize, &str), Vec<Cell>>) {
    println!("\n| clients | contestant | writes/s | p50 ms | p99 ms | server CPU us | failed | writes/s, of etcd's |");
    println!("|---|---|---|---|---|---|---|---|");
    for clients in &options.clients {
        let etcd = writes.get(&(*clients, "etcd put")).map_or(f64::NAN, |cells| median(cells, |cell| cell.rate));
        for name in CONTESTANTS {
            let Some(cells) = writes.get(&(*clients, name)) else { continue };
            let rate = median(cells, |cell| cell.rate);
            println!(
                "| {clients} | {name} | {rate:.0} | {:.2} | {:.2} | {:.0} | {} | {:.2} |",
                median(cells, |cell| cell.p50_ms),
                median(cells, |cell| cell.p99_ms),
                median(cells, |cell| cell.cpu_us),
                cells.iter().map(|cell| cell.failed).sum::<u64>(),
                rate / etcd
            );
        }
    }
    println!("\n| object | clients | where | MB/s | p50 ms | p99 ms | server CPU ms | failed |");
    println!("|---|---|---|---|---|---|---|---|");
    for (size, clients) in OBJECTS {
        for (name, told) in [("straightway PUT", "three nodes, three copies"), ("straightway alone", "one node")] {
            let Some(cells) = objects.get(&(size, name)) else { continue };
            println!(
                "| {} MiB | {clients} | {told} | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
                size >> 20,
                median(cells, |cell| cell.rate * size as f64 / 1e6),
                median(cells, |cell| cell.p50_ms),
                median(cells, |cell| cell.p99_ms),
                median(cells, |cell| cell.cpu_us / 1000.0),
                cells.iter().map(|cell| cell.failed).sum::<u64>()
            );
        }
    }
}
