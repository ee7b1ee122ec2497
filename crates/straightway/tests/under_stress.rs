//! The node as a process, under conditions that hurt: slow readers while everything is rewritten, a truncated file,
//! far more data than fits; and what the kernel saw of a hot GET.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod process;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use process::{Client, Node, body_of};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn scratch() -> tempfile::TempDir {
    // Beside the build, so that the cache lies on a real file system and not on tmpfs.
    tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder")
}

#[test]
fn a_slow_reader_gets_the_right_bytes_while_eviction_laps_the_cache() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("slow.cache"), &["--size", "32MiB"]);
    let object = body_of("slow", 1, 7 * MIB);
    for (attempt, headers) in
        [vec![], vec![("range", "bytes=1000000-7000000")]].into_iter().enumerate()
    {
        // The first attempt evicts it once its reader is done.
        assert!(matches!(node.client().put("/slow", &object).expect("stored"), 201 | 204));
        let expected = if attempt == 0 { &object[..] } else { &object[1_000_000..=7_000_000] };
        let mut reader = node.client();
        let mut request = String::from("GET /slow HTTP/1.1\r\nhost: node\r\n");
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        std::io::Write::write_all(reader.stream.get_mut(), format!("{request}\r\n").as_bytes())
            .expect("sent");
        let answer = reader.head().expect("answered");
        assert!(matches!(answer.status, 200 | 206), "{answer:?}");
        // Between two pieces that it reads, another client stores: more than the cache holds by the time it is done.
        let mut writer = node.client();
        let mut received = Vec::new();
        let mut piece = vec![0; 48 * KIB];
        let mut filler = 0u64;
        while received.len() < expected.len() {
            let want = piece.len().min(expected.len() - received.len());
            if reader.stream.read_exact(&mut piece[..want]).is_err() {
                // A broken connection is right; wrong bytes are not.
                break;
            }
            received.extend_from_slice(&piece[..want]);
            filler += 1;
            let status = writer
                .put(&format!("/filler-{filler}"), &body_of("filler", filler, 500 * KIB))
                .expect("answered");
            assert!(matches!(status, 201 | 204 | 507), "{status}");
        }
        assert!(
            received == expected[..received.len()],
            "wrong bytes after {} of them",
            received.len()
        );
        assert!(filler > 70, "the cache was not lapped");
    }
}

#[test]
fn a_file_truncated_under_a_running_node_costs_responses_and_not_the_node() {
    let dir = scratch();
    let cache = dir.path().join("truncated.cache");
    let node = Node::start(&cache, &["--size", "32MiB"]);
    let mut client = node.client();
    for key in 0..20u64 {
        assert_eq!(
            client.put(&format!("/k{key}"), &body_of("k", key, 400 * KIB)).expect("stored"),
            201
        );
    }
    // Half of them are hot: verified, and in memory.
    for key in 0..10u64 {
        assert_eq!(client.get(&format!("/k{key}")).expect("answered").status, 200);
    }
    OpenOptions::new().write(true).open(&cache).expect("opened").set_len(4096).expect("truncated");
    for key in 0..20u64 {
        // A miss, an error, or a connection that breaks; if all bytes come they are right.
        if let Ok(answer) = node.client().get(&format!("/k{key}"))
            && answer.status == 200
        {
            assert!(answer.body == body_of("k", key, 400 * KIB), "k{key}: wrong bytes");
        }
    }
    let mut admin = Client::connect(node.admin).expect("the node lives");
    assert_eq!(admin.get("/health/live").expect("answered").status, 200);
}

/// Five times what the cache holds goes through it; anonymous memory stays bounded.
#[test]
fn memory_stays_bounded_while_five_times_the_cache_goes_through() {
    let slow = std::env::var_os("STRAIGHTWAY_SLOW").is_some();
    let (size, total) = if slow { ("1GiB", 5 * 1024) } else { ("128MiB", 640) };
    let dir = scratch();
    let node = Node::start(&dir.path().join("memory.cache"), &["--size", size]);
    let object = body_of("memory", 1, 8 * MIB);
    let mut client = node.client();
    let mut most = 0;
    for n in 0..total / 8 {
        let status = client.put(&format!("/object-{n}"), &object).expect("answered");
        assert!(matches!(status, 201 | 204), "{status}");
        let recent = client.get(&format!("/object-{}", n / 2 * 2)).expect("answered");
        assert!(recent.status == 404 || recent.body == object);
        most = most.max(node.anonymous_bytes());
    }
    println!("at most {} MiB of anonymous memory", most / MIB as u64);
    assert!(most < 150 * MIB as u64, "{most} bytes of anonymous memory");
}

/// What `strace -c` counts while hot objects are fetched: `sendfile` or `writev`/`sendmsg`, and not one read of the file.
#[test]
fn a_hot_get_is_sent_without_reading_the_file() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("hot.cache"), &["--size", "64MiB", "--io", "standard"]);
    let mut client = node.client();
    let sizes = [64 * KIB, MIB];
    for len in sizes {
        assert_eq!(client.put(&format!("/{len}"), &body_of("hot", 1, len)).expect("stored"), 201);
        assert_eq!(
            client.get(&format!("/{len}")).expect("answered").status,
            200,
            "warmed and verified"
        );
    }
    let tracer = Command::new("strace")
        .args(["-f", "-c", "-p", &node.child.id().to_string()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut tracer) = tracer else {
        println!("SKIP strace is not installed: what the kernel sees of a hot GET was not counted");
        return;
    };
    let mut report = BufReader::new(tracer.stderr.take().expect("piped"));
    let mut line = String::new();
    report.read_line(&mut line).expect("strace speaks");
    if !line.contains("attached") {
        println!(
            "SKIP strace may not attach here ({}): what the kernel sees of a hot GET was not counted",
            line.trim()
        );
        return;
    }
    for _ in 0..50 {
        for len in sizes {
            let answer = client.get(&format!("/{len}")).expect("answered");
            assert!(answer.body == body_of("hot", 1, len));
        }
    }
    let interrupted = Command::new("kill").args(["-INT", &tracer.id().to_string()]).status();
    assert!(interrupted.expect("kill runs").success());
    let mut counts = String::new();
    report.read_to_string(&mut counts).expect("a table");
    tracer.wait().expect("strace ends");
    let calls = |name: &str| -> u64 {
        let row = counts.lines().find(|line| line.split_whitespace().last() == Some(name));
        row.and_then(|row| row.split_whitespace().nth(3)).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let sent = calls("sendfile") + calls("writev") + calls("sendmsg");
    assert!(sent >= 100, "{counts}");
    for read in ["pread64", "preadv", "preadv2", "io_uring_enter"] {
        assert_eq!(calls(read), 0, "the file was read: {counts}");
    }
    let mut admin = Client::connect(node.admin).expect("connected");
    let stats = String::from_utf8(admin.get("/api/stats").expect("answered").body).expect("text");
    assert!(stats.contains("\"bytes_copied\":0,"), "{stats}");
}

/// The same requests over every backend: what comes back does not depend on how it was kept.
#[test]
fn every_backend_serves_the_same() {
    for mode in ["standard", "portable", "auto"] {
        let dir = scratch();
        let node = Node::start(&dir.path().join("mode.cache"), &["--size", "32MiB", "--io", mode]);
        let mut client = node.client();
        for len in [0, 1, 700, 64 * KIB, 3 * MIB] {
            let body = body_of(mode, 1, len);
            assert_eq!(client.put(&format!("/{len}"), &body).expect("stored"), 201);
            assert!(client.get(&format!("/{len}")).expect("answered").body == body, "{mode} {len}");
        }
        let part = client.request(
            "GET",
            &format!("/{}", 3 * MIB),
            &[("range", "bytes=70000-2000000")],
            None,
        );
        assert!(
            part.expect("answered").body == body_of(mode, 1, 3 * MIB)[70_000..=2_000_000],
            "{mode}"
        );
    }
}
