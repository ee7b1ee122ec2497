//! A process that is killed while it applies.
use std::io::{BufRead, BufReader, Write};
use std::process::{Command as Process, Stdio};

use super::*;

const FOLDER: &str = "STRAIGHTWAY_TEST_CATALOGUE";

/// Entry `n` of a log that both processes know.
fn op(n: u64) -> Op {
    match n % 50 {
        7 => Op::Purge(Purge { scope: Scope::Prefix, value: format!("{}/", n % 7) }),
        31 => Op::Purge(Purge { scope: Scope::Tag, value: "rare".into() }),
        _ => {
            let tags = if n.is_multiple_of(11) { vec!["rare".into()] } else { vec![] };
            Op::Put(Put { tags, expires_ms: n % 3, ..put(&format!("{}/{}", n % 7, n % 101), n) })
        }
    }
}

fn first_entries(len: u64) -> Log {
    let mut log = Log::default();
    (0..len).for_each(|n| {
        log.push(op(n));
    });
    log
}

/// What the other process does: applies and makes durable for ever, and says up to where.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn applies_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let catalogue = Catalogue::open(Path::new(&folder)).expect("opened");
    if catalogue.cluster().is_none() {
        catalogue.bootstrap(&first()).expect("begun");
    }
    let mut out = std::io::stdout();
    for from in (catalogue.applied().index + 1..).step_by(8) {
        let commands: Vec<Bytes> = (from..from + 8)
            .map(|index| {
                let request = RequestId { node: 1, boot: 1, serial: index - 1 };
                Command { request, op: op(index - 2) }.encode().expect("sound")
            })
            .collect();
        let inputs: Vec<_> = commands
            .iter()
            .zip(from..)
            .map(|(bytes, index)| Input { index, term: 1, what: What::Command(bytes) })
            .collect();
        // As the node does: rows wait until there are some, and a kill finds them waiting.
        let (_, went_on) = catalogue.apply(&inputs);
        went_on.and_then(|()| catalogue.write(50)).expect("applied");
        if from % 5 == 0 {
            let durable = catalogue.sync().expect("synced");
            writeln!(out, "\ndurable {durable}").and_then(|()| out.flush()).expect("a pipe");
        }
    }
}

#[test]
fn what_was_durable_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut at_least = 1;
    for lines in [3, 1, 9] {
        let mut child = Process::new(std::env::current_exe().expect("this program"))
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "catalogue::tests::crash::applies_until_it_is_killed",
            ])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let said = out.lines().map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("durable ").and_then(|index| index.parse::<u64>().ok())
        });
        let durable = said.take(lines).last().expect("it said something");
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(durable > at_least);

        let catalogue = Catalogue::open(folder.path()).expect("opened after the kill");
        let applied = catalogue.applied().index;
        assert!(applied >= durable, "{durable} was durable, {applied} is there");
        let (replayed, _) = first_entries(applied - 1).replayed();
        assert_eq!(catalogue.state_digest(), replayed.state_digest());
        at_least = applied;
    }
}

#[test]
fn a_copy_of_the_file_holds_what_was_durable_or_more() {
    let log = first_entries(400);
    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = started(Catalogue::open(folder.path()).expect("a catalogue"));
    for (len, sync) in [(100, true), (150, false), (300, false), (301, true), (400, false)] {
        Log { serial: 0, entries: log.entries[..len].to_vec() }.feed(&catalogue, 17);
        assert!(catalogue.unsynced_bytes() > 0);
        if sync {
            assert_eq!(catalogue.sync().expect("synced"), len as u64 + 1);
            assert_eq!(catalogue.unsynced_bytes(), 0);
        }
        let copied = tempfile::tempdir().expect("a folder");
        std::fs::copy(folder.path().join(FILE), copied.path().join(FILE)).expect("copied");
        let copy = Catalogue::open(copied.path()).expect("opened");
        let applied = copy.applied().index;
        assert!((catalogue.durable()..=catalogue.applied().index).contains(&applied));
        let (replayed, _) = first_entries(applied - 1).replayed();
        assert_eq!(copy.state_digest(), replayed.state_digest());
        // It goes on from there as if nothing had been.
        log.feed(&copy, 29);
        assert_eq!(copy.state_digest(), log.replayed().0.state_digest());
    }
}
