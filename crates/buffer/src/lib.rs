//! Buffers that are borrowed, shared and given back instead of being allocated, zeroed and copied.
//!
//! ```text
//! LargeBufferPool --acquire--> PooledBuffer (unique, writable) --freeze--> Bytes (shared, read-only)
//!        ^                          |                                        |
//!        +------- drop -------------+----------- last clone dropped ---------+
//! ```
//! *Knows:* memory. *Does not know:* files, sockets, threads' names.
//!
//! ```
//! use straightway_buffer::{LargeBufferPool, PoolConfig, Reason};
//!
//! let pool = LargeBufferPool::new(PoolConfig::default());
//! let mut buffer = pool.acquire(10_000)?;
//! assert_eq!(buffer.capacity(), 16 * 1024);
//! buffer.fill_from(b"straight", Reason::Ingest);
//! let shared = buffer.freeze();
//! assert_eq!(&shared[..], b"straight");
//! drop(shared);
//! assert_eq!(pool.stats().returns, 1);
//! # Ok::<(), straightway_buffer::BufferError>(())
//! ```
#![deny(unsafe_code)]

mod class;
mod copy;
mod error;
mod pool;
mod pooled;
#[allow(unsafe_code, reason = "slab memory; each block is argued")]
mod raw;
mod stats;
mod sync;

pub use class::BufferTier;
pub use copy::{CopyStats, Reason, copied, copy_counted, count_copied};
pub use error::BufferError;
pub use pool::{Exhaustion, LargeBufferPool, PoolConfig};
pub use pooled::PooledBuffer;
pub use stats::PoolStats;
