//! The access log: one line a request of the data listeners, on standard error.
//!
//! A network thread hands a line over and goes on; a thread of its own writes. When the disk or terminal behind standard
//! error is slower than the requests, lines are left out and counted, rather than requests held up.
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use serde::Serialize;

use crate::config::settings::AccessLog;

/// Lines that may wait to be written.
const WAITING: usize = 4096;

/// Where requests are told.
#[derive(Debug, Clone)]
pub(crate) struct AccessLogger {
    sender: SyncSender<Record>,
    left_out: Arc<AtomicU64>,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) status: StatusCode,
    /// Bytes handed to the kernel, head included.
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    /// Whether the answer went out to its end.
    pub(crate) complete: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    peer: Option<String>,
    method: &'a str,
    target: &'a str,
    status: u16,
    bytes: u64,
    seconds: f64,
    complete: bool,
}

impl AccessLogger {
    /// Starts the thread that writes; `None` when nothing is to be logged.
    pub(crate) fn start(format: AccessLog) -> io::Result<Option<Self>> {
        if format == AccessLog::Off {
            return Ok(None);
        }
        let (sender, lines) = sync_channel(WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        let counted = left_out.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&lines, &counted, format))?;
        Ok(Some(Self { sender, left_out }))
    }

    /// Tells a request; never waits.
    pub(crate) fn tell(&self, record: Record) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(record) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(lines: &Receiver<Record>, left_out: &AtomicU64, format: AccessLog) {
    let mut out = BufWriter::new(io::stderr());
    while let Ok(record) = lines.recv() {
        let mut written = write_line(&mut out, &record, format);
        // What came in meanwhile goes out in the same write.
        while let Ok(record) = lines.try_recv() {
            written = written.and_then(|()| write_line(&mut out, &record, format));
        }
        let lost = left_out.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "the access log is slower than the requests; lines were left out");
        }
        if written.and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

fn write_line(out: &mut impl Write, record: &Record, format: AccessLog) -> io::Result<()> {
    let Record { peer, method, target, status, bytes, took, complete } = record;
    let seconds = took.as_secs_f64();
    let now = SystemTime::now();
    if format == AccessLog::Json {
        let time = httpdate::fmt_http_date(now);
        let line = Line {
            time,
            peer: peer.map(|peer| peer.ip().to_string()),
            method: method.as_str(),
            target,
            status: status.as_u16(),
            bytes: *bytes,
            seconds,
            complete: *complete,
        };
        serde_json::to_writer(&mut *out, &line)?;
        return out.write_all(b"\n");
    }
    let peer = peer.map_or_else(|| "-".to_owned(), |peer| peer.ip().to_string());
    let end = if *complete { "" } else { " aborted" };
    // A target holds no spaces or quotes: hyper refuses those.
    writeln!(
        out,
        "{peer} - - [{}] \"{method} {target} HTTP/1.1\" {} {bytes} {seconds:.6}{end}",
        httpdate::fmt_http_date(now),
        status.as_u16(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            peer: Some(SocketAddr::from(([10, 0, 0, 1], 5))),
            method: Method::GET,
            target: "/a/b?c".to_owned(),
            status: StatusCode::OK,
            bytes: 1234,
            took: Duration::from_micros(250),
            complete: true,
        }
    }

    #[test]
    fn lines_say_who_asked_for_what_and_what_came_of_it() {
        let mut text = Vec::new();
        write_line(&mut text, &record(), AccessLog::Text).expect("written");
        let text = String::from_utf8(text).expect("text");
        assert!(text.starts_with("10.0.0.1 - - ["), "{text}");
        assert!(text.ends_with("] \"GET /a/b?c HTTP/1.1\" 200 1234 0.000250\n"), "{text}");
        let mut text = Vec::new();
        let broken = Record { complete: false, ..record() };
        write_line(&mut text, &broken, AccessLog::Json).expect("written");
        let line: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(
            (&line["target"], &line["status"], &line["complete"]),
            (&"/a/b?c".into(), &200.into(), &false.into())
        );
    }
}
