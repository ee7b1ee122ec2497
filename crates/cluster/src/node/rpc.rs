//! What members ask of each other, besides Raft.
use bytes::Bytes;

use super::Shared;
use super::drive::Input;
use super::start::Later;
use crate::catalogue::Command;
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::lease::Ask;
use crate::net::Service;
use crate::store::BoxFuture;

/// Put a command into the log. Payload: the command. Answer: nothing.
pub(super) const PROPOSE: &str = "propose";
/// The index for a linearizable read. Answer: 8 bytes, little-endian, as are all that follow.
pub(super) const READ: &str = "read";
/// A serve lease. Payload: [`Ask`]. Answer: a grant.
pub(super) const LEASE: &str = "lease";
/// The index that the asking member has applied. Answer: nothing.
pub(super) const APPLIED: &str = "applied";
/// Wait until no member can serve what the command at this index took away. Answer: nothing.
pub(super) const RELEASE: &str = "release";
/// The asking member could not get the snapshot that it was offered. Answer: nothing.
pub(super) const SNAPSHOT_FAILED: &str = "snapshot-failed";
/// Add, remove, transfer: what [`super::members`] says.
pub(super) const MEMBERS: &str = "members";
/// Which of these objects may still be announced by puts of the asked member. Payload and answer: numbers of 16 bytes.
pub(super) const UNANNOUNCED: &str = "unannounced";

pub(super) fn encode_index(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_le_bytes())
}

pub(super) fn decode_index(bytes: &[u8]) -> Result<u64, ClusterError> {
    let bytes = bytes.try_into().map_err(|_| ClusterError::Invalid {
        what: "an index in an answer",
        reason: format!("{} bytes instead of 8", bytes.len()),
    })?;
    Ok(u64::from_le_bytes(bytes))
}

/// Answers members. Holds the node weakly: the network must not keep it alive.
#[derive(Debug)]
pub(super) struct Answers(pub(super) Later);

impl Service for Answers {
    fn call<'a>(
        &'a self,
        peer: RaftId,
        method: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            let Some(shared) = self.0.upgrade() else {
                return Err("this node is being stopped".to_owned());
            };
            answer(&shared, peer, method, payload).await.map_err(|error| error.to_string())
        })
    }
}

async fn answer(
    shared: &Shared,
    peer: RaftId,
    method: &str,
    payload: Bytes,
) -> Result<Bytes, ClusterError> {
    let done = |()| Bytes::new();
    match method {
        PROPOSE => {
            // Nothing gets into the log that a state machine could not read, and nobody speaks for another.
            let command = Command::view(&payload)?;
            if command.request.node != peer {
                let reason = "a command that bears another member's number".to_owned();
                return Err(ClusterError::Refused { reason });
            }
            shared.ask_driver(|answer| Input::Propose(payload, answer)).await.map(done)
        }
        READ => shared.ask_driver(Input::Read).await.map(encode_index),
        LEASE => {
            let ask = Ask::decode(&payload)?;
            let grant = shared.ask_driver(|answer| Input::Ask(peer, ask, answer)).await?;
            Ok(Bytes::copy_from_slice(&grant.encode()))
        }
        APPLIED => shared.letterbox.put(Input::Applied(peer, decode_index(&payload)?)).map(done),
        RELEASE => {
            let index = decode_index(&payload)?;
            shared.ask_driver(|answer| Input::Release(index, answer)).await.map(done)
        }
        SNAPSHOT_FAILED => shared.letterbox.put(Input::SnapshotFailed(peer)).map(done),
        UNANNOUNCED => shared.unannounced(&payload),
        MEMBERS => shared.change_members_here(&payload).await,
        _ => Err(ClusterError::Refused {
            reason: format!("there is no {method:?}; is the other node newer?"),
        }),
    }
}
