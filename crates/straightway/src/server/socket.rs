//! The socket that hyper writes to, and that sends mapped bytes by `sendfile`.
//!
//! *Why a write half of our own, when `hyper_util` has one?*
//!
//! 1. hyper's bodies are buffers: there is no body that means "these bytes of that file" (hyper#140 was closed, #3026 is
//!    open), so something below hyper has to turn a buffer back into a place in a file.
//! 2. A slice that lies in the cache's mapping can be recognised by its address, in safe code: the cache answers
//!    [`locate`](straightway_cache::RawDiskCache::locate). A copy of the same bytes lies elsewhere and is not taken for it.
//! 3. hyper hands slices over one by one only if [`Write::is_write_vectored`] says true; otherwise it copies the body
//!    behind the head, in user code, out of the mapping. For the same reason the server must not switch `pipeline_flush`
//!    on: it forces that copy. `flattened_bytes` counts what arrives copied, and a test expects 0.
//! 4. Only here is it known when bytes move and when the last one is gone: time limits and costs are taken from here.
//!
//! No byte of a mapped slice is ever read by this code: the kernel reads it, and a truncated file is an error of this one
//! connection (EFAULT, or an early end from `sendfile`), where a read from user code would be a SIGBUS.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use straightway_cache::{FileRange, ReadPath};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::counters::{Cut, bump};
use crate::http::exchange::{Exchange, Phase};

/// The longest slice that is a head or a part's framing. A longer one outside the mapping, in a body that was handed over
/// mapped, has been copied.
const LONGEST_FRAMING_BYTES: usize = 16 * 1024;

/// What a [`Socket`] runs over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// The bare socket, where bytes reach the wire as they are; `None` where they are encrypted on the way.
    fn bare(&self) -> Option<&TcpStream>;

    /// The socket underneath.
    fn tcp(&self) -> &TcpStream;
}

impl Transport for TcpStream {
    fn bare(&self) -> Option<&TcpStream> {
        Some(self)
    }

    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Transport for tokio_rustls::server::TlsStream<TcpStream> {
    fn bare(&self) -> Option<&TcpStream> {
        None
    }

    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// One connection's socket, as hyper sees it.
pub(crate) struct Socket<T: Transport> {
    io: TokioIo<T>,
    exchange: Arc<Exchange>,
}

impl<T: Transport> Socket<T> {
    pub(crate) fn new(transport: T, exchange: Arc<Exchange>) -> Self {
        Self { io: TokioIo::new(transport), exchange }
    }

    /// Sends the slices in order, the mapped ones by `sendfile`. Stops at the first that does not go out whole.
    fn poll_send_split(
        &self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let cache = &self.exchange.node().cache;
        let mut sent = 0;
        let mut at = 0;
        while at < slices.len() {
            let (wanted, result) = if let Some(range) = cache.locate(&slices[at]) {
                let wanted = slices[at].len();
                at += 1;
                (wanted, self.poll_sendfile(tcp, cx, range))
            } else {
                let start = at;
                while at < slices.len() && cache.locate(&slices[at]).is_none() {
                    at += 1;
                }
                let run = &slices[start..at];
                (
                    run.iter().map(|slice| slice.len()).sum(),
                    poll_sendmsg(tcp, cx, run, at < slices.len()),
                )
            };
            match result {
                Poll::Ready(Ok(bytes)) => {
                    sent += bytes;
                    if bytes < wanted {
                        break;
                    }
                }
                // What went out is told first; the same error or wait comes again with the next call.
                _ if sent > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_sendfile(
        &self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        range: FileRange,
    ) -> Poll<io::Result<usize>> {
        let cache = &self.exchange.node().cache;
        poll_writable(tcp, cx, || cache.try_sendfile(std::os::fd::AsFd::as_fd(tcp), range))
    }

    /// Counts body bytes that hyper copied, and refuses mapped ones where they would be read by encryption.
    fn inspect(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let counters = self.exchange.counters();
        for slice in slices.iter().filter(|slice| slice.len() > LONGEST_FRAMING_BYTES) {
            let mapped = self.exchange.node().cache.locate(slice).is_some();
            if mapped && self.exchange.is_encrypted() {
                bump(&counters.mapped_bytes_refused, slice.len() as u64);
                return Err(io::Error::other("mapped bytes must not be encrypted in place"));
            }
            if !mapped && self.exchange.way().is_some_and(|way| way != ReadPath::Pread) {
                bump(&counters.flattened_bytes, slice.len() as u64);
            }
        }
        Ok(())
    }
}

/// Sends slices that are not mapped. `more`: others follow at once, so that the kernel does not send a short packet.
fn poll_sendmsg(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
    more: bool,
) -> Poll<io::Result<usize>> {
    let flags = if more { SendFlags::NOSIGNAL | FLAG_MORE } else { SendFlags::NOSIGNAL };
    poll_writable(tcp, cx, || {
        Ok(rustix::net::sendmsg(tcp, slices, &mut SendAncillaryBuffer::default(), flags)?)
    })
}

#[cfg(target_os = "linux")]
const FLAG_MORE: SendFlags = SendFlags::MORE;
#[cfg(not(target_os = "linux"))]
const FLAG_MORE: SendFlags = SendFlags::empty();

/// Runs a system call when the socket takes bytes; when it would block after all, waits for the next time it does.
fn poll_writable(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    call: impl Fn() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        match tcp.try_io(Interest::WRITABLE, &call) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            result => return Poll::Ready(result),
        }
    }
}

impl<T: Transport> Write for Socket<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.inspect(slices)?;
        let started = this.exchange.is_measured().then(Instant::now);
        let result = match this.io.inner().bare() {
            Some(tcp) if this.exchange.way() == Some(ReadPath::Sendfile) => {
                this.poll_send_split(tcp, cx, slices)
            }
            _ => Pin::new(&mut this.io).poll_write_vectored(cx, slices),
        };
        let cost_ns = started
            .map_or(0, |started| u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        match &result {
            Poll::Ready(Ok(bytes)) => this.exchange.sent(*bytes, cost_ns),
            Poll::Ready(Err(error)) => tracing::debug!(%error, "a connection refused bytes"),
            Poll::Pending => this.exchange.refused(),
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.exchange.is_encrypted() {
            // Records may be waiting in the TLS layer.
            if Pin::new(&mut this.io).poll_flush(cx)?.is_pending() {
                this.exchange.refused();
                return Poll::Pending;
            }
        }
        this.exchange.flushed();
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will come. Where a body was refused half way, takes in and drops what the client still
    /// sends: closing at once would reset the connection, and the client might lose the answer (RFC 9112 §9.6).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.exchange.phase() != Phase::Lingering {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if !this.exchange.lingers() {
                return Poll::Ready(Ok(()));
            }
            // From here the sweep's limit runs; bytes that arrive do not prolong it.
            this.exchange.enter(Phase::Lingering);
        }
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(this.io.inner_mut()).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: Transport> Read for Socket<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = result {
            this.exchange.received();
        }
        result
    }
}

impl<T: Transport> Drop for Socket<T> {
    fn drop(&mut self) {
        // A client that does not read leaves megabytes in the kernel; a reset gives them back at once.
        if matches!(self.exchange.cut(), Some(Cut::Stalled | Cut::Revoked))
            && let Err(error) =
                rustix::net::sockopt::set_socket_linger(self.io.inner().tcp(), Some(Duration::ZERO))
        {
            tracing::debug!(%error, "a stuck connection could not be reset");
        }
    }
}
