//! What a node tells on its feed.
//!
//! In JSON every message has `kind`, `offset`, `key`, `timestamp` (milliseconds) and `node`; in rkyv the header holds
//! offset and time. A type that is published here never changes: what changes is a new version.
mod control;

use rkyv::rancor::{Fallible, Source};
use rkyv::ser::{Allocator, Writer};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, Map, SerializeWith};
use rkyv::{Archive, Deserialize, Place, Serialize, SerializeUnsized};

use crate::archive::WireType;
use crate::error::CodecError;
use crate::registry::TypeRegistry;

pub use control::{
    ArchivedHello, ArchivedOnLag, ArchivedSubscribe, ArchivedSubscribed, Hello, OnLag, Subscribe,
    Subscribed, TypeEntry,
};

/// What happened.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// An object was stored, or replaced.
    #[default]
    Stored,
    /// An object was removed on request.
    Removed,
    /// An object's lifetime had ended when it was met.
    Expired,
    /// An object was dropped: for room, or because its bytes were damaged.
    Evicted,
    /// A key, a prefix, a tag or everything was purged.
    Purged,
    /// The node's numbers.
    Stats,
    /// A member of the cluster came, went or changed.
    Member,
    /// The cluster has another leader.
    Leader,
    /// Events were left out.
    Gap,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Stored,
        Self::Removed,
        Self::Expired,
        Self::Evicted,
        Self::Purged,
        Self::Stats,
        Self::Member,
        Self::Leader,
        Self::Gap,
    ];

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Removed => "removed",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::Purged => "purged",
            Self::Stats => "stats",
            Self::Member => "member",
            Self::Leader => "leader",
            Self::Gap => "gap",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Its bit in a set of kinds.
    pub const fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl From<ArchivedKind> for Kind {
    fn from(archived: ArchivedKind) -> Self {
        Self::ALL[archived as usize]
    }
}

/// What `key` means in a [`Kind::Purged`] event.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Scope {
    /// One key.
    #[default]
    Key,
    /// All keys that begin so.
    Prefix,
    /// All objects that bear the tag.
    Tag,
    /// Everything; `key` is empty.
    All,
}

/// Something happened to an object, or to many.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(default)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// The object's key; for [`Kind::Purged`] what `scope` says.
    pub key: String,
    /// The node's name.
    pub node: String,
    /// Body length in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub len: u64,
    /// MIME type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The object's tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Entity tag, quotes included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it stops being served, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// What a purge covers.
    #[serde(skip_serializing_if = "is_key")]
    pub scope: Scope,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_key(scope: &Scope) -> bool {
    *scope == Scope::Key
}

/// An [`Event`] that borrows: its archive is the same, byte for byte, and nothing is copied to make it.
#[derive(Debug, Clone, Copy, Default, Archive, Serialize)]
#[rkyv(as = ArchivedEvent)]
#[rkyv(serialize_bounds(__S: Writer + Allocator, __S::Error: Source))]
pub struct EventRef<'a> {
    /// As in [`Event`], like all that follow.
    pub kind: Kind,
    /// Key.
    #[rkyv(omit_bounds, with = Text)]
    pub key: &'a str,
    /// Node.
    #[rkyv(omit_bounds, with = Text)]
    pub node: &'a str,
    /// Length.
    pub len: u64,
    /// MIME type.
    #[rkyv(omit_bounds, with = Map<Text>)]
    pub content_type: Option<&'a str>,
    /// Tags.
    #[rkyv(omit_bounds, with = Texts)]
    pub tags: &'a [String],
    /// Entity tag.
    #[rkyv(omit_bounds, with = Map<Text>)]
    pub etag: Option<&'a str>,
    /// End of life.
    pub expires_ms: Option<u64>,
    /// Scope.
    pub scope: Scope,
}

impl Event {
    /// The same, borrowed.
    pub fn as_ref(&self) -> EventRef<'_> {
        EventRef {
            kind: self.kind,
            key: &self.key,
            node: &self.node,
            len: self.len,
            content_type: self.content_type.as_deref(),
            tags: &self.tags,
            etag: self.etag.as_deref(),
            expires_ms: self.expires_ms,
            scope: self.scope,
        }
    }
}

impl EventRef<'_> {
    /// Bytes that the archive takes, or a few more.
    pub fn size_hint(&self) -> usize {
        let texts = [Some(self.key), Some(self.node), self.content_type, self.etag];
        let tags: usize = self.tags.iter().map(|tag| size_of::<ArchivedString>() + tag.len()).sum();
        size_of::<ArchivedEvent>() + texts.into_iter().flatten().map(str::len).sum::<usize>() + tags
    }
}

/// Text that is archived as a `String` would be.
struct Text;

impl ArchiveWith<&str> for Text {
    type Archived = ArchivedString;
    type Resolver = StringResolver;

    fn resolve_with(field: &&str, resolver: StringResolver, out: Place<ArchivedString>) {
        ArchivedString::resolve_from_str(field, resolver, out);
    }
}

impl<S> SerializeWith<&str, S> for Text
where
    S: Fallible<Error: Source> + ?Sized,
    str: SerializeUnsized<S>,
{
    fn serialize_with(field: &&str, serializer: &mut S) -> Result<StringResolver, S::Error> {
        ArchivedString::serialize_from_str(field, serializer)
    }
}

/// Texts that are archived as a `Vec<String>` would be.
struct Texts;

impl ArchiveWith<&[String]> for Texts {
    type Archived = ArchivedVec<ArchivedString>;
    type Resolver = VecResolver;

    fn resolve_with(field: &&[String], resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(field, resolver, out);
    }
}

impl<S> SerializeWith<&[String], S> for Texts
where
    S: Fallible<Error: Source> + Writer + Allocator + ?Sized,
{
    fn serialize_with(field: &&[String], serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_slice(field, serializer)
    }
}

macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            /// The node's name.
            pub node: String,
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            /// Names and values of all numbers.
            pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }

            #[cfg(test)]
            fn counted_up() -> Self {
                let mut n = 0;
                Self { node: "node".into(), $($field: { n += 1; n },)* }
            }
        }
    };
}

numbers! {
    /// A node's numbers at one moment. Totals are since the node started.
    Stats {
        /// Changes when offsets start again.
        epoch,
        /// Time since the node started, in milliseconds.
        uptime_ms,
        /// Objects stored.
        objects,
        /// Bytes that they take.
        bytes,
        /// Bytes that there is room for.
        capacity,
        /// Lookups that found a live object.
        hits,
        /// Lookups that did not.
        misses,
        /// Objects stored, ever.
        stores,
        /// Objects dropped to make room.
        evictions,
        /// Objects removed by purges.
        purged,
        /// Requests answered.
        requests,
        /// Bytes handed to sockets.
        sent_bytes,
        /// Body bytes taken in.
        received_bytes,
        /// Body bytes handed to readers.
        bytes_served,
        /// Body bytes copied in user space on their way to a reader.
        bytes_copied,
        /// Bytes served as slices of the mapping by `writev`.
        writev_bytes,
        /// Bytes served by `sendfile`.
        sendfile_bytes,
        /// Bytes served by `pread`.
        pread_bytes,
        /// Windows read from the device before they were served.
        cold_reads,
        /// Extents pinned now.
        pins_held,
        /// Connections open now.
        connections,
        /// Subscribers of the feed now.
        subscribers,
        /// Half of the requests took at most this long, in microseconds.
        latency_p50_us,
        /// 99 of 100 requests took at most this long, in microseconds.
        latency_p99_us,
        /// Buffers that a pool had ready.
        pool_hits,
        /// Buffers that had to be allocated.
        pool_misses,
        /// Stored bytes that failed their checksum.
        checksum_failures,
    }
}

/// Events that a subscriber does not get.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(default)]
pub struct Gap {
    /// First offset that is missing.
    pub from: u64,
    /// First offset that follows.
    pub to: u64,
    /// Why.
    pub reason: GapReason,
}

/// Why events are missing.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum GapReason {
    /// The subscriber fell too far behind.
    #[default]
    Lagging,
    /// The history does not reach back that far.
    Expired,
    /// The node was restarted: offsets count from the start again.
    Restarted,
}

macro_rules! wire_types {
    ($($type:ident = $name:literal $version:literal, $example:expr;)*) => {
        $(impl WireType for $type {
            const NAME: &'static str = $name;
            const VERSION: u16 = $version;

            fn example() -> Self {
                $example
            }
        })*

        /// The registry of the feed's types.
        ///
        /// # Errors
        /// [`CodecError::Registration`], if two of them had the same id.
        pub fn registry() -> Result<TypeRegistry, CodecError> {
            let mut builder = TypeRegistry::builder();
            $(builder.register_type::<$type>()?;)*
            Ok(builder.build())
        }
    };
}

wire_types! {
    Event = "straightway.event" 1, Event {
        kind: Kind::Purged,
        key: "a key of some length".into(),
        node: "a node of some length".into(),
        len: 1,
        content_type: Some("application/octet-stream".into()),
        tags: vec!["a tag of some length".into()],
        etag: Some("\"0123456789abcdef\"".into()),
        expires_ms: Some(2),
        scope: Scope::All,
    };
    Stats = "straightway.stats" 1, Stats {
        node: "a node of some length".into(),
        uptime_ms: 1,
        objects: 2,
        checksum_failures: 3,
        ..Stats::default()
    };
    Gap = "straightway.gap" 1, Gap { from: 1, to: 2, reason: GapReason::Restarted };
    Hello = "straightway.hello" 1, Hello {
        node: "a node of some length".into(),
        epoch: 1,
        head: 2,
        oldest: 3,
        heartbeat_ms: 4,
        max_message: 5,
        dictionary: 6,
        types: vec![TypeEntry { name: "n".into(), id: 7, version: 8, fingerprint: 9 }],
    };
    Subscribe = "straightway.subscribe" 1, Subscribe {
        kinds: vec!["stored".into()],
        prefix: "a prefix of some length".into(),
        tags: vec!["tag".into()],
        from: Some(1),
        epoch: Some(2),
        on_lag: OnLag::Disconnect,
    };
    Subscribed = "straightway.subscribed" 1, Subscribed {
        epoch: 1,
        from: 2,
        resumed: true,
        error: Some("an error of some length".into()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Codec, RkyvCodec, fingerprint};
    use straightway_buffer::{BufferPool, PoolConfig};

    #[test]
    fn the_borrowed_form_has_the_same_bytes() {
        let pool = BufferPool::new(PoolConfig::tiered()).expect("a pool");
        for event in [Event::default(), Event::example()] {
            let owned = RkyvCodec.encode(&event, &pool).expect("encoded");
            let mut borrowed = pool.acquire(1024).expect("a buffer");
            RkyvCodec.encode_any(&event.as_ref(), &mut borrowed).expect("encoded");
            assert_eq!(owned[..], borrowed[..]);
            assert!(event.as_ref().size_hint() >= owned.len());
        }
    }

    /// A published version never changes. If this fails, make a new version and a conversion, and add a line.
    #[test]
    fn fingerprints_are_frozen() {
        let found = [
            fingerprint::<Event>(),
            fingerprint::<Stats>(),
            fingerprint::<Gap>(),
            fingerprint::<Hello>(),
            fingerprint::<Subscribe>(),
            fingerprint::<Subscribed>(),
        ];
        assert_eq!(found, FINGERPRINTS, "{found:#010x?}");
    }

    const FINGERPRINTS: [u32; 6] =
        [0x5cea_c6ab, 0x9276_1db7, 0x89a3_d520, 0xc216_474f, 0xc2be_2c92, 0x5266_8c0f];

    #[test]
    fn kinds_have_one_name_and_one_bit_each() {
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, Kind::from_name(kind.name())), (n, Some(kind)));
            assert_eq!(serde_json::to_string(&kind).expect("text"), format!("\"{}\"", kind.name()));
        }
        assert_eq!(Kind::from_name("stolen"), None);
    }

    #[test]
    fn statistics_come_back_from_both_encodings() {
        let pool = BufferPool::new(PoolConfig::tiered()).expect("a pool");
        let stats = Stats::counted_up();
        let archive = RkyvCodec.encode(&stats, &pool).expect("encoded");
        assert_eq!(Codec::<Stats>::decode(&RkyvCodec, &archive).expect("sound"), stats);
        let text = serde_json::to_string(&stats).expect("text");
        assert_eq!(serde_json::from_str::<Stats>(&text).expect("sound"), stats);
        assert_eq!(stats.numbers().count() as u64, stats.checksum_failures);
    }
}
