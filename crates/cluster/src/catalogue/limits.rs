//! How much a command may hold. Checked where commands are made and where they are applied, on the same archived bytes:
//! what cannot be applied cannot be proposed, and what a peer proposes all the same is refused alike on every node.
use rkyv::string::ArchivedString;
use rkyv::vec::ArchivedVec;

use super::op::{ArchivedCommand, ArchivedOp, ArchivedPurge, ArchivedPut, ArchivedScope};
use crate::error::ClusterError;

/// Bytes of a key; it has at least one.
pub const KEY: usize = 2048;
/// Tags of an object.
pub const TAGS: usize = 64;
/// Bytes of a tag; it has at least one.
pub const TAG: usize = 256;
/// Bytes of any other text: a name, an address, a content type.
pub const TEXT: usize = 256;
/// Addresses of a member, of each sort.
pub const ADDRESSES: usize = 16;
/// Holders of an object that are remembered.
pub const HOLDERS: usize = 64;
const _: () = assert!(HOLDERS >= MEMBERS);
/// Objects that one command may name.
pub const IDS: usize = 4096;
/// Members; what a Raft configuration may hold.
pub const MEMBERS: usize = 64;
/// Tickets that are remembered at a time.
pub const TICKETS: usize = 256;
/// Answers that are remembered of a node.
pub const WINDOW: usize = 4096;
/// Requests that a node may have unanswered, counted from its oldest to its newest.
pub const IN_FLIGHT: u64 = WINDOW as u64 / 2;
/// Bytes of an encoded Raft configuration.
pub const CONF_STATE: usize = 4096;
/// Bytes of a command, header included.
pub const COMMAND: usize = 256 * 1024;

/// All of them that decide what becomes of a command: members with others do not understand each other's commands.
pub(super) const ALL: [usize; 12] =
    [KEY, TAGS, TAG, TEXT, ADDRESSES, HOLDERS, IDS, MEMBERS, TICKETS, WINDOW, CONF_STATE, COMMAND];

/// Whether all parts of a command are within their limits.
pub(super) fn check(command: &ArchivedCommand) -> Result<(), ClusterError> {
    match &command.op {
        ArchivedOp::Noop | ArchivedOp::TicketIssued(_) | ArchivedOp::Forget(_) => Ok(()),
        ArchivedOp::Put(put) => check_put(put),
        ArchivedOp::Remove(remove) => key(&remove.key),
        ArchivedOp::Purge(purge) => check_purge(purge),
        ArchivedOp::Holders(holders) => {
            at_most("objects gained", holders.gained.len(), IDS)?;
            at_most("objects lost", holders.lost.len(), IDS)?;
            at_most("damaged objects", holders.damaged.len(), IDS)
        }
        ArchivedOp::Expire(expire) => at_most("expired objects", expire.objects.len(), IDS),
        ArchivedOp::Join(join) => member(&join.name, &join.addresses, &join.mesh, &join.http),
        ArchivedOp::MemberChanged(changed) => {
            member(&changed.name, &changed.addresses, &changed.mesh, &changed.http)
        }
    }
}

fn check_put(put: &ArchivedPut) -> Result<(), ClusterError> {
    key(&put.key)?;
    text("a content type", &put.content_type, TEXT)?;
    text("a content coding", &put.content_encoding, TEXT)?;
    at_most("tags", put.tags.len(), TAGS)?;
    put.tags.iter().try_for_each(|tag| some("a tag", tag, TAG))?;
    at_most("holders", put.holders.len(), HOLDERS)?;
    at_most("copies", put.copies.into(), HOLDERS)
}

fn check_purge(purge: &ArchivedPurge) -> Result<(), ClusterError> {
    match purge.scope {
        ArchivedScope::Key => key(&purge.value),
        ArchivedScope::Prefix => text("a prefix", &purge.value, KEY),
        ArchivedScope::Tag => some("a tag", &purge.value, TAG),
        ArchivedScope::All => text("what a purge of everything names", &purge.value, 0),
    }
}

fn member(
    name: &ArchivedString,
    addresses: &ArchivedVec<ArchivedString>,
    mesh: &ArchivedVec<ArchivedString>,
    http: &ArchivedString,
) -> Result<(), ClusterError> {
    text("a member's name", name, TEXT)?;
    text("a member's HTTP address", http, TEXT)?;
    for list in [addresses, mesh] {
        at_most("addresses", list.len(), ADDRESSES)?;
        list.iter().try_for_each(|address| some("an address", address, TEXT))?;
    }
    Ok(())
}

fn key(key: &ArchivedString) -> Result<(), ClusterError> {
    some("a key", key, KEY)
}

fn some(what: &str, value: &ArchivedString, limit: usize) -> Result<(), ClusterError> {
    if value.is_empty() {
        return Err(refused(format!("{what} is empty")));
    }
    text(what, value, limit)
}

fn text(what: &str, value: &ArchivedString, limit: usize) -> Result<(), ClusterError> {
    if value.len() > limit {
        return Err(refused(format!(
            "{what} has {} bytes, at most {limit} are allowed",
            value.len()
        )));
    }
    Ok(())
}

fn at_most(what: &str, found: usize, limit: usize) -> Result<(), ClusterError> {
    if found > limit {
        return Err(refused(format!("it names {found} {what}, at most {limit} are allowed")));
    }
    Ok(())
}

fn refused(reason: String) -> ClusterError {
    ClusterError::Invalid { what: "a command", reason }
}
