//! Bounds of the network, all in one place.
use std::time::Duration;

use straightway_wire::raft::Lane;
use straightway_wire::{Compression, FEATURE_LZ4, FEATURE_ZSTD, LARGE_MESSAGE_THRESHOLD};

use super::gate::Rate;
use super::queue::QueueLimits;
use crate::catalogue::limits::COMMAND;
use crate::core::MAX_APPEND_BYTES;
use crate::error::ClusterError;

/// Messages of the greatest length that a peer may have under way on its control lane.
const CONTROL_AT_ONCE: usize = 16;

/// What an append lane has to take: what the leader sends a follower that it probes, and as much again for what is around short
/// entries. Of less, what such a follower lacks would be dropped each time.
const LEAST_APPEND: u64 = 2 * MAX_APPEND_BYTES;
const _: () = assert!(COMMAND as u64 + (64 << 10) <= LEAST_APPEND);

/// Bounds of what a node sends, receives and waits for. The defaults suit a cluster in one place.
#[derive(Debug, Clone, PartialEq)]
pub struct NetLimits {
    /// A connection on which nothing arrives for so long is lost.
    pub idle: Duration,
    /// How often something is sent when there is nothing to say.
    pub keep_alive: Duration,
    /// How long dialling may take.
    pub dial: Duration,
    /// How long a handshake, and then the first frame, may take to arrive.
    pub hello: Duration,
    /// The first wait before dialling again; doubled up to `redial_most`.
    pub redial_first: Duration,
    /// The longest wait before dialling again.
    pub redial_most: Duration,
    /// What waits on the control lane.
    pub control_queue: QueueLimits,
    /// What waits on the append lane.
    pub append_queue: QueueLimits,
    /// Most bytes that are written at once.
    pub batch_bytes: usize,
    /// Largest message on the control lane; at least 64 KiB.
    pub control_message: u32,
    /// Largest message on the append lane; at least 512 KiB.
    pub append_message: u32,
    /// How messages on the append lane are compressed, to and from members that have the same here. `None`: not at all.
    pub compress: Option<Compression>,
    /// Bytes of one peer's messages that are received and not yet handled.
    pub inbound_bytes: usize,
    /// Calls of one peer that are being answered.
    pub calls_answered: usize,
    /// Calls that wait for one peer's answer.
    pub calls_pending: usize,
    /// Transfers of one peer in each direction, of each [sort](super::TransferSort) but snapshots, of which there is one.
    pub transfers: usize,
    /// Handshakes under way, in all.
    pub half_open: usize,
    /// Handshakes under way with one address.
    pub half_open_each: usize,
    /// Connections that are let in, in all.
    pub connections: Rate,
    /// Connections that are let in from one address.
    pub connections_each: Rate,
    /// Attempts to join, in all.
    pub joins: Rate,
    /// Attempts to join from one address.
    pub joins_each: Rate,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(3),
            keep_alive: Duration::from_millis(500),
            dial: Duration::from_secs(1),
            hello: Duration::from_secs(2),
            redial_first: Duration::from_millis(50),
            redial_most: Duration::from_secs(1),
            control_queue: QueueLimits { messages: 256, bytes: 4 << 20 },
            append_queue: QueueLimits { messages: 1024, bytes: 8 << 20 },
            batch_bytes: 256 << 10,
            control_message: 64 << 10,
            append_message: 16 << 20,
            compress: None,
            inbound_bytes: 32 << 20,
            calls_answered: 64,
            calls_pending: 256,
            transfers: 4,
            half_open: 64,
            half_open_each: 24,
            connections: Rate { per_second: 500.0, burst: 1000.0 },
            connections_each: Rate { per_second: 100.0, burst: 200.0 },
            joins: Rate { per_second: 10.0, burst: 20.0 },
            joins_each: Rate { per_second: 2.0, burst: 10.0 },
        }
    }
}

impl NetLimits {
    /// Whether others would talk to a node with these.
    pub(crate) fn check(&self) -> Result<(), ClusterError> {
        for (lane, message, least) in [
            ("control", self.control_message, LARGE_MESSAGE_THRESHOLD as u64),
            ("append", self.append_message, LEAST_APPEND),
        ] {
            if u64::from(message) < least {
                let what = format!(
                    "messages of {least} bytes have to be taken on the {lane} lane, not of {message} at most"
                );
                return Err(ClusterError::Config { what });
            }
        }
        Ok(())
    }

    /// Bytes of one peer's messages that may be under way on a lane.
    pub(crate) fn inbound(&self, lane: Lane) -> usize {
        match lane {
            Lane::Control => {
                self.inbound_bytes.min(CONTROL_AT_ONCE * self.control_message as usize)
            }
            Lane::Append | Lane::Bulk => self.inbound_bytes,
        }
    }

    /// Transfers of one peer in each direction, of all sorts together.
    pub(crate) fn streams(&self) -> usize {
        self.transfers.saturating_mul(2).saturating_add(1)
    }

    /// What this node says in its hello that it can do.
    pub(crate) fn features(&self) -> u64 {
        match self.compress {
            None => 0,
            Some(Compression::Zstd) => FEATURE_ZSTD,
            Some(Compression::Lz4) => FEATURE_LZ4,
        }
    }

    /// Largest message on `lane`.
    pub(crate) fn message(&self, lane: Lane) -> u32 {
        match lane {
            Lane::Append => self.append_message,
            Lane::Control | Lane::Bulk => self.control_message,
        }
    }
}
