//! How bytes get to the device and back without blocking those who wait for them.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use straightway_buffer::PooledBuffer;
use tokio::sync::oneshot;

pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod standard;
#[cfg(target_os = "linux")]
pub(crate) mod uring;

/// Which I/O backend to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// io_uring where the kernel has it, else the standard backend.
    #[default]
    Auto,
    /// `pread`/`pwrite` on a bounded pool of threads, with mapping, `sendfile` and O_DIRECT.
    Standard,
    /// io_uring, or an error where the kernel refuses it.
    IoUring,
    /// Nothing but positioned reads and writes: no mapping, no `sendfile`, no O_DIRECT.
    Portable,
}

/// Starts reads and writes. Buffers are owned by the operation until it is complete, whoever stops waiting for it.
pub(crate) trait IoEngine: Send + Sync + 'static {
    /// Its name, as `--io` spells it.
    fn name(&self) -> &'static str;

    /// Writes buffers one behind the other; each is a multiple of 4096 bytes long. `keep` lives until the device is
    /// done, whoever stops waiting for it.
    fn write(&self, buffers: Vec<PooledBuffer>, offset: u64, keep: Keep) -> Completion<()>;

    /// Fills a buffer with exactly `len` bytes.
    fn read(&self, buffer: PooledBuffer, offset: u64, len: usize) -> Completion<PooledBuffer>;
}

/// What must stay as it is while an operation is under way.
pub(crate) type Keep = Arc<dyn Send + Sync>;

/// An operation under way. Dropping it does not stop the operation.
#[derive(Debug)]
pub(crate) struct Completion<T>(oneshot::Receiver<io::Result<T>>);

/// The other end of a [`Completion`].
pub(crate) type Done<T> = oneshot::Sender<io::Result<T>>;

impl<T> Completion<T> {
    pub(crate) fn pair() -> (Done<T>, Self) {
        let (done, waiting) = oneshot::channel();
        (done, Self(waiting))
    }
}

impl<T> Future for Completion<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let lost = || Err(io::Error::new(io::ErrorKind::BrokenPipe, "the I/O backend has stopped"));
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or_else(|_| lost()))
    }
}
