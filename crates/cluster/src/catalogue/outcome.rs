//! What came of a command, and what there is to tell about it.
use std::sync::Arc;

use rkyv::{Archive, Deserialize, Serialize};

use super::entry::Entry;
use super::members::Member;
use super::op::{RequestId, Scope};
use crate::ids::{ObjectId, RaftId};

/// What came of a command; the same on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// An object is under the key.
    Put {
        /// Another one that could be served was there before.
        replaced: bool,
    },
    /// Its condition did not hold.
    Failed,
    /// Nothing is under the key; says whether something that could be served was.
    Removed(bool),
    /// So many objects were purged.
    Purged(u64),
    /// So many objects had expired and are removed.
    Expired(u64),
    /// The node is a member.
    Joined {
        /// Its number.
        id: RaftId,
    },
    /// It did not take effect.
    Refused(Refusal),
}

/// Why a command did not take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum Refusal {
    /// Its bytes are no command.
    #[error("the bytes are no command")]
    Malformed,
    /// A part of it is over its limit.
    #[error("a part of the command is over its limit")]
    Limit,
    /// Whoever asks is no member.
    #[error("the node that asks is no member of the cluster; let it join again")]
    NotAMember,
    /// The node that asks has started again since.
    #[error("the node has started again since it asked")]
    OldBoot,
    /// So many later requests of the node were answered that this one's answer is not remembered.
    #[error(
        "the request is too old to tell whether it was answered; look at the object, then ask again"
    )]
    Forgotten,
    /// The object is under another key.
    #[error("the object is under another key already")]
    ObjectInUse,
    /// Nobody has issued the ticket, or it has expired and was dropped.
    #[error("the ticket is not known here; ask for a new one with `straightway cluster ticket`")]
    TicketUnknown,
    /// Another node joined with it.
    #[error(
        "the ticket has been used by another node; ask for a new one with `straightway cluster ticket`"
    )]
    TicketUsed,
    /// It was good until a time that has passed.
    #[error("the ticket has expired; ask for a new one with `straightway cluster ticket`")]
    TicketExpired,
    /// A member has the node's key, but another log.
    #[error(
        "a member has this node's key but another log, so this node has lost its own; remove that member with \
         `straightway cluster remove`, then join again"
    )]
    KeyInUse,
    /// A member has the node's log, but another key.
    #[error(
        "a member has this node's log but another key; a data folder cannot be copied: empty it and join again"
    )]
    StorageInUse,
    /// There are as many members as there may be.
    #[error("the cluster has as many members as it may have (64)")]
    TooManyMembers,
    /// There are as many tickets as there may be.
    #[error("as many tickets as there may be (256) wait to be used; wait until some expire")]
    TooManyTickets,
    /// The member that is spoken of is none.
    #[error("there is no such member")]
    UnknownMember,
    /// The last member cannot be removed.
    #[error("the last member of a cluster cannot be removed; stop it instead")]
    LastMember,
}

/// Something that happened in the catalogue, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An object was put under its key.
    Stored(Arc<Entry>),
    /// An object was removed on request.
    Removed(Arc<Entry>),
    /// An object's lifetime had ended, and it was removed.
    Expired(Arc<Entry>),
    /// The last member that held the object dropped it, or left.
    Evicted(Arc<Entry>),
    /// A key, a prefix, a tag or everything was purged.
    Purged {
        /// What `value` is.
        scope: Scope,
        /// The key, prefix or tag.
        value: Arc<str>,
        /// How many objects.
        count: u64,
    },
    /// A node became a member.
    Joined(Arc<Member>),
    /// A member has another name or other addresses.
    Changed(Arc<Member>),
    /// A member was removed.
    Left(Arc<Member>),
}

/// What applying one command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its index in the log.
    pub index: u64,
    /// Whose request it was; `None`: the bytes are no command.
    pub request: Option<RequestId>,
    /// The request had been answered before. `outcome` is that answer, and nothing happened.
    pub duplicate: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// What there is to tell.
    pub events: Vec<Event>,
    /// Objects that are under no key any more: nobody asks for their bytes again.
    pub forget: Vec<ObjectId>,
}
