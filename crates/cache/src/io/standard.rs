//! Positioned reads and writes on threads that may block.
use std::io::{self, IoSlice};
use std::sync::Arc;

use straightway_buffer::PooledBuffer;

use crate::device::Device;
use crate::io::pool::BlockingPool;
use crate::io::{Completion, IoEngine};

/// The backend that works everywhere.
pub(crate) struct StandardEngine {
    name: &'static str,
    device: Arc<dyn Device>,
    pool: Arc<BlockingPool>,
}

impl StandardEngine {
    pub(crate) fn new(
        name: &'static str,
        device: Arc<dyn Device>,
        pool: Arc<BlockingPool>,
    ) -> Self {
        Self { name, device, pool }
    }

    fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Device) -> io::Result<T> + Send + 'static,
    ) -> Completion<T> {
        let (done, completion) = Completion::pair();
        let device = self.device.clone();
        // The outcome goes through the completion; nobody waits for the job itself.
        drop(self.pool.run(move || drop(done.send(work(&*device)))));
        completion
    }
}

impl IoEngine for StandardEngine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn write(&self, buffers: Vec<PooledBuffer>, offset: u64) -> Completion<()> {
        self.start(move |device| {
            let slices: Vec<IoSlice<'_>> =
                buffers.iter().map(|buffer| IoSlice::new(buffer)).collect();
            device.write_vectored_at(&slices, offset)
        })
    }

    fn read(&self, mut buffer: PooledBuffer, offset: u64, len: usize) -> Completion<PooledBuffer> {
        self.start(move |device| {
            buffer.set_len(len).map_err(io::Error::other)?;
            device.read_at(&mut buffer, offset)?;
            Ok(buffer)
        })
    }
}
