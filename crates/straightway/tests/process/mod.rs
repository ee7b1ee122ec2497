//! A node as a real process, and the smallest HTTP client that can talk to it.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running node; killed when dropped.
pub struct Node {
    pub child: Child,
    pub data: SocketAddr,
    pub admin: SocketAddr,
    /// What it printed before READY.
    pub lines: Vec<String>,
}

impl Node {
    /// Starts `straightway serve` on free ports and waits for READY.
    pub fn start(cache: &Path, extra: &[&str]) -> Self {
        Self::try_start(cache, extra).expect("the node starts")
    }

    pub fn try_start(cache: &Path, extra: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_straightway"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cache"])
            .arg(cache)
            .args(extra)
            .stderr(Stdio::null());
        Self::spawn(command)
    }

    /// Starts a node by a command that says where it listens, and waits for READY.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lines = Vec::new();
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if line == "READY" {
                let address = |what: &str| {
                    lines.iter().find(|l: &&String| l.contains(what)).and_then(|l| {
                        l.split_whitespace()
                            .find_map(|word| word.strip_prefix("http://"))
                            .and_then(|a| a.trim_end_matches('/').parse().ok())
                    })
                };
                let data = address("data").ok_or(io::ErrorKind::InvalidData)?;
                let admin = address("admin").ok_or(io::ErrorKind::InvalidData)?;
                return Ok(Self { child, data, admin, lines });
            }
            lines.push(line);
        }
        let status = child.wait()?;
        Err(io::Error::other(format!("the node ended with {status} after printing {lines:?}")))
    }

    /// Ends it as a power switch would, as far as a process can tell.
    pub fn kill(mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("the node is gone");
    }

    /// Anonymous resident memory in bytes (what mapped page cache is not part of).
    pub fn anonymous_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
        let kib: u64 =
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kib * 1024
    }

    pub fn client(&self) -> Client {
        Client::connect(self.data).expect("the node accepts")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One keep-alive connection.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

impl Client {
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// One that waits for answers no longer than this.
    pub fn connect_within(to: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub fn put(&mut self, path: &str, body: &[u8]) -> io::Result<u16> {
        self.request("PUT", path, &[], Some(body)).map(|a| a.status)
    }

    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request("GET", path, &[], None)
    }

    pub fn delete(&mut self, path: &str) -> io::Result<u16> {
        self.request("DELETE", path, &[], None).map(|a| a.status)
    }

    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: node\r\n");
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if let Some(body) = body {
            head.extend(["content-length: ", &body.len().to_string(), "\r\n"]);
        }
        head += "\r\n";
        let socket = self.stream.get_mut();
        socket.write_all(head.as_bytes())?;
        if let Some(body) = body {
            socket.write_all(body)?;
        }
        self.answer(method)
    }

    /// Reads a status line and headers.
    pub fn head(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Answer { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads a whole answer to a request of `method`.
    pub fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.head()?;
        if method == "HEAD" || answer.status == 204 || answer.status == 304 {
            return Ok(answer);
        }
        let len: usize = answer
            .header("content-length")
            .and_then(|l| l.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        answer.body.resize(len, 0);
        self.stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }
}

/// Bytes that only this key, version and offset have: any mix-up shows.
pub fn body_of(key: &str, version: u64, len: usize) -> Vec<u8> {
    let mut seed = 0xcbf2_9ce4_8422_2325u64 ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in key.bytes() {
        seed = (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut random = Random(seed);
    let mut body = Vec::with_capacity(len + 8);
    while body.len() < len {
        body.extend_from_slice(&random.next().to_le_bytes());
    }
    body.truncate(len);
    body
}

/// xorshift64*: small, seeded, good enough for tests.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 |= 1;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
