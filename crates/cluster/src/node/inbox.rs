//! What waits for Raft's thread: requests of this node, and what came from peers.
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use raft::prelude::Message;
use straightway_wire::Ring;

use super::drive::Input;
use super::wake::Wake;
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::net::{Held, Lane};

/// Requests that may wait.
const MAX_INPUTS: usize = 4096;
/// Messages from peers that may wait, and their bytes.
const MAX_MESSAGES: usize = 4096;
const MAX_BYTES: usize = 64 << 20;

/// What came from a peer.
pub(super) enum Arrived {
    /// A message whose sender is the one that it names.
    Raft {
        /// The lane that it came on.
        lane: Lane,
        /// The message.
        message: Box<Message>,
        /// Its share of what its sender may have waiting here.
        held: Held,
    },
    /// The peer cannot be sent to.
    Unreachable(RaftId),
}

/// The reading end: Raft's thread.
pub(super) struct Inbox {
    pub(super) inputs: Receiver<Input>,
    pub(super) peers: std::sync::Arc<Ring<Arrived>>,
}

/// The writing end; cheap to clone.
#[derive(Clone)]
pub(super) struct Letterbox {
    inputs: Sender<Input>,
    peers: std::sync::Arc<Ring<Arrived>>,
}

/// Both ends.
pub(super) fn inbox(wake: Wake) -> (Letterbox, Inbox) {
    let (sender, inputs) = bounded(MAX_INPUTS);
    let peers = std::sync::Arc::new(Ring::new(MAX_MESSAGES, MAX_BYTES, move || wake.wake()));
    (Letterbox { inputs: sender, peers: peers.clone() }, Inbox { inputs, peers })
}

impl Letterbox {
    /// Hands in a request; never waits.
    pub(super) fn put(&self, input: Input) -> Result<(), ClusterError> {
        self.inputs.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => ClusterError::Busy { what: "the queue of this node's log" },
            TrySendError::Disconnected(_) => {
                ClusterError::Stopped { reason: "is being stopped".to_owned() }
            }
        })
    }

    /// Hands in a request that must not get lost: gives it back if there is no room; `Err(None)`: the node is being stopped.
    pub(super) fn offer(&self, input: Input) -> Result<(), Option<Input>> {
        self.inputs.try_send(input).map_err(|error| match error {
            TrySendError::Full(input) => Some(input),
            TrySendError::Disconnected(_) => None,
        })
    }

    /// Hands in what came from a peer; gives it back if there is no room.
    pub(super) fn arrived(&self, what: Arrived, bytes: usize) -> Result<(), Arrived> {
        self.peers.try_push(what, bytes)
    }
}
