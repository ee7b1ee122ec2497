//! Typed messages: rkyv archives that are read in place, JSON for those who cannot, and WebSocket frames that are built
//! once for any number of readers.
//!
//! A message is a 32-byte [`Header`] with an archive behind it. The header says what the archive is (type, version,
//! format) and all that a relay needs (priority, lifetime, offset), so that dispatch, expiry and filtering never touch
//! the archive; validation is not type checking, so the type stands outside of what is validated.
//!
//! *Knows:* bytes, types, buffers from the pool. *Does not know:* sockets, HTTP. *Is not* a schema registry:
//! versions are frozen by golden bytes, and a change is a new version with a conversion.
//!
//! ```
//! use straightway_buffer::{BufferPool, PoolConfig};
//! use straightway_codec::event::{Event, Kind};
//! use straightway_codec::{Codec, RkyvCodec};
//!
//! let pool = BufferPool::new(PoolConfig::tiered())?;
//! let event = Event { kind: Kind::Stored, key: "models/7b".into(), len: 4096, ..Event::default() };
//! let archive = RkyvCodec.encode(&event, &pool)?;
//! // No allocation, no copy: a reference into the bytes, once they are found valid.
//! let seen = Codec::<Event>::access(&RkyvCodec, &archive)?;
//! assert_eq!((seen.key.as_str(), seen.len.to_native()), ("models/7b", 4096));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod archive;
mod codec;
pub mod compress;
mod encoder;
mod envelope;
mod error;
pub mod event;
mod fallback;
mod header;
mod json;
pub mod optimizer;
mod registry;
mod sink;
pub mod ws;

pub use archive::{Archived, RkyvCodec, WireType, fingerprint, type_id};
pub use codec::Codec;
pub use encoder::{Encoder, HEADROOM, Stamp};
pub use envelope::{Compression, Encoding, Envelope, MessageMetadata, Received};
pub use error::CodecError;
pub use fallback::{
    Agreed, FallbackManager, FallbackReason, FallbackStats, JSON_SUBPROTOCOL, Peer,
    RKYV_SUBPROTOCOL, RKYV_ZSTD_SUBPROTOCOL,
};
pub use header::{Flags, HEADER_BYTES, Header, Priority};
pub use json::JsonCodec;
pub use optimizer::{OptimizationStrategy, OptimizerMode, SerializationOptimizer, TypeStats};
pub use registry::{Checked, Read, RegistryBuilder, TypeInfo, TypeRegistry};
pub use rkyv::string::ArchivedString;
