//! The examples at work: a cable made of UDP carries a real ping and a real TCP transfer, and a capture of it reads in
//! other programs.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(dead_code, unreachable_pub, reason = "the examples' own entry points are not used here")]
mod netns;

#[path = "../examples/capture.rs"]
mod capture;
#[path = "../examples/tap_relay.rs"]
mod tap_relay;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netns::{Pair, run};
use straightway_packet::Tap;
use straightway_packet::capture::pcap::Reader;
use straightway_packet::view::{Frame, Transport};

const TRANSFER: usize = 4 << 20;
/// How long is waited for what comes for certain.
const PATIENCE: Duration = Duration::from_mins(1);

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn a_relay_carries_ping_and_tcp_and_is_captured() {
    let Some(pair) = Pair::new("relay") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wire.pcap").to_str().unwrap().to_owned();
    let stop = AtomicBool::new(false);
    let counts = [tap_relay::Counts::default(), tap_relay::Counts::default()];
    let ends: Vec<_> = (0..2)
        .map(|end| {
            pair.within(end, || {
                let tap = Tap::create(Some("tap0")).expect("made as root");
                (tap, UdpSocket::bind(format!("10.77.0.{}:7000", end + 1)).unwrap())
            })
        })
        .collect();
    for (name, host) in pair.names.iter().zip(1..) {
        run(&format!("ip -n {name} addr add 10.79.0.{host}/24 dev tap0"));
        run(&format!("ip -n {name} link set tap0 mtu 1400 up"));
    }
    std::thread::scope(|scope| {
        for ((end, (tap, socket)), counts) in ends.into_iter().enumerate().zip(&counts) {
            let (stop, peer) = (&stop, format!("10.77.0.{}:7000", 2 - end).parse().unwrap());
            scope.spawn(move || {
                tap_relay::relay(&tap, socket, peer, stop, counts).expect("relayed");
            });
        }
        let captured = scope.spawn(|| {
            pair.within(0, || {
                capture::capture("wire0", &file, 60, PATIENCE).map_err(|e| e.to_string())
            })
        });
        // Stopped whatever happens, or a failure would never end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let ping = pair
                .command(0, "ping")
                .args(["-c", "3", "-i", "0.2", "-W", "60", "10.79.0.2"])
                .output();
            match ping {
                Ok(output) => {
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
                }
                Err(error) => println!("SKIP relay: ping is missing: {error}"),
            }
            let listener = pair.within(1, || TcpListener::bind("10.79.0.2:9000").unwrap());
            let sender = scope.spawn(|| {
                let mut stream = pair.within(0, || TcpStream::connect("10.79.0.2:9000").unwrap());
                stream.write_all(&pattern(TRANSFER)).unwrap();
            });
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            sender.join().unwrap();
            assert!(received == pattern(TRANSFER), "{} bytes came", received.len());
            captured.join().unwrap().expect("captured");
            // Heartbeats go every second; one that is lost in the crowd is not the last.
            let deadline = Instant::now() + PATIENCE;
            let is_answered =
                |counts: &tap_relay::Counts| counts.round_trip_us.load(Ordering::Relaxed) > 0;
            while !counts.iter().all(is_answered) {
                assert!(Instant::now() < deadline, "{counts:?}");
                std::thread::yield_now();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        result.expect("carried");
    });
    for counts in &counts {
        assert!(
            counts.out.load(Ordering::Relaxed) > 500 && counts.back.load(Ordering::Relaxed) > 500,
            "{counts:?}"
        );
        assert!(counts.round_trip_us.load(Ordering::Relaxed) > 0, "heartbeats were answered");
    }
    agrees_with_tshark(&file);
}

/// Field by field, on every packet of the capture.
fn agrees_with_tshark(file: &str) {
    let mut reader = Reader::new(std::fs::File::open(file).unwrap()).unwrap();
    let (mut buffer, mut ours) = (Vec::new(), Vec::new());
    while let Some(packet) = reader.next(&mut buffer).unwrap() {
        let frame = Frame::parse(packet.bytes).unwrap();
        let ports = match frame.transport {
            Transport::Udp(udp) => format!(
                "{}\t{}\t{}",
                udp.source_port(),
                udp.destination_port(),
                udp.payload().len() + 8
            ),
            _ => "\t\t".to_owned(),
        };
        let (source, kind) = (frame.ethernet.source(), frame.ethernet.ether_type().0);
        ours.push(format!("{}\t{source}\t0x{kind:04x}\t{ports}", packet.original_len));
    }
    assert_eq!(ours.len(), 60);
    let fields = ["frame.len", "eth.src", "eth.type", "udp.srcport", "udp.dstport", "udp.length"];
    let mut tshark = std::process::Command::new("tshark");
    tshark.args(["-r", file, "-T", "fields", "-d", "udp.port==7000,data"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    match tshark.output() {
        Ok(output) => {
            let theirs = String::from_utf8_lossy(&output.stdout).into_owned();
            let theirs: Vec<_> = theirs.lines().map(str::to_owned).collect();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!(ours.trim_end(), theirs.trim_end(), "packet {n}");
            }
            assert_eq!(ours.len(), theirs.len());
        }
        Err(error) => println!("SKIP relay: tshark is missing: {error}"),
    }
}
