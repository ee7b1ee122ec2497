//! Calls to another member and their answers, over the control lanes: each side sends on the connection that it dialled.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use straightway_wire::raft::Lane;
use straightway_wire::{LARGE_MESSAGE_THRESHOLD, RpcReply, RpcRequestView, Ticket, WireError};

use super::peer::Peer;
use super::queue::Outgoing;
use super::refusals::Refusal;
use super::shared::Shared;
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::store::BoxFuture;

/// All calls are to the node.
pub(crate) const SERVICE: &str = "node";
/// Bytes that arguments or results may have: with what stands around them they fit into one frame of the control lane.
pub const MAX_CALL_BYTES: usize = LARGE_MESSAGE_THRESHOLD - 512;
/// How long an answer is worked on for a caller that did not say how long it waits.
const LONGEST: Duration = Duration::from_mins(1);
/// What is answered to a call beyond [`super::NetLimits::calls_answered`].
const BUSY: &str = "busy: too many calls at once";

/// Answers calls of other members.
pub trait Service: std::fmt::Debug + Send + Sync + 'static {
    /// Answers one. Dropped when the time is over that the caller said it waits, or when it is no member any more.
    fn call<'a>(
        &'a self,
        peer: RaftId,
        method: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, String>>;
}

/// Calls `method` of a peer.
pub(crate) async fn call(
    shared: &Shared,
    peer: RaftId,
    method: &str,
    payload: Bytes,
    timeout: Duration,
) -> Result<Bytes, ClusterError> {
    let unreachable = |reason: &str| ClusterError::Unreachable { peer, reason: reason.to_owned() };
    if payload.len() > MAX_CALL_BYTES {
        let reason = format!("{} bytes where {MAX_CALL_BYTES} are allowed", payload.len());
        return Err(ClusterError::Invalid { what: "a call's argument", reason });
    }
    let Some(known) = shared.peer(peer) else { return Err(unreachable("it is no member")) };
    let id = shared.ids.next_id();
    let reply = match known.calls.register(id) {
        Ok(reply) => reply,
        Err(WireError::Full { .. }) => {
            return Err(ClusterError::Busy { what: "the table of calls that wait for an answer" });
        }
        Err(error) => return Err(error.into()),
    };
    let deadline_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let method = method.into();
    if !shared.send(&known, Lane::Control, Outgoing::Request { id, method, payload, deadline_ms }) {
        return Err(if known.control().is_open() {
            ClusterError::Busy { what: "the queue of calls" }
        } else {
            unreachable("there is no connection")
        });
    }
    match tokio::time::timeout(timeout, reply).await {
        Ok(Ok(answer)) if answer.success() => Ok(answer.payload().unwrap_or_default()),
        Ok(Ok(answer)) => {
            let reason = answer.error().unwrap_or("it did not say why").to_owned();
            if reason == BUSY {
                return Err(ClusterError::Busy { what: "the peer" });
            }
            Err(ClusterError::Refused { reason })
        }
        Ok(Err(WireError::GivenUp { reason })) => Err(unreachable(reason)),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(ClusterError::Timeout { what: "a call to another member", waited: timeout }),
    }
}

/// Answers a call on a task of its own, so that the lane goes on; at once what is not to be worked on.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    request: RpcRequestView,
    ticket: Ticket,
) -> Option<RpcReply> {
    let Ok(permit) = Arc::clone(&peer.answering).try_acquire_owned() else {
        shared.refusals.count(Refusal::Calls, format_args!("member {} calls too much", peer.id));
        return Some(RpcReply::Err(BUSY.to_owned()));
    };
    if request.service() != SERVICE {
        let error = format!("there is no service `{}` here", request.service());
        return Some(RpcReply::Err(error));
    }
    let waits = ticket.deadline_ms().map_or(LONGEST, |ms| Duration::from_millis(ms.into()));
    let (task_shared, peer) = (Arc::clone(shared), Arc::clone(peer));
    shared.spawn(async move {
        let shared = task_shared;
        let mut stop = peer.stopped();
        let work = shared.handlers.service.call(peer.id, request.method(), request.payload());
        let reply = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            worked = tokio::time::timeout(waits.min(LONGEST), work) => match worked {
                Ok(Ok(result)) if result.len() > MAX_CALL_BYTES => RpcReply::Err(format!(
                    "the answer has {} bytes where {MAX_CALL_BYTES} are allowed",
                    result.len()
                )),
                Ok(Ok(result)) => RpcReply::Ok(result),
                Ok(Err(error)) => RpcReply::Err(error),
                // Nobody waits for it.
                Err(_) => return,
            },
        };
        let id = ticket.id();
        drop((permit, ticket));
        shared.send(&peer, Lane::Control, Outgoing::Response { id, reply });
    });
    None
}
