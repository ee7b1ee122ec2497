//! A member with nothing but its log and catalogue: a cluster, a store in memory, and a socket that takes commands.
use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use straightway_cluster::catalogue::Condition;
use straightway_cluster::memory::{MemoryStore, NoObserver};
use straightway_cluster::{Cluster, ClusterConfig, JoinRole, Start};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::Target;
use crate::{Processes, VALUE};

/// This program as a member: `node FOLDER [TICKET]`.
pub fn run() {
    let mut args = std::env::args().skip(2);
    let folder = args.next().expect("a folder");
    let ticket = args.next();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let config = ClusterConfig {
            data_dir: folder.into(),
            start: match &ticket {
                Some(ticket) => Start::Join(Box::new(ticket.parse().expect("a ticket"))),
                None => Start::First,
            },
            listen: "127.0.0.1:0".parse().expect("an address"),
            advertise: Vec::new(),
            discover: false,
            name: "bench".to_owned(),
            http: String::new(),
            copies: 3,
            repair_after: std::time::Duration::from_mins(10),
            log_entries: 10_000,
            compress: None,
        };
        let cluster = Cluster::start(config, Arc::new(MemoryStore::new()), Arc::new(NoObserver)).await.expect("a member");
        if ticket.is_none() {
            assert!(cluster.ready(Duration::from_secs(10)).await, "ready");
            println!("ticket {}", cluster.ticket(Duration::from_secs(60), JoinRole::Voter).await.expect("a ticket"));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("front {}", listener.local_addr().expect("an address"));
        let watched = cluster.clone();
        tokio::spawn(async move {
            loop {
                let status = watched.status();
                let voters = status.members.iter().filter(|member| member.role != "learner").count();
                if voters == 3 && status.leader == Some(status.node) {
                    println!("leads three");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take(stream, cluster.clone()));
        }
    });
}

async fn take(mut stream: TcpStream, cluster: Cluster) {
    drop(stream.set_nodelay(true));
    let mut key = vec![0; VALUE];
    while stream.read_exact(&mut key).await.is_ok() {
        let text = String::from_utf8_lossy(&key);
        // No object has that version: the command is committed and applied, and takes nothing away.
        let outcome = cluster.remove(&text, Condition::Version(u64::MAX)).await;
        let good = matches!(outcome, Ok(None));
        if !good {
            eprintln!("{outcome:?}");
        }
        if stream.write_all(&[u8::from(good)]).await.is_err() {
            return;
        }
    }
}

fn start(folder: &Path, ticket: Option<&str>) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .arg("node")
        .arg(folder)
        .args(ticket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, lines)
}

fn next(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) -> String {
    loop {
        let line = lines.next().expect("it runs").expect("text");
        if let Some(rest) = line.strip_prefix(word) {
            return rest.trim().to_owned();
        }
    }
}

/// Three voters, the first of which leads.
pub fn cluster(folder: &Path) -> (Processes, Target) {
    let (first, mut lines) = start(&folder.join("n0"), None);
    let mut processes = Processes(vec![first]);
    let ticket = next(&mut lines, "ticket");
    let front: SocketAddr = next(&mut lines, "front").parse().expect("an address");
    for n in 1..3 {
        let (child, mut lines) = start(&folder.join(format!("n{n}")), Some(&ticket));
        processes.0.push(child);
        next(&mut lines, "front");
        std::thread::spawn(move || lines.for_each(drop));
    }
    next(&mut lines, "leads three");
    std::thread::spawn(move || lines.for_each(drop));
    (processes, Target::Front(front))
}
