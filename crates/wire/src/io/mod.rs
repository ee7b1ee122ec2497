//! Messages over anything that reads and writes bytes. The only files here that wait.
//!
//! Every step (a header, a stretch of payload, a write) has a time limit of its own, and a message that is read has one
//! by its length. [`MessageReader::next`] may be
//! cancelled: nothing that was read is lost. The free functions may not: what was read or written of a message is gone,
//! and with it the place in the stream.
mod read;
mod reader;
mod write;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

pub use read::{read_message, read_message_with, read_message_zero_copy};
pub use reader::{MessageReader, Source, StreamSource};
pub use write::{write_message, write_message_zero_copy, write_payload, write_segments};

use tokio::time::Instant;

use crate::error::WireError;
use crate::limits::Limits;

/// Bytes of a message that have to come in a second: who is slower holds memory for nothing.
pub const MIN_RATE: u32 = 64 << 10;

/// Limits of sizes and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoConfig {
    /// How large things may be.
    pub limits: Limits,
    /// How long a step may take once a message has begun.
    pub timeout: Duration,
    /// How long the beginning of a message is waited for; `None`: for ever.
    pub idle: Option<Duration>,
}

impl Default for IoConfig {
    fn default() -> Self {
        let timeout = Duration::from_secs(30);
        Self { limits: Limits::default(), timeout, idle: Some(timeout) }
    }
}

impl IoConfig {
    /// How long a message of `len` bytes is waited for, all in all.
    pub fn patience(&self, len: usize) -> Duration {
        let seconds = len as f64 / f64::from(MIN_RATE);
        self.timeout.saturating_add(Duration::from_secs_f64(seconds))
    }
}

/// Does `act`, within a time if one is given. The clock is only looked at where there is something to wait for.
async fn within<T>(
    wait: Option<Duration>,
    step: &'static str,
    act: impl Future<Output = std::io::Result<T>>,
) -> Result<T, WireError> {
    within_counted(wait, step, act, &mut None).await
}

/// As [`within`], and says when it began to wait, if it did.
async fn within_counted<T>(
    wait: Option<Duration>,
    step: &'static str,
    act: impl Future<Output = std::io::Result<T>>,
    waiting: &mut Option<Instant>,
) -> Result<T, WireError> {
    let mut act = pin!(act);
    let mut limit = pin!(None);
    poll_fn(|context| {
        if let Poll::Ready(done) = act.as_mut().poll(context) {
            return Poll::Ready(done.map_err(WireError::io(step)));
        }
        let Some(wait) = wait else { return Poll::Pending };
        if limit.is_none() {
            let now = Instant::now();
            *waiting = Some(now);
            limit.set(Some(tokio::time::sleep_until(now + wait)));
        }
        match limit.as_mut().as_pin_mut().map(|limit| limit.poll(context)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(WireError::Timeout { step, waited: wait })),
            _ => Poll::Pending,
        }
    })
    .await
}
