//! rkyv: values whose bytes are read where they are.
//!
//! The format follows from three features of the `rkyv` crate that the workspace sets once: little-endian, unaligned,
//! 32-bit relative pointers. Unaligned archives can be read at any offset of a network buffer (aligned ones would have to
//! be copied seven times out of eight) and cost nothing on x86-64. A build with other features does not compile.
//!
//! Only plain types may be [`WireType`]s: text, vectors, options, integers, fixed arrays, flat enums. The low-level
//! validator used here has no notion of shared pointers, so a type with an `Rc` in it does not compile; maps and
//! recursion are refused by review (rkyv#684: deep nesting overflows the stack).
use std::cell::RefCell;

use rkyv::api::low::{
    LowDeserializer, LowSerializer, LowValidator, access, to_bytes_in_with_alloc,
};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::{Archive, Deserialize, Portable, Serialize};
use straightway_buffer::{BufferPool, PoolConfig, PooledBuffer};

use crate::codec::Codec;
use crate::error::CodecError;
use crate::sink::{Sink, append};

const _: () = assert!(
    align_of::<rkyv::Archived<u64>>() == 1 && size_of::<rkyv::Archived<usize>>() == 4,
    "the workspace's rkyv must be built with `unaligned` and `pointer_width_32`"
);

/// The archived form of a type.
pub type Archived<T> = <T as Archive>::Archived;

/// A type that may be on the wire. A published pair of name and version never changes: what changes is a new version.
pub trait WireType:
    Archive<
        Archived: Portable
                      + for<'a> CheckBytes<LowValidator<'a, Failure>>
                      + Deserialize<Self, LowDeserializer<Failure>>,
    > + for<'a, 'b> Serialize<LowSerializer<&'a mut Sink<'b>, ArenaHandle<'a>, Failure>>
    + serde::Serialize
    + serde::de::DeserializeOwned
    + 'static
{
    /// The type's name on the wire; the same for all its versions.
    const NAME: &'static str;
    /// Its version, from 1.
    const VERSION: u16;

    /// A value in which every field differs from its default, so that its archive shows the whole layout.
    fn example() -> Self;
}

/// The id that stands for a type's name in headers: FNV-1a, 32 bits. The registry refuses two names of one id.
pub const fn type_id(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

/// A checksum of the archive of [`WireType::example`]: differs when fields, their order, enum tags or the format do.
/// Exchanged when two sides meet, because validation does not tell types apart.
pub fn fingerprint<T: WireType>() -> u32 {
    // An example is small; were it not, its type would have no fingerprint but the same one on both sides.
    let pool = BufferPool::new(PoolConfig::tiered());
    let bytes =
        pool.map_err(CodecError::from).and_then(|pool| RkyvCodec.encode(&T::example(), &pool));
    let bytes = bytes.as_deref().unwrap_or_default();
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum).unwrap_or(u32::MAX)
}

thread_local! {
    /// What a serialiser scribbles on: kept, so that encoding allocates nothing once it is warm.
    static SCRATCH: RefCell<Arena> = RefCell::new(Arena::with_capacity(1024));
}

fn with_arena<R>(use_it: impl FnOnce(&mut Arena) -> R) -> R {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut arena) => use_it(&mut arena),
        // A value whose serialisation serialises another value.
        Err(_) => use_it(&mut Arena::new()),
    })
}

/// rkyv, by way of a pooled buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RkyvCodec;

impl RkyvCodec {
    /// Appends the archive of anything that has one, such as a form of an event that only borrows.
    ///
    /// # Errors
    /// [`CodecError::Full`]; the buffer is then as it was.
    pub fn encode_any<T>(&self, value: &T, into: &mut PooledBuffer) -> Result<usize, CodecError>
    where
        T: for<'a, 'b> Serialize<LowSerializer<&'a mut Sink<'b>, ArenaHandle<'a>, Failure>>,
    {
        let (len, done) = append(into, |sink| {
            with_arena(|arena| {
                let handle = arena.acquire();
                to_bytes_in_with_alloc::<_, _, Failure>(value, sink, handle).map(drop)
            })
        })?;
        // Nothing but the room can fail: plain types have no conditions.
        done.map_err(|_| CodecError::Invalid { name: std::any::type_name::<T>(), len })?;
        Ok(len)
    }
}

/// Finds the archived value in its bytes.
///
/// # Errors
/// [`CodecError::Invalid`]: not every pointer, length, tag and text in it is sound.
pub(crate) fn view<T: WireType>(bytes: &[u8]) -> Result<&Archived<T>, CodecError> {
    access::<Archived<T>, Failure>(bytes)
        .map_err(|_| CodecError::Invalid { name: T::NAME, len: bytes.len() })
}

/// Rebuilds a value from its archived form.
pub(crate) fn rebuild<T: WireType>(archived: &Archived<T>) -> Result<T, CodecError> {
    rkyv::api::low::deserialize::<T, Failure>(archived)
        .map_err(|_| CodecError::Invalid { name: T::NAME, len: 0 })
}

impl<T: WireType> Codec<T> for RkyvCodec {
    type View<'a>
        = &'a Archived<T>
    where
        T: 'a;

    fn content_type(&self) -> &'static str {
        "application/rkyv"
    }

    fn encode_into(&self, value: &T, into: &mut PooledBuffer) -> Result<usize, CodecError> {
        self.encode_any(value, into)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        rebuild(view::<T>(bytes)?)
    }

    fn access<'a>(&'a self, bytes: &'a [u8]) -> Result<&'a Archived<T>, CodecError>
    where
        T: 'a,
    {
        view::<T>(bytes)
    }
}
