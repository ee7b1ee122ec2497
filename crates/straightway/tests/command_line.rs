//! The program's commands against a real node: what they print, what they exit with, what they do when things break.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod process;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use process::{Node, body_of};
use serde_json::Value;

const MIB: usize = 1024 * 1024;

struct Setup {
    dir: tempfile::TempDir,
    node: Node,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder");
        let node = Node::start(&dir.path().join("cli.cache"), &["--size", "64MiB"]);
        Self { dir, node }
    }

    fn run(&self, args: &[&str]) -> Output {
        run(self.dir.path(), self.node.data, self.node.admin, args)
    }
}

fn run(dir: &Path, data: SocketAddr, admin: SocketAddr, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_straightway"))
        .args(["--url", &format!("http://{data}"), "--admin-url", &format!("http://{admin}")])
        .args(args)
        .current_dir(dir)
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

#[test]
fn bodies_of_every_kind_go_in_and_come_back() {
    let setup = Setup::new();
    let file = setup.dir.path().join("body.bin");
    for (key, len) in
        [("empty", 0), ("one", 1), ("dir/large.tar", 5 * MIB + 17), ("ключ с пробелом?#%", 70_000)]
    {
        let body = body_of(key, 1, len);
        std::fs::write(&file, &body).expect("written");
        let put = setup.run(&["put", "body.bin", key, "--json"]);
        assert!(put.status.success(), "{}", text(&put));
        assert_eq!(json(&put)["bytes"], len as u64);
        let got = setup.run(&["get", key, "-o", "back.bin", "--json"]);
        assert!(got.status.success(), "{}", text(&got));
        assert_eq!(json(&got)["sha256"], json(&put)["sha256"]);
        assert!(std::fs::read(setup.dir.path().join("back.bin")).expect("read") == body);
        assert!(setup.run(&["get", key]).stdout == body, "{key} to standard output");
    }
    let listed = json(&setup.run(&["ls", "--json"]));
    let keys: Vec<&str> =
        listed.as_array().expect("an array").iter().filter_map(|o| o["key"].as_str()).collect();
    assert_eq!(keys, ["dir/large.tar", "empty", "one", "ключ с пробелом?#%"]);
    assert_eq!(setup.run(&["ls", "dir/"]).stdout, b"dir/large.tar\n");
    let described = json(&setup.run(&["stat", "dir/large.tar", "--json"]));
    assert_eq!(
        (&described["len"], &described["content_type"]),
        (&(5 * MIB as u64 + 17).into(), &"application/x-tar".into())
    );
    let statistics = json(&setup.run(&["stat", "--json"]));
    assert_eq!(statistics["cache"]["objects"], 4);
    assert!(statistics["pools"].as_object().is_some_and(|pools| !pools.is_empty()));
    assert!(setup.run(&["rm", "one", "empty"]).status.success());
    let again = setup.run(&["rm", "one"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("one"), "{}", text(&again));
    assert_eq!(setup.run(&["get", "one"]).status.code(), Some(1));
}

#[test]
fn exit_codes_and_messages_tell_what_to_do() {
    let setup = Setup::new();
    let dir = setup.dir.path();
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let unreachable = run(dir, nobody, nobody, &["ls"]);
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(text(&unreachable).contains("is it running"), "{}", text(&unreachable));
    let usage = setup.run(&["put"]);
    assert_eq!(usage.status.code(), Some(2));
    let no_file = setup.run(&["put", "missing.bin"]);
    assert_eq!(no_file.status.code(), Some(1));
    assert!(text(&no_file).contains("missing.bin"));
    let busy = setup.node.data.to_string();
    let serve = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_straightway"))
            .arg("serve")
            .args(args)
            .args(["--admin", "127.0.0.1:0"])
            .current_dir(dir)
            .output()
            .expect("the program runs");
        (output.status.code(), text(&output))
    };
    let cases: [(&[&str], i32, &str); 12] = [
        (&["--listen", &busy, "--cache", "other.cache", "--size", "4MiB"], 1, "--listen"),
        (&["--listen", "127.0.0.1:0", "--cache", "cli.cache", "--size", "64MiB"], 1, "in use"),
        (
            &["--listen", "127.0.0.1:0", "--cache", "/proc/none/c", "--size", "4MiB"],
            1,
            "/proc/none/c",
        ),
        (&["--listen", "127.0.0.1:0", "--cache", "z.cache", "--size", "0"], 1, "cache size is 0"),
        (
            &["--listen", "127.0.0.1:0", "--cache", "z.cache", "--size", "4194305"],
            1,
            "multiple of the block size",
        ),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--cache",
                "z.cache",
                "--size",
                "4MiB",
                "--block-size",
                "3000",
            ],
            1,
            "power of two",
        ),
        (&["--listen", "127.0.0.1:0", "--cache", "z.cache", "--size", "4XB"], 2, "4XB"),
        (&["--listen", "nowhere"], 2, "nowhere"),
        (&["--io", "magic"], 2, "io_uring or portable"),
        (&["--listen", "0.0.0.0:0", "--cache", "z.cache", "--size", "4MiB"], 1, "--token-file"),
        (&["--config", "missing.toml"], 2, "missing.toml"),
        (&["--tls-cert", "c.pem"], 2, "tls_key"),
    ];
    for (args, code, words) in cases {
        let (status, said) = serve(args);
        assert_eq!(status, Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
    std::fs::write(dir.join("straightway.toml"), "sise = \"4MiB\"\n").expect("written");
    let (status, said) = serve(&[]);
    assert_eq!(status, Some(2));
    assert!(said.contains("sise") && said.contains("straightway.toml"), "{said}");
}

#[test]
fn flags_rule_over_environment_over_file_over_defaults() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(
        dir.path().join("straightway.toml"),
        "size = \"2GiB\"\nttl = \"5m\"\nworkers = 3\n",
    )
    .expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_straightway"))
        .args(["serve", "--print-config", "--size", "4GiB"])
        .env("STRAIGHTWAY_SIZE", "3GiB")
        .env("STRAIGHTWAY_TTL", "7m")
        .current_dir(dir.path())
        .output()
        .expect("the program runs");
    let printed = text(&output);
    for line in ["size = \"4GiB\"", "ttl = \"7m\"", "workers = \"3\""] {
        assert!(printed.contains(line), "{printed}");
    }
}

#[test]
fn fsck_finds_what_is_damaged_and_says_so_by_its_exit_code() {
    let setup = Setup::new();
    for key in ["a", "b"] {
        std::fs::write(setup.dir.path().join("body.bin"), body_of(key, 1, 300_000))
            .expect("written");
        assert!(setup.run(&["put", "body.bin", key]).status.success());
    }
    let busy = setup.run(&["fsck", "cli.cache"]);
    assert_eq!(busy.status.code(), Some(1), "a node uses it: {}", text(&busy));
    let Setup { dir, node } = setup;
    let nowhere = node.data;
    node.kill();
    let fsck = || run(dir.path(), nowhere, nowhere, &["fsck", "cli.cache", "--json"]);
    let clean = fsck();
    assert!(clean.status.success(), "{}", text(&clean));
    assert_eq!((&json(&clean)["objects"], &json(&clean)["clean"]), (&2.into(), &true.into()));
    let mut bytes = std::fs::read(dir.path().join("cli.cache")).expect("read");
    let needle = &body_of("b", 1, 300_000)[..64];
    let at =
        bytes.windows(64).position(|window| window == needle).expect("the body is in the file");
    bytes[at + 10] ^= 1;
    std::fs::write(dir.path().join("cli.cache"), bytes).expect("written");
    let damaged = fsck();
    assert_eq!(damaged.status.code(), Some(1));
    assert_eq!(json(&damaged)["damaged"][0]["key"], "b");
    assert_eq!(json(&damaged)["objects"], 1);
}

/// A request up to its body, or to where the connection ends.
fn request_head(client: &mut TcpStream) -> Vec<u8> {
    let mut head = vec![0; 16 * 1024];
    let mut have = 0;
    while !head[..have].windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read(&mut head[have..]) {
            Ok(read) if read > 0 => have += read,
            _ => break,
        }
    }
    head.truncate(have);
    head
}

/// Passes one connection on to a node, but cuts it after so many bytes of the answer.
fn cutting_proxy(node: SocketAddr, cuts: Vec<usize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut cuts = cuts.into_iter();
        while let Ok((mut client, _)) = listener.accept() {
            let mut upstream = TcpStream::connect(node).expect("the node accepts");
            upstream.write_all(&request_head(&mut client)).expect("passed on");
            let limit = cuts.next().unwrap_or(usize::MAX);
            // An answer ends, or is cut; either way the connection does.
            drop(std::io::copy(&mut upstream.take(limit as u64), &mut client));
        }
    });
    address
}

#[test]
fn an_interrupted_download_goes_on_where_it_broke_and_is_verified() {
    let setup = Setup::new();
    let body = body_of("resumed", 1, 5 * MIB);
    std::fs::write(setup.dir.path().join("body.bin"), &body).expect("written");
    assert!(setup.run(&["put", "body.bin", "resumed"]).status.success());
    let proxy = cutting_proxy(setup.node.data, vec![MIB, 2 * MIB, 100_000]);
    let got = run(
        setup.dir.path(),
        proxy,
        setup.node.admin,
        &["get", "resumed", "-o", "back.bin", "--json"],
    );
    assert!(got.status.success(), "{}", text(&got));
    assert!(std::fs::read(setup.dir.path().join("back.bin")).expect("read") == body);
    // A part that an earlier run left is gone on with; one of another object is not.
    std::fs::write(setup.dir.path().join("back2.bin.part"), &body[..3 * MIB]).expect("written");
    let etag = json(&setup.run(&["stat", "resumed", "--json"]))["etag"].clone();
    let note = serde_json::json!({ "key": "resumed", "etag": etag, "total": body.len() });
    std::fs::write(setup.dir.path().join("back2.bin.part.json"), note.to_string())
        .expect("written");
    let resumed = setup.run(&["get", "resumed", "-o", "back2.bin", "--json"]);
    assert_eq!(json(&resumed)["resumed"], 3 * MIB as u64, "{}", text(&resumed));
    assert!(std::fs::read(setup.dir.path().join("back2.bin")).expect("read") == body);
    let stale = serde_json::json!({ "key": "resumed", "etag": "\"0123\"", "total": body.len() });
    std::fs::write(setup.dir.path().join("back3.bin.part"), vec![7; 3 * MIB]).expect("written");
    std::fs::write(setup.dir.path().join("back3.bin.part.json"), stale.to_string())
        .expect("written");
    assert!(setup.run(&["get", "resumed", "-o", "back3.bin"]).status.success());
    assert!(std::fs::read(setup.dir.path().join("back3.bin")).expect("read") == body);
}

#[test]
fn bytes_that_do_not_match_their_digest_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let liar = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            drop(request_head(&mut client));
            let answer = "HTTP/1.1 200 OK\r\netag: \"00000000000000000000000000000000\"\r\ncontent-length: 4\r\n\r\nlies";
            drop(client.write_all(answer.as_bytes()));
        }
    });
    let got = run(dir.path(), liar, liar, &["get", "anything", "-o", "out.bin"]);
    assert_eq!(got.status.code(), Some(1));
    assert!(text(&got).contains("digest"), "{}", text(&got));
    assert!(!dir.path().join("out.bin").exists(), "nothing wrong appears under the file's name");
}

#[test]
fn sigterm_drains_and_exits_with_zero() {
    let mut setup = Setup::new();
    let stopped = Command::new("kill").arg(setup.node.child.id().to_string()).status();
    assert!(stopped.expect("kill runs").success());
    assert_eq!(setup.node.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn what_has_no_length_is_stored_whole_and_what_cannot_be_told_is_refused() {
    let setup = Setup::new();
    let shell = |script: &str| {
        Command::new("sh")
            .args(["-c", script])
            .env("STRAIGHTWAY_URL", format!("http://{}", setup.node.data))
            .env("STRAIGHTWAY_ADMIN_URL", format!("http://{}", setup.node.admin))
            .env("SW", env!("CARGO_BIN_EXE_straightway"))
            .current_dir(setup.dir.path())
            .output()
            .expect("a shell")
    };
    let piped = shell("mkfifo pipe && (head -c 300000 /dev/zero > pipe &) && $SW put pipe key");
    assert!(piped.status.success() && text(&piped).contains("293 KiB"), "{}", text(&piped));
    assert_eq!(setup.run(&["get", "key"]).stdout.len(), 300_000);
    assert!(setup.run(&["put", "/proc/self/status", "proc"]).status.success());
    assert!(!setup.run(&["get", "proc"]).stdout.is_empty(), "a file of no announced length");
    std::fs::write(setup.dir.path().join("body"), b"body").expect("written");
    let tagged = setup.run(&["put", "body", "k", "--tag", "two\nlines"]);
    assert!(
        tagged.status.code() == Some(1) && text(&tagged).contains("the tag holds"),
        "{}",
        text(&tagged)
    );
    for attempt in 1.. {
        let begun = Instant::now();
        assert!(setup.run(&["put", "body", "k", "--max-age", "1ms"]).status.success());
        if setup.run(&["get", "k"]).stdout == b"body" {
            break;
        }
        // Who comes after the second that it lives for has to try again.
        assert!(begun.elapsed() > Duration::from_millis(900), "rounded up, not expired at once");
        assert!(attempt < 30, "no two programs run within a second here");
    }
    std::fs::write(setup.dir.path().join("token"), "one\ntwo").expect("written");
    assert_eq!(setup.run(&["put", "body", "k", "--token-file", "token"]).status.code(), Some(2));
    assert_eq!(setup.run(&["put", "-"]).status.code(), Some(2), "no key");
    // A reader that has had enough is no failure, and nothing panics.
    let cut = shell("$SW rm key k | true; $SW ls; echo done");
    assert!(text(&cut).ends_with("done\n") && !text(&cut).contains("panicked"), "{}", text(&cut));
}

#[test]
fn get_writes_to_devices_and_never_mixes_versions() {
    let setup = Setup::new();
    let write =
        |bytes: &[u8]| std::fs::write(setup.dir.path().join("body"), bytes).expect("written");
    write(b"the first version");
    assert!(setup.run(&["put", "body", "key"]).status.success());
    assert!(setup.run(&["get", "key", "-o", "/dev/null"]).status.success());
    assert!(!Path::new("/dev/null.part").exists() && !Path::new("/dev/null").is_file());
    // Everything was there when the last attempt was killed; the object was replaced since.
    assert!(setup.run(&["get", "key", "-o", "out"]).status.success());
    let etag = json(&setup.run(&["stat", "key", "--json"]))["etag"].clone();
    let part = |name: &str| setup.dir.path().join(name);
    std::fs::rename(part("out"), part("out.part")).expect("renamed");
    let note = serde_json::json!({ "key": "key", "etag": etag, "total": 17 });
    std::fs::write(part("out.part.json"), note.to_string()).expect("written");
    write(b"the second one");
    assert!(setup.run(&["put", "body", "key"]).status.success());
    assert!(setup.run(&["get", "key", "-o", "out"]).status.success());
    assert_eq!(std::fs::read(part("out")).expect("read"), b"the second one");
    // A damaged part costs one attempt.
    std::fs::write(part("new.part"), b"damaged").expect("written");
    let etag = json(&setup.run(&["stat", "key", "--json"]))["etag"].clone();
    let note = serde_json::json!({ "key": "key", "etag": etag, "total": 14 });
    std::fs::write(part("new.part.json"), note.to_string()).expect("written");
    assert_eq!(setup.run(&["get", "key", "-o", "new"]).status.code(), Some(1));
    assert!(setup.run(&["get", "key", "-o", "new"]).status.success());
    assert_eq!(std::fs::read(part("new")).expect("read"), b"the second one");
    // Another process is at it.
    let held = std::fs::File::create(part("busy.part")).expect("made");
    held.try_lock().expect("locked");
    let busy = setup.run(&["get", "key", "-o", "busy"]);
    assert!(
        busy.status.code() == Some(1) && text(&busy).contains("another get"),
        "{}",
        text(&busy)
    );
}

#[test]
fn format_keeps_a_sound_cache() {
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder");
    let file = dir.path().join("kept.cache");
    let options = ["--size", "16MiB", "--format"];
    let node = Node::start(&file, &options);
    assert_eq!(node.client().put("/key", b"kept").expect("stored"), 201);
    node.kill();
    let node = Node::start(&file, &options);
    assert_eq!(node.client().get("/key").expect("answered").status, 200);
    node.kill();
    let node = Node::start(&file, &["--size", "8MiB", "--format"]);
    assert_eq!(
        node.client().get("/key").expect("answered").status,
        404,
        "other sizes: started empty"
    );
}
