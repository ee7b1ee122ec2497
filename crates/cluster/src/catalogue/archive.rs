//! rkyv here: plain types only, written by way of a thread's own scratch memory, read where they lie.
use std::cell::RefCell;

use rkyv::api::low::{LowSerializer, LowValidator, access, to_bytes_in_with_alloc};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Fallible, Source};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::{Archive, Deserialize, Place, Portable, Serialize, SerializeUnsized};

use crate::ids::{NodeKey, ObjectId, StorageId};

const _: () = assert!(
    align_of::<rkyv::Archived<u64>>() == 1 && size_of::<rkyv::Archived<usize>>() == 4,
    "the workspace's rkyv must be built with `unaligned` and `pointer_width_32`"
);

/// How this build lays archives out: little-endian, unaligned, 32-bit relative pointers.
pub(super) const FORMAT: u8 = 0b0000_1011;

thread_local! {
    /// Kept, so that encoding allocates nothing once it is warm.
    static ARENA: RefCell<Arena> = RefCell::new(Arena::with_capacity(4096));
}

/// What [`append`] asks of a value.
pub(super) trait Record:
    for<'a, 'b> Serialize<LowSerializer<&'a mut Vec<u8>, ArenaHandle<'b>, Failure>>
{
}

impl<T> Record for T where
    T: for<'a, 'b> Serialize<LowSerializer<&'a mut Vec<u8>, ArenaHandle<'b>, Failure>>
{
}

/// Appends the archive of `value`. Only memory could fail, and plain types have no conditions; should it happen all the
/// same, what was appended is no valid archive, and whoever reads it is told so.
pub(super) fn append<T: Record>(value: &T, into: &mut Vec<u8>) {
    let mut write = |arena: &mut Arena| {
        let done = to_bytes_in_with_alloc::<_, _, Failure>(value, &mut *into, arena.acquire());
        debug_assert!(done.is_ok(), "plain types are always archived");
    };
    ARENA.with(|arena| match arena.try_borrow_mut() {
        Ok(mut arena) => write(&mut arena),
        // A value whose serialisation serialises another value.
        Err(_) => write(&mut Arena::new()),
    });
}

/// Finds the archived value in its bytes; `None`: some pointer, length, tag or text in it is not sound.
pub(super) fn view<A>(bytes: &[u8]) -> Option<&A>
where
    A: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>,
{
    access::<A, Failure>(bytes).ok()
}

/// How an [`ObjectId`] is archived.
#[derive(Debug, Archive, Serialize, Deserialize)]
#[rkyv(remote = ObjectId, archived = ArchivedObjectId)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct ObjectIdDef {
    /// The member that took it in.
    pub node: u64,
    /// Counts that member's objects.
    pub serial: u64,
}

impl From<ObjectIdDef> for ObjectId {
    fn from(ObjectIdDef { node, serial }: ObjectIdDef) -> Self {
        Self { node, serial }
    }
}

impl ArchivedObjectId {
    /// The id.
    pub fn get(&self) -> ObjectId {
        ObjectId { node: self.node.to_native(), serial: self.serial.to_native() }
    }
}

/// How a [`NodeKey`] is archived.
#[derive(Debug, Archive, Serialize, Deserialize)]
#[rkyv(remote = NodeKey, archived = ArchivedNodeKey)]
#[rkyv(derive(Debug))]
pub struct NodeKeyDef(pub [u8; 32]);

impl ArchivedNodeKey {
    /// Its bytes.
    pub fn get(&self) -> [u8; 32] {
        self.0
    }
}

impl From<NodeKeyDef> for NodeKey {
    fn from(NodeKeyDef(bytes): NodeKeyDef) -> Self {
        Self(bytes)
    }
}

/// How a [`StorageId`] is archived.
#[derive(Debug, Archive, Serialize, Deserialize)]
#[rkyv(remote = StorageId, archived = ArchivedStorageId)]
#[rkyv(derive(Debug))]
pub struct StorageIdDef(pub [u8; 16]);

impl ArchivedStorageId {
    /// Its bytes.
    pub fn get(&self) -> [u8; 16] {
        self.0
    }
}

impl From<StorageIdDef> for StorageId {
    fn from(StorageIdDef(bytes): StorageIdDef) -> Self {
        Self(bytes)
    }
}

/// Borrowed text that is archived as a `String` would be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl Archive for Text<'_> {
    type Archived = ArchivedString;
    type Resolver = StringResolver;

    fn resolve(&self, resolver: StringResolver, out: Place<ArchivedString>) {
        ArchivedString::resolve_from_str(self.0, resolver, out);
    }
}

impl<S> Serialize<S> for Text<'_>
where
    S: Fallible<Error: Source> + ?Sized,
    str: SerializeUnsized<S>,
{
    fn serialize(&self, serializer: &mut S) -> Result<StringResolver, S::Error> {
        ArchivedString::serialize_from_str(self.0, serializer)
    }
}
