//! The io_uring itself: submission and completion queues, and the addresses that the kernel is given.
use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use straightway_buffer::PooledBuffer;

/// A ring and the eventfd counter that it reads to be woken.
pub(crate) struct Ring {
    uring: IoUring,
    /// Boxed: the kernel writes here while the ring may move.
    counter: Box<[u8; 8]>,
    waking: bool,
}

/// A read or write, with the memory that it works on.
pub(crate) struct Operation {
    buffers: Vec<PooledBuffer>,
    /// Rebuilt for every submission; the kernel reads it until the completion.
    vectors: Vec<libc::iovec>,
    offset: u64,
    done: usize,
    total: usize,
    writes: bool,
}

// SAFETY: the vectors point into the buffers that the operation owns (heap memory that does not move with it), and are
// only read by the kernel.
unsafe impl Send for Operation {}

/// The descriptors of a cache file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors {
    pub(crate) read: RawFd,
    pub(crate) write: RawFd,
}

impl Operation {
    pub(crate) fn write(buffers: Vec<PooledBuffer>, offset: u64) -> Self {
        let total = buffers.iter().map(|buffer| buffer.len()).sum();
        Self { buffers, vectors: Vec::new(), offset, done: 0, total, writes: true }
    }

    pub(crate) fn read(mut buffer: PooledBuffer, offset: u64, len: usize) -> io::Result<Self> {
        buffer.set_len(len).map_err(io::Error::other)?;
        Ok(Self {
            buffers: vec![buffer],
            vectors: Vec::new(),
            offset,
            done: 0,
            total: len,
            writes: false,
        })
    }

    /// Takes note of a completion's result; `true` when the operation is whole.
    pub(crate) fn advance(&mut self, result: i32) -> io::Result<bool> {
        match usize::try_from(result) {
            Ok(0) if self.done < self.total => Err(if self.writes {
                io::ErrorKind::WriteZero
            } else {
                io::ErrorKind::UnexpectedEof
            }
            .into()),
            Ok(step) => {
                self.done += step;
                Ok(self.done >= self.total)
            }
            Err(_) if result == -libc::EINTR || result == -libc::EAGAIN => Ok(false),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        }
    }

    /// The buffer of a read.
    pub(crate) fn into_buffer(mut self) -> Option<PooledBuffer> {
        self.buffers.pop()
    }

    /// Points the vectors at what is left to do.
    fn aim(&mut self) {
        let mut skip = self.done;
        self.vectors.clear();
        for buffer in &mut self.buffers {
            let part = &mut buffer[..];
            let from = skip.min(part.len());
            skip -= from;
            let rest = &mut part[from..];
            if !rest.is_empty() {
                self.vectors
                    .push(libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() });
            }
        }
    }
}

impl Ring {
    pub(crate) fn new(depth: u32) -> io::Result<Self> {
        Ok(Self { uring: IoUring::new(depth)?, counter: Box::new([0; 8]), waking: false })
    }

    /// Whether the kernel knows the operations that are used here.
    pub(crate) fn probe(&mut self) -> io::Result<()> {
        let mut probe = Probe::new();
        self.uring.submitter().register_probe(&mut probe)?;
        let known = [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Read::CODE]
            .iter()
            .all(|code| probe.is_supported(*code));
        if known { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// Hands an operation to the kernel. The caller keeps it, unmoved in what it owns, until its completion.
    pub(crate) fn push(
        &mut self,
        files: Descriptors,
        operation: &mut Operation,
        id: u64,
    ) -> io::Result<()> {
        operation.aim();
        let offset = operation.offset + operation.done as u64;
        let count = u32::try_from(operation.vectors.len()).map_err(io::Error::other)?;
        let vectors = operation.vectors.as_ptr();
        let entry = if operation.writes {
            opcode::Writev::new(types::Fd(files.write), vectors, count).offset(offset).build()
        } else {
            opcode::Readv::new(types::Fd(files.read), vectors, count).offset(offset).build()
        };
        self.submit(&entry.user_data(id))
    }

    /// Asks for a completion when the eventfd is written to.
    pub(crate) fn read_wake(&mut self, eventfd: RawFd, id: u64) -> io::Result<()> {
        let entry = opcode::Read::new(types::Fd(eventfd), self.counter.as_mut_ptr(), 8)
            .build()
            .user_data(id);
        self.submit(&entry)?;
        self.waking = true;
        Ok(())
    }

    /// Submits what was pushed and waits for at least one completion.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        match self.uring.submit_and_wait(1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// The next completion: the operation's number and its result.
    pub(crate) fn completed(&mut self) -> Option<(u64, i32)> {
        let entry = self.uring.completion().next()?;
        Some((entry.user_data(), entry.result()))
    }

    /// Leaves the counter to a read that may still be under way: eight bytes, once, at the end of an engine's life.
    pub(crate) fn forget_wake(&mut self) {
        if self.waking {
            let counter = std::mem::replace(&mut self.counter, Box::new([0; 8]));
            Box::leak(counter);
        }
    }

    fn submit(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: io_uring(7): buffers "must remain valid until the operation completes". The operation's memory is
        // owned by the engine's table until `completed` names its number; the wake-up counter is boxed and leaked
        // rather than freed while a read may be under way.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed
            .map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "the submission queue is full"))
    }
}
