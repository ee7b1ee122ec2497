//! One kilobyte to many: our feed beside Bun (uWebSockets inside), `ws` on Node, tokio-tungstenite and axum.
//!
//! Each server is a process of its own on core 0, publishes by itself when told to, and tells the CPU time that it took;
//! the client is this process on core 1 and throws away what it gets (MSG_TRUNC), but for the first and the last
//! subscriber, whose messages it looks at for their delay. A contestant that does not deliver every byte is not shown.
//!
//! `feed` runs all, `$BENCH_ROUNDS` times (3), and shows medians; `feed serve NAME PORT` is a server. Bun and ws must lie in `$BENCH_JS/node_modules`.
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PAYLOAD: usize = 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [serve, name, port] if serve == "serve" => serve_as(name, port.parse().expect("a port")),
        _ => compare(),
    }
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_micros()).expect("small")
}

// ---- the client ----

struct Contestant {
    name: &'static str,
    /// Bytes of a frame on the wire, once known.
    command: fn(u16) -> Option<Command>,
}

fn own(name: &'static str) -> impl Fn(u16) -> Option<Command> {
    move |port| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["serve", name, &port.to_string()]);
        Some(command)
    }
}

fn script(runtime: &str, file: &str, port: u16) -> Option<Command> {
    let folder = std::env::var("BENCH_JS").ok()?;
    let program = if runtime == "bun" { format!("{folder}/node_modules/.bin/bun") } else { runtime.to_owned() };
    let mut command = Command::new(program);
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/js");
    command.arg(format!("{here}/{file}")).arg(port.to_string()).env("NODE_PATH", format!("{folder}/node_modules"));
    Some(command)
}

const CONTESTANTS: &[Contestant] = &[
    Contestant { name: "straightway", command: |port| own("straightway")(port) },
    Contestant { name: "Bun", command: |port| script("bun", "bun.js", port) },
    Contestant { name: "ws on Node", command: |port| script("node", "ws.js", port) },
    Contestant { name: "tokio-tungstenite", command: |port| own("tungstenite")(port) },
    Contestant { name: "axum", command: |port| own("axum")(port) },
];

struct Case {
    clients: usize,
    events: usize,
    burst: usize,
    gap_us: u64,
}

fn compare() {
    pin(1);
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let cases = [
        Case { clients: 100, events: 2000, burst: 1, gap_us: 2000 },
        Case { clients: 100, events: 10_000, burst: 10, gap_us: 5000 },
        Case { clients: 1000, events: 300, burst: 1, gap_us: 20_000 },
        Case { clients: 1000, events: 3000, burst: 10, gap_us: 30_000 },
        Case { clients: 9000, events: 30, burst: 1, gap_us: 250_000 },
        Case { clients: 9000, events: 300, burst: 10, gap_us: 300_000 },
    ];
    println!("| subscribers | burst | server | µs CPU a delivery (user + system) | last subscriber p50 / p99 ms | KiB an idle subscriber |\n|---|---|---|---|---|---|");
    for case in &cases {
        let mut rows: HashMap<&str, Vec<Row>> = HashMap::new();
        for round in 0..rounds {
            for n in 0..CONTESTANTS.len() {
                let contestant = &CONTESTANTS[(n + round) % CONTESTANTS.len()];
                match run(contestant, case) {
                    Ok(row) => rows.entry(contestant.name).or_default().push(row),
                    Err(error) => eprintln!("{} {}x{}: {error}", contestant.name, case.clients, case.burst),
                }
            }
        }
        for contestant in CONTESTANTS {
            let Some(rows) = rows.get_mut(contestant.name) else { continue };
            let median = |pick: fn(&Row) -> f64| {
                let mut all: Vec<f64> = rows.iter().map(pick).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            println!(
                "| {} | {} | {} | {:.2} ({:.2} + {:.2}) | {:.1} / {:.1} | {:.1} |",
                case.clients, case.burst, contestant.name,
                median(|r| r.user + r.system), median(|r| r.user), median(|r| r.system),
                median(|r| r.p50_ms), median(|r| r.p99_ms), median(|r| r.kib_idle),
            );
        }
    }
}

struct Row {
    user: f64,
    system: f64,
    p50_ms: f64,
    p99_ms: f64,
    kib_idle: f64,
}

struct Server {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Clients, RSS in KiB, user and system time in µs.
    fn ask(&mut self, line: &str) -> Result<[u64; 4], String> {
        let stdin = self.child.stdin.as_mut().ok_or("no input")?;
        stdin.write_all(line.as_bytes()).map_err(|e| e.to_string())?;
        stdin.flush().map_err(|e| e.to_string())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<[u64; 4], String> {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(|e| e.to_string())?;
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        numbers.try_into().map_err(|_| format!("it said {line:?}"))
    }
}

fn run(contestant: &Contestant, case: &Case) -> Result<Row, String> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
    let mut command = (contestant.command)(port).ok_or("set BENCH_JS")?;
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|e| e.to_string())?;
    pin_process(child.id(), 0);
    let said = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut server = Server { child, said };
    let mut line = String::new();
    server.said.read_line(&mut line).map_err(|e| e.to_string())?;
    if line.trim() != "READY" {
        return Err(format!("it said {line:?}"));
    }
    let [_, before_kib, ..] = server.ask("0 0 0 0 0\n")?;
    let mut sockets = Vec::with_capacity(case.clients);
    for _ in 0..case.clients {
        sockets.push(subscribe(port).map_err(|e| e.to_string())?);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let after_kib = loop {
        let [clients, kib, ..] = server.ask("0 0 0 0 0\n")?;
        if clients as usize >= case.clients {
            break kib;
        }
        if Instant::now() > deadline {
            return Err(format!("only {clients} came"));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let Case { clients, events, burst, gap_us } = *case;
    let ask = format!("{clients} {events} {burst} {gap_us} {PAYLOAD}\n");
    let stdin = server.child.stdin.as_mut().ok_or("no input")?;
    stdin.write_all(ask.as_bytes()).and_then(|()| stdin.flush()).map_err(|e| e.to_string())?;
    let seconds = events as f64 / burst as f64 * gap_us as f64 / 1e6;
    let (got, mut delays) = drain(&mut sockets, Duration::from_secs_f64(seconds * 3.0 + 30.0), clients * events)?;
    let [_, _, user, system] = server.answer()?;
    if got < clients * events {
        return Err(format!("{got} of {} came", clients * events));
    }
    delays.sort_unstable();
    let at = |q: f64| delays.get(((delays.len() - 1) as f64 * q) as usize).copied().unwrap_or(0) as f64 / 1000.0;
    let deliveries = (clients * events) as f64;
    Ok(Row {
        user: user as f64 / deliveries,
        system: system as f64 / deliveries,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        kib_idle: after_kib.saturating_sub(before_kib) as f64 / clients as f64,
    })
}

fn subscribe(port: u16) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(
        format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").as_bytes(),
    )?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Takes everything in; answers with the number of events and the delays at the last subscriber, in µs.
fn drain(sockets: &mut [TcpStream], patience: Duration, wanted: usize) -> Result<(usize, Vec<u64>), String> {
    // SAFETY: plain system calls on descriptors and buffers that live here.
    unsafe {
        let epoll = libc::epoll_create1(0);
        for (index, socket) in sockets.iter().enumerate() {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: index as u64 };
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event);
        }
        let last = sockets.len() - 1;
        let mut bytes = 0_usize;
        let mut frame = None;
        let mut looked_at: Vec<u8> = Vec::new();
        let mut delays = Vec::new();
        let mut events: Vec<libc::epoll_event> = vec![std::mem::zeroed(); 1024];
        let mut sink = vec![0_u8; 256 * 1024];
        let deadline = Instant::now() + patience;
        let mut quiet_since = Instant::now();
        while Instant::now() < deadline {
            let ready = libc::epoll_wait(epoll, events.as_mut_ptr(), 1024, 200);
            if ready <= 0 {
                let done = frame.is_some_and(|frame| bytes >= wanted * frame);
                if done || quiet_since.elapsed() > Duration::from_secs(8) {
                    break;
                }
                continue;
            }
            quiet_since = Instant::now();
            for event in &events[..ready as usize] {
                let index = event.u64 as usize;
                let flags = if index == last { 0 } else { libc::MSG_TRUNC };
                let read = libc::recv(sockets[index].as_raw_fd(), sink.as_mut_ptr().cast(), sink.len(), flags);
                if read <= 0 {
                    continue;
                }
                bytes += read as usize;
                if index == last {
                    looked_at.extend_from_slice(&sink[..read as usize]);
                    let now = now_us();
                    while let Some((len, head)) = frame_len(&looked_at) {
                        if looked_at.len() < len {
                            break;
                        }
                        frame = Some(len);
                        // Ours begins with a header whose time stands at 24, the rivals' with the time.
                        let at = if looked_at[head..].starts_with(b"SW") { head + 24 } else { head };
                        let sent = u64::from_le_bytes(looked_at[at..at + 8].try_into().expect("eight"));
                        delays.push(now.saturating_sub(sent));
                        looked_at.drain(..len);
                    }
                }
            }
        }
        libc::close(epoll);
        Ok((frame.map_or(0, |frame| bytes / frame), delays))
    }
}

fn frame_len(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [_, len, ..] if len < 126 => Some((2 + usize::from(len), 2)),
        [_, 126, a, b, ..] => Some((4 + usize::from(u16::from_be_bytes([a, b])), 4)),
        _ => None,
    }
}

fn pin(core: usize) {
    pin_process(0, core);
}

fn pin_process(pid: u32, core: usize) {
    // SAFETY: a set of processors on the stack.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(pid as i32, size_of_val(&set), &set);
    }
}

// ---- the servers in Rust ----

fn cpu() -> (u64, u64) {
    // SAFETY: the kernel fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    (us(usage.ru_utime), us(usage.ru_stime))
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Reads commands and publishes.
fn publish(clients: impl Fn() -> usize, send: impl Fn()) {
    println!("READY");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [_, events, burst, gap_us, _] = numbers[..] else { return };
        if events == 0 {
            println!("{} {} 0 0", clients(), rss_kib());
            continue;
        }
        let before = cpu();
        let started = Instant::now();
        let mut sent = 0;
        for turn in 0.. {
            let due = Duration::from_micros(gap_us * turn);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            for _ in 0..burst.min(events - sent) {
                send();
                sent += 1;
            }
            if sent == events {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(1500));
        let after = cpu();
        println!("{} {} {} {}", clients(), rss_kib(), after.0 - before.0, after.1 - before.1);
    }
}

fn serve_as(name: &str, port: u16) {
    match name {
        "straightway" => ours(port),
        "tungstenite" => tungstenite(port),
        "axum" => axum(port),
        other => panic!("no server {other:?}"),
    }
}

fn ours(port: u16) {
    use straightway::codec::event::{EventRef, Subscribe};
    use straightway::codec::ws::accept_key;
    use straightway::codec::{Agreed, Encoding, OptimizerMode};
    use straightway::feed::{Feed, FeedLimits, Subscriber};
    let limits = FeedLimits { max_subscribers: 20_000, ..FeedLimits::default() };
    let feed = std::sync::Arc::new(Feed::start("bench".into(), limits, OptimizerMode::On).expect("started"));
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("bound");
    let accepting = feed.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepted");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).expect("read");
                head.push(byte[0]);
            }
            let accept = accept_key("dGhlIHNhbXBsZSBub25jZQ==");
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
            stream.write_all(answer.as_bytes()).expect("written");
            let wanted = Subscribe { kinds: vec!["stored".into()], ..Subscribe::default() };
            let reserved = accepting.reserve(&wanted, None).expect("sound").expect("room");
            // The hello would be one more message to count.
            let agreed = Agreed { subprotocol: None, encoding: Encoding::Json, zstd: false };
            let agreed = Agreed { encoding: Encoding::Rkyv, ..agreed };
            accepting.join(reserved, Subscriber { stream, unread: bytes::Bytes::new(), agreed, deflate: false, wanted });
        }
    });
    // With header and archive around it, a kilobyte in all.
    let key = "k".repeat(PAYLOAD - 32 - 66);
    let publishing = feed.clone();
    publish(
        || feed.stats().subscribers as usize,
        move || publishing.publish(&EventRef { key: &key, node: "bench", ..EventRef::default() }),
    );
}

fn payload() -> bytes::Bytes {
    let mut payload = vec![0; PAYLOAD];
    payload[..8].copy_from_slice(&now_us().to_le_bytes());
    payload.into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn tungstenite(port: u16) {
    use futures_util::{SinkExt, StreamExt};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
    let clients = Arc::new(AtomicUsize::new(0));
    let (sender, _) = tokio::sync::broadcast::channel::<Message>(1024);
    let (counting, publishing) = (clients.clone(), sender.clone());
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("bound");
            while let Ok((stream, _)) = listener.accept().await {
                let (clients, mut events) = (counting.clone(), sender.subscribe());
                tokio::spawn(async move {
                    stream.set_nodelay(true).expect("set");
                    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(16 * 1024);
                    let socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await.expect("upgraded");
                    clients.fetch_add(1, Ordering::Relaxed);
                    let (mut sink, mut incoming) = socket.split();
                    tokio::spawn(async move { while incoming.next().await.is_some() {} });
                    while let Ok(message) = events.recv().await {
                        if sink.feed(message).await.is_err() {
                            return;
                        }
                        while let Ok(message) = events.try_recv() {
                            if sink.feed(message).await.is_err() {
                                return;
                            }
                        }
                        if sink.flush().await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
    wait_for(port);
    publish(|| clients.load(Ordering::Relaxed), move || drop(publishing.send(Message::Binary(payload()))));
}

fn axum(port: u16) {
    use axum::extract::ws::{Message, WebSocketUpgrade};
    use futures_util::{SinkExt, StreamExt};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let clients = Arc::new(AtomicUsize::new(0));
    let (sender, _) = tokio::sync::broadcast::channel::<Message>(1024);
    let (counting, publishing) = (clients.clone(), sender.clone());
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let app = axum::Router::new().route(
                "/",
                axum::routing::any(move |upgrade: WebSocketUpgrade| {
                    let (clients, mut events) = (counting.clone(), sender.subscribe());
                    async move {
                        let upgrade = upgrade.read_buffer_size(4096).write_buffer_size(16 * 1024);
                        upgrade.on_upgrade(move |socket| async move {
                            clients.fetch_add(1, Ordering::Relaxed);
                            let (mut sink, mut incoming) = socket.split();
                            tokio::spawn(async move { while incoming.next().await.is_some() {} });
                            while let Ok(message) = events.recv().await {
                                if sink.feed(message).await.is_err() {
                                    return;
                                }
                                while let Ok(message) = events.try_recv() {
                                    if sink.feed(message).await.is_err() {
                                        return;
                                    }
                                }
                                if sink.flush().await.is_err() {
                                    return;
                                }
                            }
                        })
                    }
                }),
            );
            use axum::serve::ListenerExt;
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("bound");
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("set"));
            axum::serve(listener, app).await.expect("served");
        });
    });
    wait_for(port);
    publish(|| clients.load(Ordering::Relaxed), move || drop(publishing.send(Message::Binary(payload()))));
}

fn wait_for(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
}
