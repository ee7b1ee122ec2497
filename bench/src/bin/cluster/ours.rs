//! `straightway serve`, three times or once.
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use straightway::client::Client;

use crate::Processes;
use crate::load::Target;

fn serve(folder: &Path, name: &str, how: &[&str]) -> (Child, String, String) {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/straightway");
    let binary = std::env::var("STRAIGHTWAY").unwrap_or_else(|_| built.to_owned());
    let mut child = Command::new(binary)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--size", "1GiB", "--node-name", name])
        .arg("--cache")
        .arg(folder.join(format!("{name}.cache")))
        .args(how)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("cargo build --release first");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (mut data, mut admin) = (String::new(), String::new());
    while let Some(Ok(line)) = lines.next() {
        let url = || line.split_whitespace().find(|word| word.starts_with("http://")).unwrap_or_default();
        let url = || url().trim_end_matches('/').to_owned();
        match line.as_str() {
            "READY" => break,
            _ if line.starts_with("listening data") => data = url(),
            _ if line.starts_with("listening admin") => admin = url(),
            _ => {}
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
    (child, data, admin)
}

async fn ask(admin: &str, method: Method, path: &str) -> Option<serde_json::Value> {
    let client = Client::new(admin, None, None).expect("a URL");
    let reply = client.send(method, path, HeaderMap::new(), None).await.ok()?;
    serde_json::from_str(&reply.text(1 << 20).await).ok()
}

pub async fn alone(folder: &Path) -> (Processes, Target) {
    let (child, data, _) = serve(folder, "alone", &[]);
    (Processes(vec![child]), Target::Http(data))
}

/// Three voters; what is sent to goes to the leader.
pub async fn cluster(folder: &Path) -> (Processes, Target) {
    let (first, data, admin) = serve(folder, "n0", &["--cluster", "--copies", "3"]);
    let mut processes = Processes(vec![first]);
    let mut nodes = vec![(data, admin.clone())];
    for n in 1..3 {
        let binary = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/straightway");
        let binary = std::env::var("STRAIGHTWAY").unwrap_or_else(|_| binary.to_owned());
        let told = Command::new(binary).args(["--admin-url", &admin, "cluster", "ticket", "--json"]).output().expect("a ticket");
        let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let ticket = told["ticket"].as_str().expect("a ticket");
        let (child, data, admin) = serve(folder, &format!("n{n}"), &["--join", ticket, "--copies", "3"]);
        processes.0.push(child);
        nodes.push((data, admin));
    }
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "no cluster of three");
        for (data, admin) in &nodes {
            let Some(status) = ask(admin, Method::GET, "/api/cluster").await else { continue };
            let voters = status["members"].as_array().map_or(0, |members| members.iter().filter(|member| member["role"] != "learner").count());
            if voters == 3 && status["leader"].is_u64() && status["leader"] == status["node"] {
                return (processes, Target::Http(data.clone()));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
