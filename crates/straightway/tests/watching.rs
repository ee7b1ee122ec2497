//! What people and programs see of a running node: `watch`, `purge`, the access log, spans.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod process;

use std::io::{BufRead, BufReader};
#[cfg(feature = "otel")]
use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use process::Node;
use serde_json::Value;

struct Setup {
    _dir: tempfile::TempDir,
    node: Node,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let node = Node::start(&dir.path().join("c"), &["--size", "64MiB", "--node-name", "here"]);
        Self { _dir: dir, node }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_straightway"));
        command.args(["--admin-url", &format!("http://{}", self.node.admin)]).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program runs")
    }

    fn put(&self, key: &str, tags: &str) {
        let headers: &[(&str, &str)] = if tags.is_empty() { &[] } else { &[("Cache-Tag", tags)] };
        let answer = self.node.client().request("PUT", &format!("/{key}"), headers, Some(b"body"));
        assert_eq!(answer.expect("stored").status, 201, "{key}");
    }

    fn status(&self, key: &str) -> u16 {
        self.node.client().get(&format!("/{key}")).expect("an answer").status
    }
}

/// A `watch` that runs; killed when dropped.
struct Watch(Child, BufReader<ChildStdout>);

impl Watch {
    /// From the first event on, so that nothing depends on when it has connected.
    fn start(setup: &Setup, args: &[&str]) -> Self {
        let mut command = setup.command(&["watch", "--from", "1"]);
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("it runs");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        Self(child, said)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn watch_shows_events_as_lines_and_as_json_in_both_encodings() {
    let setup = Setup::new();
    setup.put("models/1", "red");
    setup.put("media/1", "");
    for encoding in ["rkyv", "json"] {
        let mut lines = Watch::start(&setup, &["--encoding", encoding]);
        let line = lines.line();
        assert!(line.contains("stored   models/1") && line.ends_with("#red"), "{line}");
        assert!(lines.line().contains("stored   media/1"));
        let mut json = Watch::start(&setup, &["media/", "--json", "--encoding", encoding]);
        let event: Value = serde_json::from_str(&json.line()).expect("JSON");
        assert_eq!(
            (&event["key"], &event["kind"], &event["offset"]),
            (&"media/1".into(), &"stored".into(), &2.into())
        );
        assert_eq!((&event["node"], &event["len"]), (&"here".into(), &4.into()));
    }
    let ended = setup.run(&["watch", "--from", "1", "--count", "2"]);
    assert_eq!(
        (ended.status.code(), String::from_utf8_lossy(&ended.stdout).lines().count()),
        (Some(0), 2)
    );
    let wrong = setup.run(&["watch", "--kind", "stolen"]);
    assert_eq!(wrong.status.code(), Some(2));
    let nobody = Command::new(env!("CARGO_BIN_EXE_straightway"))
        .args(["--admin-url", "http://127.0.0.1:1", "watch"])
        .output()
        .expect("the program runs");
    assert_eq!(nobody.status.code(), Some(1));
}

#[test]
fn purge_by_key_prefix_tag_and_all_from_the_command_line_and_http() {
    let setup = Setup::new();
    for (key, tags) in [("a/1", "red"), ("a/2", ""), ("b/1", "red"), ("b/2", ""), ("c", "")] {
        setup.put(key, tags);
    }
    let purged = |args: &[&str]| {
        let output = setup.run(&[&["purge", "--json"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["purged"]
            .as_u64()
            .expect("a number")
    };
    assert_eq!(purged(&["--tag", "red"]), 2);
    assert_eq!((setup.status("a/1"), setup.status("b/1"), setup.status("a/2")), (404, 404, 200));
    assert_eq!(purged(&["--prefix", "a/"]), 1);
    assert_eq!(purged(&["--key", "b/2"]), 1);
    assert_eq!(purged(&["--key", "b/2"]), 0);
    let mut client = setup.node.client();
    let answer = client.request("PURGE", "/c", &[], None).expect("an answer");
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{\"purged\":1}"[..]));
    setup.put("d", "");
    assert_eq!(purged(&["--all"]), 1);
    for args in [&["purge"][..], &["purge", "--all", "--key", "x"]] {
        assert_eq!(setup.run(args).status.code(), Some(2), "{args:?}");
    }
    let told = setup.run(&["purge", "--prefix", "nothing/"]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "0 objects purged\n");
    for (body, origin, status) in [
        (&b"{}"[..], "", 400),
        (b"{\"key\": \"a\", \"all\": true}", "", 400),
        (b"{\"what\": 1}", "", 400),
        (b"nonsense", "", 400),
        (b"{\"all\": true}", "http://evil.example", 403),
    ] {
        let mut admin = process::Client::connect(setup.node.admin).expect("connected");
        let headers: &[(&str, &str)] = if origin.is_empty() { &[] } else { &[("Origin", origin)] };
        let answer = admin.request("POST", "/api/purge", headers, Some(body)).expect("an answer");
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn requests_are_logged_as_text_and_as_json() {
    for format in ["text", "json"] {
        let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_straightway"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--size",
                "64MiB",
                "--access-log",
                format,
            ])
            .arg("--cache")
            .arg(dir.path().join("c"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut said =
            BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let data =
            said.find_map(|line| line.strip_prefix("listening data http://").map(str::to_owned));
        said.find(|line| line == "READY");
        let mut client =
            process::Client::connect(data.expect("a line").parse().expect("an address"))
                .expect("connected");
        assert_eq!(client.put("/a%20b", b"x").expect("stored"), 201);
        assert_eq!(client.get("/missing").expect("an answer").status, 404);
        let mut log =
            BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let mut next = || {
            log.find(|line| line.contains("/a%20b") || line.contains("/missing")).expect("a line")
        };
        if format == "text" {
            let line = next();
            assert!(
                line.starts_with("127.0.0.1 - - [")
                    && line.contains("\"PUT /a%20b HTTP/1.1\" 201 "),
                "{line}"
            );
            assert!(next().contains("\"GET /missing HTTP/1.1\" 404 "));
        } else {
            let line: Value = serde_json::from_str(&next()).expect("JSON");
            assert_eq!(
                (&line["method"], &line["target"], &line["status"]),
                (&"PUT".into(), &"/a%20b".into(), &201.into())
            );
            assert!(
                line["seconds"].is_f64()
                    && line["complete"] == true
                    && line["bytes"].as_u64() > Some(0)
            );
        }
        drop(child.kill());
        drop(child.wait());
    }
}

/// A collector that takes one batch of spans.
#[cfg(feature = "otel")]
#[test]
fn spans_reach_a_collector() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_straightway"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--size",
            "64MiB",
            "--cache",
        ])
        .arg(dir.path().join("c"))
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", collector.local_addr().expect("an address")),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut said =
        BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let data = said.find_map(|line| line.strip_prefix("listening data http://").map(str::to_owned));
    said.find(|line| line == "READY");
    let mut client = process::Client::connect(data.expect("a line").parse().expect("an address"))
        .expect("connected");
    assert_eq!(client.put("/traced", b"x").expect("stored"), 201);
    // Spans are sent in batches, the last one when the node ends.
    let terminated = Command::new("kill").arg(child.id().to_string()).status();
    assert!(terminated.expect("kill runs").success());
    let (mut stream, _) = collector.accept().expect("the collector is called");
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !request.windows(6).any(|window| window == b"/trace")
        || !request.windows(7).any(|window| window == b"request")
    {
        let read = stream.read(&mut chunk).expect("spans");
        assert!(read > 0, "{}", String::from_utf8_lossy(&request));
        request.extend_from_slice(&chunk[..read]);
    }
    assert!(
        request.starts_with(b"POST /v1/traces"),
        "{}",
        String::from_utf8_lossy(&request[..100])
    );
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("answered");
    assert!(child.wait().expect("it ends").success());
}
