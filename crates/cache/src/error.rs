//! Everything that can go wrong in the cache, one variant per cause.
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a cache operation failed. Each message says what happened to what, and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The key is empty, too long, or holds a NUL byte.
    #[error("the key is not usable: {reason}; use 1 to 2048 bytes of UTF-8 without NUL")]
    InvalidKey {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Content type or tags exceed what an extent header can hold.
    #[error("the {what} is {len} long, over the limit of {limit}; shorten it")]
    MetadataTooLong {
        /// Which part.
        what: &'static str,
        /// Its length (bytes, or number of tags).
        len: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The object is larger than the cache accepts.
    #[error(
        "an object of {len} bytes is over the limit of {limit} bytes; raise the cache size or the object limit"
    )]
    TooLarge {
        /// The object's length, as far as known.
        len: u64,
        /// The limit in force.
        limit: u64,
    },
    /// No run of regions could be freed: everything is being written or read.
    #[error(
        "no space for {len} bytes: every candidate region is in use by readers or writers; retry, or enlarge the cache"
    )]
    NoSpace {
        /// Bytes that were asked for.
        len: u64,
    },
    /// The body ended early or ran over its announced length.
    #[error(
        "the body of {key:?} has {actual} bytes where {expected} were announced; nothing was stored"
    )]
    LengthMismatch {
        /// The object's key.
        key: String,
        /// Announced length.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The body's source failed half way.
    #[error("the body of {key:?} broke off after {received} bytes; nothing was stored")]
    Body {
        /// The object's key.
        key: String,
        /// Bytes received until then.
        received: u64,
        /// The source's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object changed, or exists, although the caller asked for the opposite.
    #[error("{key:?} is not in the state that the caller asked for; look it up again")]
    PreconditionFailed {
        /// The object's key.
        key: String,
    },
    /// The stored bytes do not match their checksum; the object has been dropped.
    #[error(
        "the stored bytes of {key:?} fail their checksum; the object was dropped, store it again"
    )]
    Corrupt {
        /// The object's key.
        key: String,
    },
    /// A range outside the object.
    #[error("the range {start}..{end} is outside an object of {len} bytes")]
    Range {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// The object's length.
        len: u64,
    },
    /// Another process holds the cache file.
    #[error("{} is in use by another process; stop it, or name another file", path.display())]
    InUse {
        /// The cache file.
        path: PathBuf,
    },
    /// The file holds something else; it was left untouched.
    #[error("{} is not a Straightway cache; name another file, or pass --format to overwrite it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("{} has {found}, which this version does not know; use one that does, or --format to overwrite it", path.display())]
    NewerFormat {
        /// The cache file.
        path: PathBuf,
        /// The version or feature that is not known.
        found: String,
    },
    /// The file's superblocks are both damaged.
    #[error("{} has no readable superblock; restore it, or pass --format to start empty", path.display())]
    Damaged {
        /// The cache file.
        path: PathBuf,
    },
    /// Sizes that do not fit together, given or on disk.
    #[error("{what} is {value}: {reason}")]
    Geometry {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The disk is full.
    #[error("no room to preallocate {size} bytes for {}; free some space, or ask for a smaller cache", path.display())]
    DiskFull {
        /// The cache file.
        path: PathBuf,
        /// Bytes that were asked for.
        size: u64,
    },
    /// An I/O backend that was asked for by name is not available here.
    #[error("the {engine} backend is not available on this system; use --io auto")]
    EngineUnavailable {
        /// The backend's name.
        engine: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The operating system refused.
    #[error("{what} failed for {}", path.display())]
    Io {
        /// The act, such as "reading an extent".
        what: &'static str,
        /// The cache file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The buffer pool is exhausted and its policy is to fail.
    #[error(
        "no buffer to work in; lower the number of concurrent transfers or raise the pool's limit"
    )]
    Buffer(#[from] straightway_buffer::BufferError),
    /// More purges in a short time than can be remembered until they are swept.
    #[error("more than {limit} purges are still being swept; retry, or purge a shorter prefix")]
    TooManyPurges {
        /// Purges that may be in force at a time.
        limit: usize,
    },
    /// The cache was closed.
    #[error("the cache is closed; open it again")]
    Closed,
}
