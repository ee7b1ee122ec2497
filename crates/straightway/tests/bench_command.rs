//! `straightway bench` against a real node: what it counts, what it leaves behind, how it ends.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod process;

use std::net::SocketAddr;
use std::process::{Command, Output};

use process::Node;
use serde_json::Value;

struct Setup {
    _dir: tempfile::TempDir,
    node: Node,
}

impl Setup {
    fn new(extra: &[&str]) -> Self {
        let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder");
        let args = [&["--size", "64MiB"], extra].concat();
        let node = Node::start(&dir.path().join("bench.cache"), &args);
        Self { _dir: dir, node }
    }

    fn bench(&self, args: &[&str]) -> Output {
        bench(self.node.data, args)
    }

    fn objects(&self) -> u64 {
        let mut admin = process::Client::connect(self.node.admin).expect("the node accepts");
        let answer = admin.get("/api/stats").expect("answered");
        let stats: Value = serde_json::from_slice(&answer.body).expect("JSON");
        stats["cache"]["objects"].as_u64().expect("a number")
    }
}

fn bench(data: SocketAddr, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_straightway"))
        .args(["--url", &format!("http://{data}"), "bench"])
        .args(args)
        .output()
        .expect("the program runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

const SMALL: [&str; 8] =
    ["--requests", "200", "--connections", "4", "--keys", "10", "--size", "70KiB"];

#[test]
fn every_request_is_counted_and_the_objects_are_removed() {
    let setup = Setup::new(&[]);
    for (mix, gets, puts) in
        [("get", 200..=200, 0..=0), ("put", 0..=0, 200..=200), ("50:50", 20..=180, 20..=180)]
    {
        let output = setup.bench(&[&SMALL[..], &["--mix", mix, "--json"]].concat());
        assert!(output.status.success(), "{mix}: {}", text(&output));
        let told = json(&output);
        let number = |value: &Value| value.as_u64().expect("a number");
        let (get, put) = (number(&told["get"]["requests"]), number(&told["put"]["requests"]));
        assert!(gets.contains(&get) && puts.contains(&put), "{mix}: {told}");
        assert_eq!((get + put, number(&told["requests"])), (200, 200), "{mix}");
        assert_eq!(number(&told["bytes"]), 200 * 70 * 1024, "{mix}");
        assert_eq!(
            (number(&told["failed"]), &told["errors"]),
            (0, &serde_json::json!({})),
            "{mix}"
        );
        let counted = told["histogram"].as_array().expect("an array").iter();
        assert_eq!(counted.map(|range| number(&range["count"])).sum::<u64>(), 200, "{mix}");
        let time = |name: &str| told["latency_us"][name].as_f64().expect("a number");
        assert!(time("p50") > 0.0 && time("p50") <= time("p90"), "{mix}: {told}");
        assert!(time("p90") <= time("p99") && time("p99") <= time("max"), "{mix}: {told}");
        assert_eq!(setup.objects(), 0, "{mix}");
    }
}

#[test]
fn people_see_a_table_and_may_keep_the_objects() {
    let setup = Setup::new(&[]);
    let prefix = "mine and/ключ ";
    let output = setup.bench(&[&SMALL[..], &["--keep", "--prefix", prefix]].concat());
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    for words in ["4 connections, 10 objects of 70.0 KiB", "requests/s", "p99 us", "GET", "█"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains("PUT") && !told.contains("failed"), "{told}");
    assert_eq!(setup.objects(), 10);
    assert!(setup.bench(&[&SMALL[..], &["-q", "--prefix", prefix]].concat()).stdout.is_empty());
    assert_eq!(setup.objects(), 0);
}

#[test]
fn failures_are_told_and_end_with_one() {
    let setup = Setup::new(&["--max-object", "64KiB"]);
    let refused = setup.bench(&[&SMALL[..], &["--mix", "put", "--json"]].concat());
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let told = json(&refused);
    assert_eq!((&told["failed"], &told["errors"]), (&200.into(), &serde_json::json!({"413": 200})));
    assert!(told["example"].as_str().is_some_and(|words| words.contains("413")), "{told}");
    let table = setup.bench(&[&SMALL[..], &["--mix", "put"]].concat());
    assert!(text(&table).contains("one of them: PUT /bench/"), "{}", text(&table));
    // What is to be read must be there first.
    let filled = setup.bench(&SMALL);
    assert_eq!(filled.status.code(), Some(1));
    assert!(
        text(&filled).contains("error: PUT") && text(&filled).contains("413"),
        "{}",
        text(&filled)
    );
    let nobody = bench(SocketAddr::from(([127, 0, 0, 1], 1)), &SMALL);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody).contains("is it running"), "{}", text(&nobody));
}

#[test]
fn wrong_usage_ends_with_two() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for args in [
        &["--mix", "0:0"][..],
        &["--mix", "delete"],
        &["--connections", "0"],
        &["--keys", "0"],
        &["--requests", "0"],
        &["--size", "2GiB"],
        &["--duration", "ten"],
        &["--requests", "5", "--duration", "1s"],
    ] {
        let output = bench(nobody, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
    }
}
