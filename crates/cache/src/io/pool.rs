//! Threads that may block: a fixed number of them, with a bounded queue in front.
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The pool. Dropping it waits for what is under way.
#[derive(Debug)]
pub(crate) struct BlockingPool {
    sender: Option<Sender<Job>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Jobs that may wait. Far above what the callers' own bounds (pieces a writer, windows a reader) allow.
const MAX_QUEUED: usize = 64 * 1024;
/// Hints (prefetching) are dropped when this many jobs wait already.
const MAX_QUEUED_FOR_HINTS: usize = 64;

impl BlockingPool {
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::bounded::<Job>(MAX_QUEUED);
        let threads: io::Result<Vec<_>> = (0..threads.max(1))
            .map(|number| {
                let receiver = receiver.clone();
                std::thread::Builder::new()
                    .name(format!("sw-io-{number}"))
                    .spawn(move || work(&receiver))
            })
            .collect();
        Ok(Self { sender: Some(sender), threads: Mutex::new(threads?) })
    }

    /// Runs a job; `None` when the queue is full, the pool has stopped or the job panicked.
    pub(crate) fn run<R, J>(&self, job: J) -> impl Future<Output = Option<R>> + Send + use<R, J>
    where
        R: Send + 'static,
        J: FnOnce() -> R + Send + 'static,
    {
        let (done, waiting) = oneshot::channel();
        self.submit(Box::new(move || drop(done.send(job()))));
        async move { waiting.await.ok() }
    }

    /// Runs a job if the pool has time for it.
    pub(crate) fn try_run(&self, job: impl FnOnce() + Send + 'static) {
        if self.sender.as_ref().is_some_and(|sender| sender.len() < MAX_QUEUED_FOR_HINTS) {
            self.submit(Box::new(job));
        }
    }

    /// Queues a job; a full queue drops it, which its waiter sees.
    fn submit(&self, job: Job) {
        if let Some(sender) = &self.sender {
            drop(sender.try_send(job));
        }
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        self.sender = None;
        for thread in self.threads.lock().drain(..) {
            // The last owner may be one of the jobs: a thread cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

fn work(receiver: &Receiver<Job>) {
    while let Ok(job) = receiver.recv() {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("an I/O job panicked");
        }
    }
}
