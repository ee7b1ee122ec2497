//! Control messages: heartbeats and their answers.
use super::too_short;
use crate::addr::MacAddr;
use crate::error::PacketError;
use crate::field::{be32, field};

/// What nodes tell each other about themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// "I am here."
    Heartbeat(Heartbeat),
    /// "I have heard you."
    HeartbeatReply(HeartbeatReply),
}

/// Says that a node is there, and lets the ones who hear it measure the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// The source's own clock, in milliseconds since it started.
    pub duration_ms: u128,
    /// Counts the source's heartbeats; wraps around.
    pub id: u32,
    /// How often it was forwarded.
    pub hops: u32,
    /// Who sent it first.
    pub source: MacAddr,
}

/// Answers a heartbeat: echoes it, and adds who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The heartbeat that is answered.
    pub heartbeat: Heartbeat,
    /// Who answers.
    pub sender: MacAddr,
}

impl Heartbeat {
    /// Bytes of the body.
    pub const BODY_BYTES: usize = 30;

    /// The same heartbeat one hop further. Serialising it does not count a hop.
    ///
    /// # Errors
    /// [`PacketError::BadField`] when it has made as many hops as can be counted: it is going round in circles.
    pub fn forwarded(self) -> Result<Self, PacketError> {
        let hops = self.hops.checked_add(1).ok_or(PacketError::BadField {
            layer: "overlay heartbeat",
            field: "hops",
            value: u64::from(self.hops),
            rule: "cannot be counted further; drop the message",
        })?;
        Ok(Self { hops, ..self })
    }

    /// The answer of `sender`.
    pub fn reply(self, sender: MacAddr) -> HeartbeatReply {
        HeartbeatReply { heartbeat: self, sender }
    }

    #[inline]
    pub(super) fn parse(body: &[u8]) -> Result<Self, PacketError> {
        let Some(body) = body.first_chunk::<{ Self::BODY_BYTES }>() else {
            return Err(too_short("overlay heartbeat", Self::BODY_BYTES, body.len()));
        };
        Ok(Self {
            duration_ms: u128::from_be_bytes(field(body, 0)),
            id: be32(body, 16),
            hops: be32(body, 20),
            source: MacAddr(field(body, 24)),
        })
    }

    #[inline]
    pub(super) fn body(&self) -> [u8; Self::BODY_BYTES] {
        let mut body = [0; Self::BODY_BYTES];
        body[..16].copy_from_slice(&self.duration_ms.to_be_bytes());
        body[16..20].copy_from_slice(&self.id.to_be_bytes());
        body[20..24].copy_from_slice(&self.hops.to_be_bytes());
        body[24..].copy_from_slice(&self.source.0);
        body
    }
}

impl HeartbeatReply {
    /// Bytes of the body.
    pub const BODY_BYTES: usize = Heartbeat::BODY_BYTES + 6;

    #[inline]
    pub(super) fn parse(body: &[u8]) -> Result<Self, PacketError> {
        let Some(body) = body.first_chunk::<{ Self::BODY_BYTES }>() else {
            return Err(too_short("overlay heartbeat reply", Self::BODY_BYTES, body.len()));
        };
        let sender = MacAddr(field(body, Heartbeat::BODY_BYTES));
        Heartbeat::parse(body).map(|heartbeat| heartbeat.reply(sender))
    }
}
