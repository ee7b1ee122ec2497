//! The operations that a command may be.
use rkyv::with::Map;
use rkyv::{Archive, Deserialize, Serialize};

use super::archive::{NodeKeyDef, ObjectIdDef, StorageIdDef};
use crate::ids::{NodeKey, ObjectId, RaftId, StorageId};

/// Which request: however often it is proposed, it takes effect once.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Archive,
    Serialize,
    Deserialize,
)]
#[rkyv(derive(Debug))]
pub struct RequestId {
    /// The member that asks.
    pub node: RaftId,
    /// Which of its starts; never goes back.
    pub boot: u64,
    /// Counts its requests since that start.
    pub serial: u64,
}

impl ArchivedRequestId {
    /// The id.
    pub fn get(&self) -> RequestId {
        RequestId {
            node: self.node.to_native(),
            boot: self.boot.to_native(),
            serial: self.serial.to_native(),
        }
    }
}

/// One change of the catalogue, and who wants it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Command {
    /// Which request this is.
    pub request: RequestId,
    /// What is to happen.
    pub op: Op,
}

/// What is to happen. All that apply needs is in here, the time too: every node comes to the same result.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
#[repr(u8)]
pub enum Op {
    /// Nothing.
    Noop,
    /// Put an object under a key.
    Put(Put),
    /// Remove the object under a key.
    Remove(Remove),
    /// Purge a key, a prefix, a tag or everything.
    Purge(Purge),
    /// A member holds other objects than before.
    Holders(Holders),
    /// Remove objects whose lifetime has ended.
    Expire(Expire),
    /// A ticket was issued.
    TicketIssued(TicketIssued),
    /// A node with a ticket becomes a member.
    Join(Join),
    /// A member has another name or other addresses.
    MemberChanged(MemberChanged),
    /// A member is removed.
    Forget(Forget),
}

macro_rules! kinds {
    ($op:ident) => {
        impl $op {
            pub(super) fn kind(&self) -> u8 {
                match self {
                    Self::Noop => 0,
                    Self::Put(_) => 1,
                    Self::Remove(_) => 2,
                    Self::Purge(_) => 3,
                    Self::Holders(_) => 4,
                    Self::Expire(_) => 5,
                    Self::TicketIssued(_) => 6,
                    Self::Join(_) => 7,
                    Self::MemberChanged(_) => 8,
                    Self::Forget(_) => 9,
                }
            }
        }
    };
}
kinds!(Op);
kinds!(ArchivedOp);

/// What must be so for a change to happen. An object whose lifetime has ended counts as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum Condition {
    /// Nothing.
    Any,
    /// There is no object under the key.
    Absent,
    /// There is one.
    Present,
    /// There is one, and this is the SHA-256 of its body.
    Digest([u8; 32]),
    /// There is one, and this is the index of the command that put it there.
    Version(u64),
}

/// What a purge covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug, Clone, Copy))]
#[repr(u8)]
pub enum Scope {
    /// One key.
    Key,
    /// All keys that begin so.
    Prefix,
    /// All objects that bear the tag.
    Tag,
    /// Everything.
    All,
}

impl From<&ArchivedScope> for Scope {
    fn from(archived: &ArchivedScope) -> Self {
        match archived {
            ArchivedScope::Key => Self::Key,
            ArchivedScope::Prefix => Self::Prefix,
            ArchivedScope::Tag => Self::Tag,
            ArchivedScope::All => Self::All,
        }
    }
}

/// What a member may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug, Clone, Copy))]
#[repr(u8)]
pub enum Role {
    /// A voter, once it has caught up and the number of voters becomes odd by it.
    Voter,
    /// It stays a learner.
    Learner,
}

impl From<&ArchivedRole> for Role {
    fn from(archived: &ArchivedRole) -> Self {
        match archived {
            ArchivedRole::Voter => Self::Voter,
            ArchivedRole::Learner => Self::Learner,
        }
    }
}

/// Puts an object under a key. Its bytes are already with the holders.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Put {
    /// The key.
    pub key: String,
    /// The object. Each request has one of its own: what a request that fails names is forgotten.
    #[rkyv(with = ObjectIdDef)]
    pub object: ObjectId,
    /// Body length in bytes.
    pub len: u64,
    /// SHA-256 of the body.
    pub digest: [u8; 32],
    /// MIME type.
    pub content_type: String,
    /// Content coding, empty if none.
    pub content_encoding: String,
    /// Tags.
    pub tags: Vec<String>,
    /// When it stops being served, in milliseconds since the Unix epoch; 0: never.
    pub expires_ms: u64,
    /// When it was last changed, in milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
    /// The proposer's clock, in milliseconds since the Unix epoch: says whether what is there has expired.
    pub now_ms: u64,
    /// What must be so.
    pub condition: Condition,
    /// The members that hold the bytes.
    pub holders: Vec<RaftId>,
    /// How many there are to be ([`Entry::copies`]).
    ///
    /// [`Entry::copies`]: super::Entry::copies
    pub copies: u8,
}

/// Removes the object under a key.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Remove {
    /// The key.
    pub key: String,
    /// What must be so.
    pub condition: Condition,
    /// The proposer's clock, as in [`Put`].
    pub now_ms: u64,
}

/// Purges.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Purge {
    /// What `value` is.
    pub scope: Scope,
    /// The key, prefix or tag; empty for everything.
    pub value: String,
}

/// Says what a member holds now that it did not, and the other way round. Only objects that it knows from the
/// catalogue: what is not there is answered with the order to forget it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Holders {
    /// The member.
    pub node: RaftId,
    /// Objects that it holds now.
    #[rkyv(with = Map<ObjectIdDef>)]
    pub gained: Vec<ObjectId>,
    /// Objects that it had no room for any more; an object that nobody holds leaves the catalogue.
    #[rkyv(with = Map<ObjectIdDef>)]
    pub lost: Vec<ObjectId>,
    /// Objects whose bytes are damaged there: as those that it had no room for, but there should be another copy.
    #[rkyv(with = Map<ObjectIdDef>)]
    pub damaged: Vec<ObjectId>,
}

/// Removes those of the objects whose lifetime has ended.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Expire {
    /// The proposer's clock.
    pub now_ms: u64,
    /// The objects.
    #[rkyv(with = Map<ObjectIdDef>)]
    pub objects: Vec<ObjectId>,
}

/// Makes a ticket known; only its hash is.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct TicketIssued {
    /// Hash of its secret.
    pub hash: [u8; 32],
    /// The proposer's clock: what has expired by then is dropped.
    pub now_ms: u64,
    /// When it stops being good, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// How many nodes may join with it.
    pub uses: u8,
    /// What its bearer may become.
    pub role: Role,
}

/// Makes the bearer of a ticket a member.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Join {
    /// Hash of the ticket's secret.
    pub ticket: [u8; 32],
    /// The node's key.
    #[rkyv(with = NodeKeyDef)]
    pub key: NodeKey,
    /// Its log.
    #[rkyv(with = StorageIdDef)]
    pub storage: StorageId,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Where its mesh listens.
    pub mesh: Vec<String>,
    /// Where it serves.
    pub http: String,
    /// The proposer's clock: says whether the ticket is good.
    pub now_ms: u64,
}

/// Changes what is known of a member.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct MemberChanged {
    /// The member.
    pub id: RaftId,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Where its mesh listens.
    pub mesh: Vec<String>,
    /// Where it serves.
    pub http: String,
}

/// Removes a member.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Forget {
    /// The member.
    pub id: RaftId,
}

/// One of each operation, every field told from its default and from its neighbours.
pub(super) fn examples() -> [Op; 10] {
    let object = |serial| ObjectId { node: 4, serial };
    let text = |what: &str| format!("{what} that is longer than what is kept in place");
    let (addresses, mesh) = (vec![text("an address")], vec![text("a mesh address"), "m".into()]);
    let (name, http) = (text("a name"), text("an HTTP address"));
    [
        Op::Noop,
        Op::Put(Put {
            key: text("a key"),
            object: object(5),
            len: 6,
            digest: [7; 32],
            content_type: text("a content type"),
            content_encoding: "gzip".into(),
            tags: vec!["t".into(), text("a tag")],
            expires_ms: 8,
            last_modified_ms: 9,
            now_ms: 10,
            condition: Condition::Digest([11; 32]),
            holders: vec![12, 13],
            copies: 14,
        }),
        Op::Remove(Remove { key: text("a key"), condition: Condition::Version(14), now_ms: 15 }),
        Op::Purge(Purge { scope: Scope::Tag, value: text("a tag") }),
        Op::Holders(Holders {
            node: 16,
            gained: vec![object(17)],
            lost: vec![object(18)],
            damaged: vec![object(19)],
        }),
        Op::Expire(Expire { now_ms: 19, objects: vec![object(20)] }),
        Op::TicketIssued(TicketIssued {
            hash: [21; 32],
            now_ms: 22,
            expires_ms: 23,
            uses: 1,
            role: Role::Learner,
        }),
        Op::Join(Join {
            ticket: [24; 32],
            key: NodeKey([25; 32]),
            storage: StorageId([26; 16]),
            name: name.clone(),
            addresses: addresses.clone(),
            mesh: mesh.clone(),
            http: http.clone(),
            now_ms: 27,
        }),
        Op::MemberChanged(MemberChanged { id: 28, name, addresses, mesh, http }),
        Op::Forget(Forget { id: 29 }),
    ]
}
