//! Positioned reads and writes on threads that may block.
use std::io::{self, IoSlice};
use std::sync::Arc;

use straightway_buffer::PooledBuffer;

use crate::device::Device;
use crate::io::pool::BlockingPool;
use crate::io::{Completion, IoEngine, Keep};

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

    fn write(&self, buffers: Vec<PooledBuffer>, offset: u64, keep: Keep) -> Completion<()> {
        self.start(move |device| {
            let slices: Vec<IoSlice<'_>> =
                buffers.iter().map(|buffer| IoSlice::new(buffer)).collect();
            let written = device.write_vectored_at(&slices, offset);
            drop(keep);
            written
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

#[cfg(test)]
mod tests {
    use super::*;
    use straightway_buffer::{LargeBufferPool, PoolConfig};

    /// A device whose writes wait until the test lets them go.
    struct Gated(crossbeam_channel::Receiver<()>);

    impl Device for Gated {
        fn len(&self) -> u64 {
            1 << 20
        }

        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Ok(())
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            self.0.recv().map_err(io::Error::other)
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_write_needs_outlives_whoever_stops_waiting_for_it() {
        let (let_go, gate) = crossbeam_channel::bounded(1);
        let pool = Arc::new(BlockingPool::new(1).expect("a thread"));
        let engine = StandardEngine::new("standard", Arc::new(Gated(gate)), pool.clone());
        let buffer = LargeBufferPool::new(PoolConfig::default()).acquire(4096).expect("a buffer");
        let segment = Arc::new(());
        let completion = engine.write(vec![buffer], 0, segment.clone());
        // The upload is given up; its write is not done.
        drop(completion);
        assert_eq!(Arc::strong_count(&segment), 2, "the segment is still held");
        let_go.send(()).expect("the write goes on");
        // Ends the pool's thread once it has done everything.
        drop((engine, pool));
        assert_eq!(Arc::strong_count(&segment), 1);
    }
}
