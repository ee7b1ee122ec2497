//! UDP packets a second of one sending core: a loop of `send`, `sendmmsg`, segmentation by the kernel, and whole frames by
//! AF_XDP (copy mode, which is what a veth has), beside iperf3 at the same size. As root: over a veth cable between two namespaces, whose receiving end drops everything before its
//! sockets (it has no such address), so that the sender alone is measured; and over loopback, with a receiver. Frames are
//! counted at the cable's far end, not believed from the sender.
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use straightway_packet::batch::{BatchReceiver, BatchSender, Offload, ReceiveOptions, SendOptions};
use straightway_packet::build::UdpPacketBuilder;
use straightway_packet::xdp::XdpSocket;
use straightway_packet::{MacAddr, PacketError};

const TIME: Duration = Duration::from_secs(1);
const ROUNDS: usize = 5;

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().expect("a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn enter(namespace: &str) {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(format!("/var/run/netns/{namespace}")).expect("the namespace");
    // SAFETY: setns(2) takes its arguments by value.
    assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
}

fn pin(core: usize) {
    // SAFETY: the set holds bits only.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core is within the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: reads the set.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}

/// CPU seconds of this thread.
fn cpu() -> f64 {
    // SAFETY: the structure holds integers only.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: writes one structure.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Packets for a CPU second of the sender, as counted by `arrived`.
fn measure(offload: Offload, bind: &str, to: &str, len: usize, arrived: &dyn Fn() -> u64) -> f64 {
    let socket = Arc::new(UdpSocket::bind(bind).expect("bound"));
    let mut sender = BatchSender::<Bytes>::new(socket, SendOptions { offload, ..SendOptions::default() }).expect("a sender");
    let (to, packet) = (to.parse().expect("an address"), Bytes::from(vec![7; len]));
    let (before, cpu_before, started) = (arrived(), cpu(), Instant::now());
    while started.elapsed() < TIME {
        while sender.push(to, packet.clone()).is_ok() {}
        sender.flush(TIME).expect("sent");
    }
    (arrived() - before) as f64 / (cpu() - cpu_before)
}

/// As [`measure`], of frames that were made beforehand and go past the kernel's stack.
fn measure_xdp(link: [MacAddr; 2], len: usize, arrived: &dyn Fn() -> u64) -> Result<f64, PacketError> {
    const BATCH: usize = 32;
    let mut socket = XdpSocket::open("wire0", 0, 1024)?;
    let (from, to) = ("10.77.0.1:9".parse().expect("an address"), "10.77.0.2:9".parse().expect("an address"));
    let frame = UdpPacketBuilder::new(from, to)?.ethernet(link[0], link[1]).build(&vec![7; len])?;
    let (before, cpu_before, started) = (arrived(), cpu(), Instant::now());
    while started.elapsed() < TIME {
        socket.send(std::iter::repeat_n(&frame[..], BATCH))?;
    }
    while socket.flush()? > 0 && started.elapsed() < 2 * TIME {}
    Ok((arrived() - before) as f64 / (cpu() - cpu_before))
}

/// The address of the device `wire0` in a namespace.
fn address_of(namespace: &str) -> Option<MacAddr> {
    sh(&format!("ip netns exec {namespace} cat /sys/class/net/wire0/address")).trim().parse().ok()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

const ARMS: [(&str, Offload); 3] = [
    ("send, one by one", Offload::Portable),
    ("sendmmsg", Offload::NoSegmentation),
    ("sendmmsg with UDP_SEGMENT", Offload::Auto),
];

fn cable() {
    let (a, b) = ("sw-bench-a", "sw-bench-b");
    sh(&format!("ip netns del {a}; ip netns del {b}"));
    let made = sh(&format!(
        "ip netns add {a} && ip netns add {b} && ip -n {a} link add wire0 type veth peer name wire0 netns {b} && \
         ip -n {a} addr add 10.77.0.1/24 dev wire0 && \
         ip -n {a} link set wire0 up && ip -n {b} link set wire0 up && \
         ip netns exec {a} ethtool -K wire0 tx-udp-segmentation off >/dev/null; \
         ip -n {a} neigh replace 10.77.0.2 lladdr $(ip -n {b} -br link show wire0 | awk '{{print $3}}') dev wire0 nud permanent && echo made"
    ));
    if !made.contains("made") {
        println!("SKIP the cable needs root, iproute2 and ethtool");
        return;
    }
    for len in [22, 1472] {
        let frames = || sh(&format!("ip netns exec {b} cat /sys/class/net/wire0/statistics/rx_packets")).trim().parse().unwrap_or(0);
        let mut seen = vec![Vec::new(); ARMS.len()];
        let (mut xdp, mut iperf) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            for n in 0..ARMS.len() {
                let n = if round % 2 == 0 { n } else { ARMS.len() - 1 - n };
                let figure = std::thread::scope(|scope| {
                    let measured = scope.spawn(|| {
                        enter(a);
                        pin(1);
                        measure(ARMS[n].1, "10.77.0.1:0", "10.77.0.2:9", len, &frames)
                    });
                    measured.join().expect("measured")
                });
                seen[n].push(figure);
            }
            if let (Some(from), Some(to)) = (address_of(a), address_of(b)) {
                let figure = std::thread::scope(|scope| {
                    let measured = scope.spawn(|| {
                        enter(a);
                        pin(1);
                        measure_xdp([from, to], len, &frames)
                    });
                    measured.join().expect("measured")
                });
                xdp.push(figure);
            }
            sh(&format!("ip -n {b} addr add 10.77.0.2/24 dev wire0"));
            iperf.extend(iperf3(a, b, len));
            sh(&format!("ip -n {b} addr flush dev wire0"));
        }
        println!("\n### veth, {len} bytes of payload: thousand frames for a CPU second of the sender\n\n| sender | k/s | against send |\n|---|---|---|");
        let medians: Vec<f64> = seen.into_iter().map(median).collect();
        for ((name, _), figure) in ARMS.iter().zip(&medians) {
            println!("| {name} | {:.0} | {:.2} |", figure / 1e3, figure / medians[0]);
        }
        match xdp.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(figures) if !figures.is_empty() => {
                let figure = median(figures);
                println!("| AF_XDP in copy mode, frames made beforehand | {:.0} | {:.2} |", figure / 1e3, figure / medians[0]);
            }
            Ok(_) => println!("| AF_XDP | SKIP: the devices have no addresses | |"),
            Err(error) => println!("| AF_XDP | SKIP: {error} | |"),
        }
        if !iperf.is_empty() {
            let figure = median(iperf);
            println!("| iperf3 -u -b 0 (its receiver on the other core) | {:.0} | {:.2} |", figure / 1e3, figure / medians[0]);
        }
    }
    sh(&format!("ip netns del {a}; ip netns del {b}"));
}

/// Packets for a CPU second of iperf3's sender.
fn iperf3(a: &str, b: &str, len: usize) -> Option<f64> {
    let mut server = Command::new("ip").args(["netns", "exec", b, "taskset", "-c", "0", "iperf3", "-s", "-1"]).stdout(Stdio::null()).spawn().ok()?;
    let mut report = figure_of(&String::new());
    for _ in 0..20 {
        let text = sh(&format!("ip netns exec {a} taskset -c 1 iperf3 -c 10.77.0.2 -u -b 0 -l {len} -t 1 -J"));
        report = figure_of(&text);
        if report.is_some() {
            break;
        }
        std::thread::yield_now();
    }
    let _ = server.kill();
    let _ = server.wait();
    report
}

/// Packets over CPU share and seconds, out of iperf3's JSON.
fn figure_of(text: &str) -> Option<f64> {
    let number = |after: &str| -> Option<f64> {
        let rest = text.rsplit_once(after)?.1;
        rest.trim_start_matches([' ', ':', '"', '\t']).split([',', '\n', '}']).next()?.trim().parse().ok()
    };
    let packets = number("\"packets\"")?;
    let seconds = number("\"seconds\"")?;
    let cpu = number("\"host_total\"")? / 100.0;
    (packets > 0.0 && cpu > 0.0).then(|| packets / (cpu * seconds))
}

fn loopback() {
    for len in [22, 1472] {
        println!("\n### loopback, {len} bytes of payload, a receiver on the other core: thousand datagrams received a second\n\n| sender | k/s | lost |\n|---|---|---|");
        for (name, offload) in ARMS {
            let mut figures = Vec::new();
            let mut lost = Vec::new();
            for _ in 0..ROUNDS {
                let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("bound"));
                let to = socket.local_addr().expect("bound");
                let options = ReceiveOptions { offload, mtu: 1500, socket_buffer: Some(8 << 20), ..ReceiveOptions::default() };
                let mut receiver = BatchReceiver::new(socket, options).expect("a receiver");
                let sent = std::thread::spawn(move || {
                    pin(1);
                    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("bound"));
                    let mut sender = BatchSender::<Bytes>::new(socket, SendOptions { offload, ..SendOptions::default() }).expect("a sender");
                    let (packet, started) = (Bytes::from(vec![7; len]), Instant::now());
                    while started.elapsed() < TIME {
                        while sender.push(to, packet.clone()).is_ok() {}
                        sender.flush(TIME).expect("sent");
                    }
                    sender.stats().datagrams
                });
                pin(0);
                let started = Instant::now();
                let mut received = 0;
                while !sent.is_finished() {
                    received += receiver.receive(Duration::from_millis(20)).expect("received") as u64;
                }
                figures.push(received as f64 / started.elapsed().as_secs_f64());
                let sent = sent.join().expect("sent");
                lost.push(100.0 * (sent.saturating_sub(received)) as f64 / sent as f64);
            }
            println!("| {name} | {:.0} | {:.1} % |", median(figures) / 1e3, median(lost));
        }
    }
}

fn main() {
    cable();
    loopback();
}
