//! io_uring: reads and writes handed to the kernel in batches by one thread, without a thread for each that waits.
//!
//! The thread owns the ring. Requests reach it over a bounded channel; an `eventfd` that the ring itself reads wakes it
//! while it waits for completions. Buffers belong to the operation until its completion is seen.
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use straightway_buffer::PooledBuffer;

use crate::device::CacheFile;
use crate::io::{Completion, Done, IoEngine, Keep};
use crate::sys::ring::{Operation, Ring};

/// The backend.
pub(crate) struct UringEngine {
    requests: Option<Sender<Request>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    operation: Operation,
    done: Finish,
}

enum Finish {
    /// With what is kept until then.
    Write(Done<()>, Keep),
    Read(Done<PooledBuffer>),
}

/// Operations in the kernel at once.
const DEPTH: u32 = 128;
/// Requests that may wait for one of those places; each writer and reader has few.
const MAX_WAITING: usize = 64 * 1024;

impl UringEngine {
    /// Starts the ring's thread, or says why the kernel refuses.
    pub(crate) fn start(device: Arc<CacheFile>) -> io::Result<Self> {
        let wake = Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?);
        let mut ring = Ring::new(DEPTH)?;
        ring.probe()?;
        let (requests, receiver) = crossbeam_channel::bounded(MAX_WAITING);
        let thread = {
            let wake = wake.clone();
            std::thread::Builder::new()
                .name("sw-uring".into())
                .spawn(move || drive(ring, &device, &receiver, &wake))?
        };
        Ok(Self { requests: Some(requests), wake, thread: Some(thread) })
    }

    fn submit(&self, operation: Operation, done: Finish) {
        // A full queue drops the request; whoever waits for it sees that.
        let queued = self
            .requests
            .as_ref()
            .is_some_and(|requests| requests.try_send(Request { operation, done }).is_ok());
        if queued {
            wake(&self.wake);
        }
    }
}

impl IoEngine for UringEngine {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn write(&self, buffers: Vec<PooledBuffer>, offset: u64, keep: Keep) -> Completion<()> {
        let (done, completion) = Completion::pair();
        self.submit(Operation::write(buffers, offset), Finish::Write(done, keep));
        completion
    }

    fn read(&self, buffer: PooledBuffer, offset: u64, len: usize) -> Completion<PooledBuffer> {
        let (done, completion) = Completion::pair();
        match Operation::read(buffer, offset, len) {
            Ok(operation) => self.submit(operation, Finish::Read(done)),
            Err(error) => drop(done.send(Err(error))),
        }
        completion
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        self.requests = None;
        wake(&self.wake);
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            drop(thread.join());
        }
    }
}

fn wake(eventfd: &OwnedFd) {
    // Only a counter at its maximum refuses, and then the thread is awake anyway.
    let _full = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

const WAKE: u64 = 0;
/// Pause after the kernel has refused to wait for completions.
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// The ring's thread: takes requests while there is room, waits for completions, answers. Ends when the channel is
/// closed and nothing is in the kernel any more.
fn drive(mut ring: Ring, file: &CacheFile, requests: &Receiver<Request>, eventfd: &OwnedFd) {
    let mut under_way: HashMap<u64, Request> = HashMap::new();
    let mut next_id = WAKE + 1;
    let mut open = true;
    let mut waker_armed = false;
    while open || !under_way.is_empty() {
        if open && !waker_armed {
            waker_armed = ring.read_wake(eventfd.as_raw_fd(), WAKE).is_ok();
        }
        while under_way.len() < DEPTH as usize - 2 {
            match requests.try_recv() {
                Ok(request) => {
                    start(&mut ring, file, request, next_id, &mut under_way);
                    next_id += 1;
                }
                Err(error) => {
                    open &= !error.is_disconnected();
                    break;
                }
            }
        }
        if !open && under_way.is_empty() {
            break;
        }
        if let Err(error) = ring.wait() {
            tracing::error!(%error, "the ring cannot be waited for");
            // Short of something that may come back: not to be asked for in a circle.
            std::thread::sleep(RETRY_PAUSE);
        }
        while let Some((id, result)) = ring.completed() {
            if id == WAKE {
                waker_armed = false;
            } else if let Some(request) = under_way.remove(&id) {
                go_on(&mut ring, file, request, result, id, &mut under_way);
            }
        }
    }
    ring.forget_wake();
}

fn start(
    ring: &mut Ring,
    file: &CacheFile,
    mut request: Request,
    id: u64,
    under_way: &mut HashMap<u64, Request>,
) {
    match ring.push(file.descriptors(), &mut request.operation, id) {
        Ok(()) => drop(under_way.insert(id, request)),
        Err(error) => finish(request, Err(error)),
    }
}

/// A completed part: the rest of a short operation is started again, a whole one is answered.
fn go_on(
    ring: &mut Ring,
    file: &CacheFile,
    mut request: Request,
    result: i32,
    id: u64,
    under_way: &mut HashMap<u64, Request>,
) {
    match request.operation.advance(result) {
        Ok(true) => finish(request, Ok(())),
        Ok(false) => start(ring, file, request, id, under_way),
        Err(error) => finish(request, Err(error)),
    }
}

fn finish(request: Request, result: io::Result<()>) {
    let Request { operation, done } = request;
    match done {
        Finish::Write(done, keep) => {
            drop(keep);
            drop(done.send(result));
        }
        Finish::Read(done) => {
            let buffer = operation.into_buffer();
            drop(done.send(
                result.and_then(|()| buffer.ok_or_else(|| io::ErrorKind::InvalidData.into())),
            ));
        }
    }
}
