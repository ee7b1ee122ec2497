//! Buffers that are borrowed, shared and given back instead of being allocated, zeroed and copied.
//!
//! ```text
//!                 +--share--> SharedPacket (many readers) --into_bytes--> Bytes
//!                 |             |   ^ try_into_mut: the last reader
//! BufferPool --acquire--> PooledBuffer (one writer) --freeze--> Bytes
//!    ^                          |
//!    +-------- drop, of the last one, on any thread --------
//! ```
//! One mechanism, in presets: [`BufferPool`] with any size classes, [`LargeBufferPool`] with three page-aligned tiers,
//! and [`MemoryPool`] for exact sizes with [`ZeroCopyBuffer`] as its cursor. Beside them [`packet`] (a pool of its own in each
//! thread, for `BytesMut` of 256, 512 and 1500 bytes), [`Arena`] (a batch in one buffer), [`StackBuffer`] and [`MappedBuffer`] (huge
//! pages), and the one counted copying function.
//!
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
#![cfg_attr(loom, allow(dead_code, reason = "no caches per thread and no waiting under loom"))]

mod arena;
mod class;
mod config;
mod copy;
mod cursor;
mod error;
mod exact;
#[cfg(not(loom))]
mod local;
mod mapped;
#[cfg(all(test, loom))]
#[expect(clippy::expect_used, reason = "a model that cannot go on says so")]
mod models;
pub mod packet;
mod pool;
mod pooled;
#[allow(unsafe_code, reason = "memory and its counts; each block is argued")]
mod raw;
mod shared;
mod stack;
mod stats;
mod sync;
mod tiered;
#[cfg(not(loom))]
mod waiting;
mod watch;

pub use arena::{Arena, ArenaBatch};
pub use config::{Exhaustion, PoolConfig};
pub use copy::{CopyStats, Reason, copied, copy_counted, count_copied};
pub use cursor::ZeroCopyBuffer;
pub use error::BufferError;
pub use exact::{MemoryPool, MemoryPoolStats};
pub use mapped::{Backing, HugePages, MappedBuffer};
pub use pool::BufferPool;
pub use pooled::PooledBuffer;
pub use shared::SharedPacket;
pub use stack::StackBuffer;
pub use stats::PoolStats;
pub use tiered::{BufferTier, LargeBufferPool};
pub use watch::LeakReport;
