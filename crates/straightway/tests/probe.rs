//! `probe`: what it prints, what it finds on a path that loses and reorders, and what it says when it cannot.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
#[path = "../../packet/tests/netns/mod.rs"]
mod netns;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use netns::{Pair, run};
use serde_json::Value;
use straightway::packet::MacAddr;
use straightway::packet::overlay::{Control, Heartbeat, Message, PacketType};
use straightway::probe::{Options, Tally, listen, probe};

/// Set when it ends, or a failure would wait for ever for the threads that look at it.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A listener on its own thread, while `act` runs.
fn with_listener<R>(address: &str, act: impl FnOnce(SocketAddr) -> R) -> R {
    let stop = AtomicBool::new(false);
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        let listener =
            scope.spawn(|| listen(address.parse().unwrap(), &stop, |at| ready.send(at).unwrap()));
        let ends = Ends(&stop);
        let result = act(is_ready.recv().expect("it listens"));
        drop(ends);
        listener.join().unwrap().expect("it listened");
        result
    })
}

fn straightway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_straightway")).args(arguments).output().expect("runs")
}

/// Quick where all is answered, and patient with a busy machine: a listener that has no turn for a while answers late, and
/// what arrives meanwhile has to find room.
fn quick() -> Options {
    Options {
        sizes: vec![64, 1200],
        count: 50,
        rate: 200,
        flood: Duration::from_millis(30),
        timeout: Duration::from_secs(30),
        mtu_timeout: Duration::from_secs(5),
    }
}

#[test]
fn a_good_path_loses_nothing_and_programs_get_every_number() {
    with_listener("127.0.0.1:0", |at| {
        let output = straightway(&[
            "probe",
            &at.to_string(),
            "--json",
            "--count",
            "20",
            // A few of the longest fill the listener's socket: it gets time to take each.
            "--rate",
            "50",
            "--sizes",
            "52,1472,65507",
        ]);
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&report["sent"], &report["lost"]), (&60.into(), &0.into()), "{report}");
        for name in ["received", "reordered", "pps", "bytes_per_second"] {
            assert!(report[name].is_number(), "{name}");
        }
        for name in ["p50", "p99"] {
            assert!(report["rtt_us"][name].as_f64().unwrap() > 0.0, "{name}");
        }
        let sizes: Vec<_> = report["sizes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|size| size["size"].as_u64().unwrap())
            .collect();
        assert_eq!(sizes, [52, 1472, 65507]);
        assert!(
            report["sizes"]
                .as_array()
                .unwrap()
                .iter()
                .all(|size| size["pps"].as_f64().unwrap() > 0.0)
        );
        let table = straightway(&["probe", &at.to_string(), "--count", "5", "--sizes", "64"]);
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(
            table.contains("path MTU") && table.contains("p99 us") && table.contains('█'),
            "{table}"
        );
        assert!(table.contains("0.0 %"), "{table}");
    });
}

#[test]
fn losses_and_late_answers_are_counted() {
    with_listener("127.0.0.1:0", |listener| {
        // Between the two: drops every fifth long answer, and lets every seventh pass the one before it.
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        back.connect(listener).unwrap();
        front.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        back.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (at, done) = (front.local_addr().unwrap(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut buffer, mut n, mut held) = (vec![0; 65_536], 0, None::<Vec<u8>>);
                while !done.load(Ordering::Relaxed) {
                    let Ok((len, from)) = front.recv_from(&mut buffer) else { continue };
                    // Only the series of this size is disturbed, and only at its pace.
                    let disturbed = len == 1200;
                    back.send(&buffer[..len]).unwrap();
                    let Ok(len) = back.recv(&mut buffer) else { continue };
                    n += u32::from(disturbed);
                    if disturbed && n.is_multiple_of(5) {
                        continue;
                    }
                    if disturbed && n % 7 == 3 && held.is_none() {
                        held = Some(buffer[..len].to_vec());
                        continue;
                    }
                    front.send_to(&buffer[..len], from).unwrap();
                    if let Some(late) = held.take() {
                        front.send_to(&late, from).unwrap();
                    }
                }
            });
            let options = Options {
                flood: Duration::ZERO,
                // Waited for in full, since some are lost.
                timeout: Duration::from_secs(5),
                sizes: vec![1200],
                ..quick()
            };
            let _ends = Ends(&done);
            let report = probe(at, &options, |_| {});
            let tally = report.expect("measured").sizes.remove(0).tally;
            assert_eq!(tally.sent_count(), 50);
            assert!((5..=15).contains(&tally.lost()), "{} lost", tally.lost());
            assert!(tally.reordered() >= 2, "{} late", tally.reordered());
        });
    });
}

#[test]
fn answers_to_nothing_that_was_asked_are_not_counted() {
    with_listener("127.0.0.1:0", |listener| {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        back.connect(listener).unwrap();
        front.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let (at, done) = (front.local_addr().unwrap(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut buffer, mut honest) = (vec![0; 65_536], true);
                while !done.load(Ordering::Relaxed) {
                    let Ok((len, from)) = front.recv_from(&mut buffer) else { continue };
                    if len == 1200 && !honest {
                        // The number in it: one that is far ahead.
                        buffer[33] ^= 0x10;
                    }
                    honest &= len != 1200;
                    back.send(&buffer[..len]).unwrap();
                    let len = back.recv(&mut buffer).unwrap();
                    front.send_to(&buffer[..len], from).unwrap();
                }
            });
            // One in the series, which is answered honestly, then a flood.
            let _ends = Ends(&done);
            let report = probe(at, &Options { sizes: vec![1200], count: 1, ..quick() }, |_| {});
            let size = report.expect("measured").sizes.remove(0);
            assert_eq!((size.tally.lost(), size.pps), (0, 0.0));
        });
    });
}

#[test]
fn an_ipv4_address_written_as_one_of_ipv6_is_measured_as_what_it_is() {
    with_listener("127.0.0.1:0", |at| {
        let target = format!("[::ffff:127.0.0.1]:{}", at.port()).parse().unwrap();
        let options = Options { sizes: vec![64], count: 1, flood: Duration::ZERO, ..quick() };
        let report = probe(target, &options, |_| {}).expect("measured");
        assert_eq!(report.path_mtu, Some(65_535), "the longest packet of IPv4");
    });
}

#[test]
fn the_path_mtu_is_found() {
    let Some(pair) = Pair::new("mtu") else { return };
    for name in &pair.names {
        run(&format!("ip -n {name} link set wire0 mtu 1380"));
    }
    let stop = AtomicBool::new(false);
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            pair.within(1, || {
                listen("10.77.0.2:7000".parse().unwrap(), &stop, |at| ready.send(at).unwrap())
            })
            .unwrap();
        });
        let _ends = Ends(&stop);
        let at = is_ready.recv().unwrap();
        let report = pair
            .within(0, || probe(at, &Options { sizes: vec![64, 1472, 8000], ..quick() }, |_| {}));
        let report = report.expect("measured");
        assert_eq!(report.path_mtu, Some(1380));
        assert_eq!(
            (report.total(Tally::sent_count), report.total(Tally::lost)),
            (150, 0),
            "longer ones go in fragments"
        );
    });
}

#[test]
fn the_listener_answers_probes_only_and_never_at_greater_length() {
    with_listener("127.0.0.1:0", |at| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let heartbeat = Heartbeat { duration_ms: 1, id: 99, hops: 0, source: MacAddr([7; 6]) };
        let message = Message::new(
            MacAddr([7; 6]),
            MacAddr::BROADCAST,
            PacketType::Control(Control::Heartbeat(heartbeat)),
        );
        let probe: Vec<u8> = (&message).into();
        assert_eq!(probe.len(), 46, "shorter than its answer: not answered");
        let padded = |len: usize| [&probe[..], &vec![0; len - 46]].concat();
        for ignored in [&b""[..], b"hello", &[0xff; 100], &probe, &padded(51)] {
            socket.send_to(ignored, at).unwrap();
        }
        for len in [52, 1000] {
            socket.send_to(&padded(len), at).unwrap();
            let mut buffer = [0; 2000];
            let (got, _) =
                socket.recv_from(&mut buffer).expect("an answer to this one, and to none before");
            assert_eq!(got, 52);
            let answer = Message::parse(&buffer[..got]).unwrap().packet;
            assert!(
                matches!(answer, PacketType::Control(Control::HeartbeatReply(reply)) if reply.heartbeat == heartbeat)
            );
        }
    });
}

#[test]
fn what_cannot_be_measured_is_told() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let in_use = straightway(&["probe", "--listen", &address]);
    let text = String::from_utf8_lossy(&in_use.stderr).into_owned();
    assert!(
        in_use.status.code() == Some(1) && text.contains(&address) && text.contains("port free"),
        "{text}"
    );
    let silent = probe(
        taken.local_addr().unwrap(),
        &Options { timeout: Duration::from_millis(50), ..quick() },
        |_| {},
    );
    assert!(silent.expect_err("nobody answers").to_string().contains("--listen"));
    for (arguments, code) in [
        (&["probe"][..], 2),
        (&["probe", "nowhere"], 1),
        (&["probe", "127.0.0.1:1", "--sizes", "51"], 2),
        (&["probe", "127.0.0.1:1", "--sizes", "65508"], 2),
        (&["probe", "127.0.0.1:1", "--count", "0"], 2),
        (&["probe", "127.0.0.1:1", "--listen", "127.0.0.1:0"], 2),
    ] {
        assert_eq!(straightway(arguments).status.code(), Some(code), "{arguments:?}");
    }
}
