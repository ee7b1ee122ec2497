//! Writes whole messages in the way that pays: header and archive in one pass, in one buffer, with room in front for
//! the transport's own frame.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rkyv::api::low::LowSerializer;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Archive, Serialize};
use straightway_buffer::{BufferPool, PoolConfig, PoolStats, PooledBuffer, SharedPacket};

use crate::archive::{Archived, RkyvCodec, WireType, type_id};
use crate::codec::with_room;
use crate::compress::{Dictionary, EVENTS};
use crate::error::CodecError;
use crate::header::{Flags, HEADER_BYTES, Header, Priority};
use crate::optimizer::{SerializationOptimizer, Slot};
use crate::sink::Sink;

/// Bytes kept free in front of a message: the longest WebSocket frame head, rounded up so that the archive stays aligned.
pub const HEADROOM: usize = 16;
/// Encoded forms that are kept at a time.
const MAX_CACHED: usize = 64;

/// What a message's header says besides its type.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamp {
    /// See [`Header`], like all that follow.
    pub priority: Priority,
    /// Lifetime in milliseconds.
    pub ttl_ms: u32,
    /// Place in the stream.
    pub offset: u64,
    /// Time in microseconds.
    pub time_us: u64,
}

/// Encodes messages for one or many threads.
#[derive(Debug)]
pub struct Encoder {
    /// Keeps what it is given back.
    pool: BufferPool,
    /// Keeps nothing: for types that are rarely written.
    rare: BufferPool,
    optimizer: Arc<SerializationOptimizer>,
    cache: Mutex<HashMap<(u32, u64), Kept>>,
    dictionary: &'static Dictionary,
}

#[derive(Debug)]
struct Kept {
    until: Instant,
    message: SharedPacket,
}

impl Encoder {
    /// An encoder whose pool holds at most `max_bytes_held` idle bytes.
    ///
    /// # Errors
    /// [`CodecError::Buffer`] when the pool cannot be made.
    pub fn new(
        optimizer: Arc<SerializationOptimizer>,
        max_bytes_held: usize,
    ) -> Result<Self, CodecError> {
        let config = PoolConfig {
            name: "feed",
            // Most events take 250 to 500 bytes: fine steps there keep a history of them small.
            classes: vec![
                112,
                176,
                240,
                304,
                368,
                432,
                560,
                688,
                1024,
                2048,
                4096,
                16 * 1024,
                64 * 1024,
            ],
            align: 16,
            max_bytes_held,
            ..PoolConfig::tiered()
        };
        let rare = PoolConfig { name: "feed-rare", max_bytes_held: 0, ..config.clone() };
        Ok(Self {
            pool: BufferPool::new(config)?,
            rare: BufferPool::new(rare)?,
            optimizer,
            cache: Mutex::default(),
            dictionary: &EVENTS,
        })
    }

    /// Statistics of its pool.
    pub fn pool_stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// The pool, for buffers of other messages on the same way.
    pub fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// What it decides by.
    pub fn optimizer(&self) -> &SerializationOptimizer {
        &self.optimizer
    }

    /// Header and archive of a value, with [`HEADROOM`] in front. No allocation once the pool is warm.
    pub fn encode<T: WireType>(&self, stamp: Stamp, value: &T) -> Result<PooledBuffer, CodecError> {
        self.encode_as::<T, T>(stamp, 0, value)
    }

    /// As [`Self::encode`], from a form of the value that only borrows. `hint` is the archive's length where it is known,
    /// or 0: then the type's plan says how much room to ask for.
    pub fn encode_as<T: WireType, V>(
        &self,
        stamp: Stamp,
        hint: usize,
        value: &V,
    ) -> Result<PooledBuffer, CodecError>
    where
        V: Archive<Archived = Archived<T>>
            + for<'a, 'b> Serialize<LowSerializer<&'a mut Sink<'b>, ArenaHandle<'a>, Failure>>,
    {
        let slot = self.optimizer.slot(T::NAME);
        self.encode_in(&slot, (type_id(T::NAME), T::VERSION), stamp, hint, value)
    }

    fn encode_in<V>(
        &self,
        slot: &Slot,
        (type_id, version): (u32, u16),
        stamp: Stamp,
        hint: usize,
        value: &V,
    ) -> Result<PooledBuffer, CodecError>
    where
        V: for<'a, 'b> Serialize<LowSerializer<&'a mut Sink<'b>, ArenaHandle<'a>, Failure>>,
    {
        let (plan, measured) = slot.next();
        let started = measured.then(Instant::now);
        let Stamp { priority, ttl_ms, offset, time_us } = stamp;
        let flags = Flags::default();
        let header = Header { flags, type_id, version, priority, ttl_ms, offset, time_us };
        let kept = plan.pool || plan.reserve == 0;
        let pool = if kept { &self.pool } else { &self.rare };
        let hint = match (hint, plan.reserve) {
            (0, 0) => 480,
            (0, planned) => planned as usize,
            (known, _) => HEADER_BYTES + known,
        };
        let message = with_room(pool, hint, HEADROOM, |buffer| {
            buffer.set_len(HEADER_BYTES)?;
            buffer[..HEADER_BYTES].copy_from_slice(&header.encode());
            RkyvCodec.encode_any(value, buffer).map(drop)
        })?;
        if let Some(started) = started {
            slot.record(message.len(), started.elapsed());
        }
        Ok(message)
    }

    /// The encoded form of a value that many ask for within a short time: made by `encode` when there is none that is
    /// fresh. How long one stays fresh is the plan's decision, `at_most` the caller's.
    pub fn cached<T: WireType>(
        &self,
        key: u64,
        at_most: Duration,
        encode: impl FnOnce() -> Result<PooledBuffer, CodecError>,
    ) -> Result<SharedPacket, CodecError> {
        let slot = self.optimizer.slot(T::NAME);
        let key = (type_id(T::NAME), key);
        let now = Instant::now();
        if let Some(kept) = self.cache.lock().get(&key).filter(|kept| kept.until > now) {
            slot.record_reuse();
            return Ok(kept.message.clone());
        }
        let message = encode()?.share();
        let planned = Duration::from_millis(u64::from(slot.in_force().cache_ms)).min(at_most);
        // Without a plan yet, long enough to see whether anybody asks again.
        let fresh_for = planned.max(at_most.min(Duration::from_millis(20)));
        let mut cache = self.cache.lock();
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, kept| kept.until > now);
        }
        if cache.len() < MAX_CACHED {
            cache.insert(key, Kept { until: now + fresh_for, message: message.clone() });
        }
        Ok(message)
    }

    /// The compressed form of a message: the same header, and the payload as a zstd frame. `None` when the plan says
    /// that it does not pay, or it came out no smaller.
    pub fn compress<T: WireType>(
        &self,
        message: &[u8],
    ) -> Result<Option<PooledBuffer>, CodecError> {
        let slot = self.optimizer.slot(T::NAME);
        let (header, payload) = Header::parse(message)?;
        if !slot.compresses(payload.len()) {
            return Ok(None);
        }
        let mut into = self.pool.acquire(HEADROOM + message.len())?;
        into.set_headroom(HEADROOM)?;
        into.set_len(HEADER_BYTES)?;
        into[..HEADER_BYTES].copy_from_slice(&header.encode());
        Header::set_flags(&mut into, Flags::ZSTD);
        let len = self.dictionary.compress(payload, &mut into)?;
        slot.record_compression(payload.len(), len.unwrap_or(payload.len()));
        Ok(len.map(|_| into))
    }
}
