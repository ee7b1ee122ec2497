//! Data messages: frames carried for others. The payload goes to the end of the message.
use super::too_short;
use crate::addr::MacAddr;
use crate::error::PacketError;
use crate::field::field;

/// A frame on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data<'a> {
    /// Towards the root.
    ToUpstream(ToUpstream<'a>),
    /// Away from it.
    ToDownstream(ToDownstream<'a>),
}

/// A frame towards the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToUpstream<'a> {
    /// Who sent it first.
    pub origin: MacAddr,
    /// The frame.
    pub payload: &'a [u8],
}

/// A frame away from the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToDownstream<'a> {
    /// Who sent it first.
    pub origin: MacAddr,
    /// Whom it is for.
    pub destination: MacAddr,
    /// The frame.
    pub payload: &'a [u8],
}

impl<'a> ToUpstream<'a> {
    /// Bytes of the body without the payload.
    pub const HEADER_BYTES: usize = 6;

    #[inline]
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, PacketError> {
        let (origin, payload) = body
            .split_first_chunk()
            .ok_or_else(|| too_short("overlay to upstream", Self::HEADER_BYTES, body.len()))?;
        Ok(Self { origin: MacAddr(*origin), payload })
    }
}

impl<'a> ToDownstream<'a> {
    /// Bytes of the body without the payload.
    pub const HEADER_BYTES: usize = 12;

    #[inline]
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, PacketError> {
        let Some((header, payload)) = body.split_first_chunk::<12>() else {
            return Err(too_short("overlay to downstream", Self::HEADER_BYTES, body.len()));
        };
        let (origin, destination) = (MacAddr(field(header, 0)), MacAddr(field(header, 6)));
        Ok(Self { origin, destination, payload })
    }
}
