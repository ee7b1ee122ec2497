//! HTTP hits: requests per second and server CPU per request, beside nginx, Varnish and Traffic Server.
//!
//! One server at a time on core 0, wrk (`-t1 -c32`) on core 1, loopback, one hot object a size. Rounds are interleaved:
//! every server once, then every server again. A server that answers with other bytes is not timed. Options:
//! `--seconds N` a cell, `--rounds N`, `--sizes A,B,..`, `--only NAME` (may be repeated).
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

const KIB: usize = 1024;
const SIZES: [usize; 9] =
    [KIB, 4 * KIB, 16 * KIB, 63 * KIB, 64 * KIB, 65 * KIB, 256 * KIB, KIB * KIB, 16 * KIB * KIB];
const OURS: &str = "straightway";

fn main() {
    let options = Options::parse();
    install();
    let folder = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let root = folder.path().to_path_buf();
    fs::create_dir_all(root.join("www")).expect("a folder");
    for size in &options.sizes {
        fs::write(root.join(format!("www/{size}")), body(*size)).expect("written");
    }
    let mut results: BTreeMap<(usize, String), Vec<Cell>> = BTreeMap::new();
    for round in 0..options.rounds {
        for name in options.servers() {
            let server = Server::start(&name, &root);
            for size in &options.sizes {
                if !server.serves_the_right_bytes(*size) {
                    eprintln!("{name}: wrong or no bytes at {size}; not timed");
                    continue;
                }
                let cell = server.measure(*size, options.seconds);
                eprintln!("round {round} {name} {size}: {:.0} req/s, {:.1} us CPU, p99 {}", cell.rate, cell.cpu_us, cell.p99);
                results.entry((*size, name.clone())).or_default().push(cell);
            }
        }
    }
    report(&options, &results);
}

struct Options {
    seconds: u64,
    rounds: usize,
    sizes: Vec<usize>,
    only: Vec<String>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self { seconds: 3, rounds: 3, sizes: SIZES.to_vec(), only: Vec::new() };
        let mut args = std::env::args().skip(1);
        while let Some(flag) = args.next() {
            let value = args.next().expect("a value");
            match flag.as_str() {
                "--seconds" => options.seconds = value.parse().expect("a number"),
                "--rounds" => options.rounds = value.parse().expect("a number"),
                "--sizes" => options.sizes = value.split(',').map(|size| size.parse().expect("a size")).collect(),
                "--only" => options.only.push(value),
                other => panic!("unknown option {other}"),
            }
        }
        options
    }

    fn servers(&self) -> Vec<String> {
        let mut all = vec![OURS.to_owned()];
        for sendfile in ["off", "on"] {
            for nopush in ["off", "on"] {
                all.push(format!("nginx sendfile {sendfile} nopush {nopush}"));
            }
        }
        all.extend(["varnish".to_owned(), "trafficserver".to_owned()]);
        all.retain(|name| self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str())));
        all
    }
}

fn has(program: &str) -> bool {
    Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn install() {
    let packages = [("nginx", "nginx-light"), ("varnishd", "varnish"), ("traffic_server", "trafficserver"), ("wrk", "wrk")];
    let missing: Vec<&str> = packages.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return;
    }
    println!("installing {missing:?} (apt-get install); the services they bring are not started");
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    if ours {
        fs::write(policy, "#!/bin/sh\nexit 101\n").expect("root");
        Command::new("chmod").args(["+x", "/usr/sbin/policy-rc.d"]).status().expect("chmod");
    }
    let apt = |args: &[&str]| Command::new("apt-get").args(args).status().is_ok_and(|status| status.success());
    let installed = apt(&["update", "-q"]) && apt(&[&["install", "-y", "-q"][..], &missing].concat());
    if ours {
        fs::remove_file(policy).expect("removed");
    }
    assert!(installed, "install {missing:?} by hand");
}

fn body(size: usize) -> Vec<u8> {
    let mut state = size as u64 | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

struct Cell {
    rate: f64,
    cpu_us: f64,
    p99: String,
}

struct Server {
    children: Vec<Child>,
    measured: u32,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // Asked first: a master that is alive starts a killed worker again.
            let all = tree(child.id());
            signal("-TERM", child.id());
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(3) && !matches!(child.try_wait(), Ok(Some(_))) {
                std::thread::sleep(Duration::from_millis(20));
            }
            for pid in all {
                signal("-9", pid);
            }
            drop(child.wait());
        }
    }
}

fn signal(which: &str, pid: u32) {
    drop(Command::new("kill").args([which, &pid.to_string()]).stderr(Stdio::null()).status());
}

fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0", program]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Server {
    fn start(name: &str, root: &Path) -> Self {
        let server = match name {
            OURS => Self::straightway(root),
            "varnish" => Self::varnish(root),
            "trafficserver" => Self::trafficserver(root),
            nginx => Self::nginx(nginx, root, 18_100),
        };
        server.wait();
        if name == OURS {
            server.put_all(root);
        }
        server
    }

    fn straightway(root: &Path) -> Self {
        let binary = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/straightway");
        let mut child = pinned(binary)
            .args(["serve", "--listen", "127.0.0.1:18101", "--admin", "127.0.0.1:18102", "--size", "1GiB", "--cache"])
            .arg(root.join("bench.cache"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo build --release first");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        while let Some(Ok(line)) = lines.next() {
            if line == "READY" {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        Self { measured: child.id(), children: vec![child], port: 18_101 }
    }

    fn put_all(&self, root: &Path) {
        for file in fs::read_dir(root.join("www")).expect("a folder") {
            let path = file.expect("a file").path();
            let bytes = fs::read(&path).expect("read");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
            let head = format!("PUT /{name} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
            stream.write_all(head.as_bytes()).expect("sent");
            stream.write_all(&bytes).expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answered");
            assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        }
    }

    fn nginx(name: &str, root: &Path, port: u16) -> Self {
        let words: Vec<&str> = name.split(' ').collect();
        let template = include_str!("../../engines/nginx/nginx.conf");
        let conf = template
            .replace("SENDFILE", words[2])
            .replace("NOPUSH", words[4])
            .replace("ROOT", &root.to_string_lossy())
            .replace("PORT", &port.to_string());
        let path = root.join(format!("nginx-{port}.conf"));
        fs::write(&path, conf).expect("written");
        let child = pinned("nginx").arg("-c").arg(&path).spawn().expect("nginx");
        Self { measured: child.id(), children: vec![child], port }
    }

    fn varnish(root: &Path) -> Self {
        let origin = Self::nginx("nginx sendfile on nopush off", root, 18_104);
        origin.wait();
        let vcl = include_str!("../../engines/varnish/default.vcl").replace("ORIGIN", "18104");
        fs::write(root.join("default.vcl"), vcl).expect("written");
        let child = pinned("varnishd")
            .args(["-F", "-a", "127.0.0.1:18103", "-s", "malloc,512m", "-p", "thread_pools=1", "-p", "thread_pool_min=40"])
            .args(["-p", "workspace_client=128k", "-n"])
            .arg(root.join("varnish"))
            .arg("-f")
            .arg(root.join("default.vcl"))
            .spawn()
            .expect("varnishd");
        let mut origin = origin;
        let mut children = std::mem::take(&mut origin.children);
        let measured = child.id();
        children.push(child);
        Self { measured, children, port: 18_103 }
    }

    fn trafficserver(root: &Path) -> Self {
        let origin = Self::nginx("nginx sendfile on nopush off", root, 18_104);
        origin.wait();
        let conf = root.join("ats");
        fs::create_dir_all(&conf).expect("a folder");
        for file in fs::read_dir("/etc/trafficserver").expect("installed") {
            let path = file.expect("a file").path();
            if path.is_file() {
                fs::copy(&path, conf.join(path.file_name().expect("a name"))).expect("copied");
            }
        }
        let records = include_str!("../../engines/trafficserver/records.config").replace("PORT", "18105");
        fs::write(conf.join("records.config"), records).expect("written");
        fs::write(conf.join("remap.config"), "map http://127.0.0.1:18105/ http://127.0.0.1:18104/\n").expect("written");
        let place = |name: &str| {
            let folder = root.join(format!("ats-{name}"));
            fs::create_dir_all(&folder).expect("a folder");
            folder.display().to_string()
        };
        let (run, log, cache) = (place("run"), place("log"), place("cache"));
        fs::write(conf.join("storage.config"), format!("{cache} 512M\n")).expect("written");
        let runroot = format!(
            "prefix: /usr\nexec_prefix: /usr\nbindir: /usr/bin\nsbindir: /usr/sbin\nsysconfdir: {}\ndatadir: {cache}\n\
             includedir: /usr/include\nlibdir: /usr/lib\nlibexecdir: /usr/lib/trafficserver/modules\nlocalstatedir: {run}\n\
             runtimedir: {run}\nlogdir: {log}\nmandir: /usr/share/man\ninfodir: /usr/share/info\ncachedir: {cache}\n",
            conf.display()
        );
        fs::write(root.join("runroot.yaml"), runroot).expect("written");
        let child = pinned("traffic_server").env("TS_RUNROOT", root).spawn().expect("traffic_server");
        let mut origin = origin;
        let mut children = std::mem::take(&mut origin.children);
        let measured = child.id();
        children.push(child);
        Self { measured, children, port: 18_105 }
    }

    /// Waits until it accepts; at most 20 seconds.
    fn wait(&self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "nobody listens on {}", self.port);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn serves_the_right_bytes(&self, size: usize) -> bool {
        // Twice: the second answer is a hit everywhere.
        (0..2).all(|_| self.get(size).is_some_and(|bytes| Sha256::digest(&bytes) == Sha256::digest(body(size))))
    }

    fn get(&self, size: usize) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let request = format!("GET /{size} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n\r\n", self.port);
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        answer.starts_with(b"HTTP/1.1 200").then(|| answer.split_off(end + 4))
    }

    fn measure(&self, size: usize, seconds: u64) -> Cell {
        let run = |seconds: u64| {
            let url = format!("http://127.0.0.1:{}/{size}", self.port);
            let wrk = Command::new("taskset")
                .args(["-c", "1", "wrk", "-t1", "-c32", "--latency", &format!("-d{seconds}s"), &url])
                .output()
                .expect("wrk");
            String::from_utf8_lossy(&wrk.stdout).into_owned()
        };
        run(1);
        let before = cpu_ticks(self.measured);
        let text = run(seconds);
        let ticks = cpu_ticks(self.measured) - before;
        let field = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
        let requests: f64 = field("requests in").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        let rate: f64 = field("Requests/sec").split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        let p99 = field("99%").split_whitespace().last().unwrap_or("-").to_owned();
        // A tick is 10 ms on every Linux in use.
        Cell { rate, cpu_us: ticks as f64 * 10_000.0 / requests.max(1.0), p99 }
    }
}

/// A process and all below it.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while next < all.len() {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", all[next])).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        next += 1;
    }
    all
}

fn cpu_ticks(root: u32) -> u64 {
    let ticks = |pid: u32| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    tree(root).into_iter().filter_map(ticks).sum()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(options: &Options, results: &BTreeMap<(usize, String), Vec<Cell>>) {
    let mut csv = String::from("size,server,round,requests_per_second,cpu_us_per_request,p99\n");
    for ((size, name), cells) in results {
        for (round, cell) in cells.iter().enumerate() {
            csv += &format!("{size},{name},{round},{:.0},{:.2},{}\n", cell.rate, cell.cpu_us, cell.p99);
        }
    }
    let record = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("record");
    fs::create_dir_all(&record).expect("a folder");
    let day = Command::new("date").arg("+%F").output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    fs::write(record.join(format!("{}-http.csv", day.expect("a date"))), csv).expect("written");
    println!("| size | ours: req/s | CPU us/req | p99 | best rival: req/s | CPU us/req | ratio req/s | ratio CPU |");
    println!("|---|---|---|---|---|---|---|---|");
    for size in &options.sizes {
        let rows: Vec<(&String, f64, f64, &str)> = results
            .iter()
            .filter(|((s, _), _)| s == size)
            .map(|((_, name), cells)| {
                let p99 = cells.last().map_or("-", |cell| cell.p99.as_str());
                (name, median(cells.iter().map(|c| c.rate)), median(cells.iter().map(|c| c.cpu_us)), p99)
            })
            .collect();
        let Some(ours) = rows.iter().find(|row| row.0 == OURS) else { continue };
        let rivals = || rows.iter().filter(|row| row.0 != OURS);
        let Some(fastest) = rivals().max_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
        let Some(cheapest) = rivals().min_by(|a, b| a.2.total_cmp(&b.2)) else { continue };
        println!(
            "| {} KiB | {:.0} | {:.1} | {} | {:.0} ({}) | {:.1} ({}) | {:.2} | {:.2} |",
            size / KIB, ours.1, ours.2, ours.3, fastest.1, fastest.0, cheapest.2, cheapest.0, ours.1 / fastest.1, ours.2 / cheapest.2
        );
    }
    println!();
    for ((size, name), cells) in results {
        println!("{size:>9} {name:32} {:>9.0} req/s {:>9.1} us", median(cells.iter().map(|c| c.rate)), median(cells.iter().map(|c| c.cpu_us)));
    }
}
