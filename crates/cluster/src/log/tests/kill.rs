//! A process that is killed while it writes: what it said to be on the disk is there.
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;

const WHERE: &str = "STRAIGHTWAY_TEST_LOG";

/// Not a test by itself: what the other one starts and kills.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(WHERE) else { return };
    let options = LogOptions { segment_bytes: 16 << 10, ..tiny() };
    let (mut log, found) = SegmentLog::open(dir.as_ref(), options).unwrap();
    let mut next =
        found.entries.last().map_or(found.snapshot.map_or(0, |mark| mark.index), |e| e.index) + 1;
    let mut out = std::io::stdout();
    for round in 1.. {
        let count = next % 7 + 1;
        let synced = append(&mut log, of(&entries(next..next + count, 1, 90)));
        writeln!(out, "synced {synced}").unwrap();
        next += count;
        if round % 16 == 0 {
            log.compact(&mark(next - 20, 1)).unwrap();
        }
    }
}

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 16 << 10, ..tiny() };
    let mut acknowledged = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "log::tests::kill::child", "--nocapture", "--test-threads=1"])
            .env(WHERE, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // The harness may print on the same line before the first of ours.
        let mut synced =
            lines.filter_map(|line| line.rsplit_once("synced ")?.1.parse::<u64>().ok());
        acknowledged = synced.nth(3 + 37 * round).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = synced.last().unwrap_or(acknowledged);
        let (_log, found) = SegmentLog::open(dir.path(), options).unwrap();
        let base = found.snapshot.map_or(0, |mark| mark.index);
        let last = found.entries.last().map_or(base, |entry| entry.index);
        assert!(last >= acknowledged, "round {round}: {last} of {acknowledged}");
        assert_eq!(found.entries, entries(base + 1..=last, 1, 90));
    }
    assert!(acknowledged > 400);
}
