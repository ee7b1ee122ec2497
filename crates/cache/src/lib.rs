//! A raw disk cache: one preallocated file or block device whose bytes leave by mapping or `sendfile`.
//!
//! An object is written once, with O_DIRECT, into a contiguous extent; from then on it is only borrowed:
//! [`RawDiskCache::lookup_zero_copy`] hands out a [`bytes::Bytes`] that points into the mapping and pins the extent
//! until its last clone is dropped, and [`RawDiskCache::sendfile_to_socket`] never brings the bytes into user space.
//!
//! *Knows:* files, block devices, io_uring. *Does not know:* HTTP, sockets other than as file descriptors, clusters.
//!
//! ```
//! # use std::time::Duration;
//! # use bytes::Bytes;
//! # use straightway_cache::RawDiskCache;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let path = dir.path().join("straightway.cache");
//! let cache = RawDiskCache::new(&path, 16 * 1024 * 1024, 4096, Duration::from_secs(3600)).await?;
//! cache.store("model", Bytes::from(vec![7; 1024 * 1024])).await?;
//! let body = cache.lookup_zero_copy("model").await?.ok_or("a miss")?;
//! assert_eq!(body.len(), 1024 * 1024);
//! assert!(cache.remove("model").await?);
//! cache.close().await?;
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod cache;
mod checkpoint;
mod clock;
mod commit;
mod config;
mod core;
mod device;
mod error;
mod format;
mod fsck;
mod index;
mod io;
mod iter;
mod journal;
mod meta;
mod observe;
mod open;
mod pack;
pub mod policy;
mod purge;
mod read;
mod reclaim;
mod recover;
mod scrub;
mod segment;
mod send;
mod stats;
mod sweep;
mod sync;
#[allow(unsafe_code, reason = "mapping and system calls; each block is argued")]
mod sys;
mod threads;
mod write;
mod zero_copy;

pub use cache::{CacheInfo, RawDiskCache, SegmentInfo, SegmentKind};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::CacheBuilder;
pub use error::CacheError;
pub use fsck::{FsckDamage, FsckProgress, FsckReport, fsck};
pub use io::IoMode;
pub use iter::ObjectIter;
pub use meta::{MAX_KEY_BYTES, ObjectMeta, Version};
pub use observe::{Observer, Removal};
pub use purge::{Purge, Purged};
pub use read::Object;
pub use stats::{CacheStats, ZeroCopyStats};
pub use write::{Expect, ObjectWriter, StoreOptions, Stored};
pub use zero_copy::{FileRange, ReadPath, ZeroCopyConfig, ZeroCopyManager};
