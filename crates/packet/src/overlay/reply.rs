//! What a node answers with: bytes for the link or for the TAP device.
use std::io::IoSlice;

use bytes::Bytes;

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Out on the link.
    Wire,
    /// Into the TAP device.
    Tap,
}

/// One message or frame to be sent, in one piece or in several.
///
/// Each is one datagram or frame, and goes out by one call: a packet socket and a TAP device take every call for a
/// packet of its own, so that several answers must never share one.
///
/// ```
/// use straightway_packet::overlay::{Destination, ReplyType};
///
/// let nested = ReplyType::Tap(vec![b"straight".to_vec(), b"way".to_vec()]);
/// assert_eq!(nested.destination(), Destination::Tap);
/// assert_eq!(nested.with_slices(|slices| slices.len()), 2);
/// assert_eq!(ReplyType::TapFlat(b"straightway".to_vec()).with_slices(|slices| slices.len()), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyType {
    /// For the link, in pieces.
    Wire(Vec<Vec<u8>>),
    /// For the TAP device, in pieces.
    Tap(Vec<Vec<u8>>),
    /// For the link, in one piece.
    WireFlat(Vec<u8>),
    /// For the TAP device, in one piece.
    TapFlat(Vec<u8>),
    /// For the link, in one shared, usually pooled, piece.
    WireShared(Bytes),
    /// For the TAP device, in one shared, usually pooled, piece.
    TapShared(Bytes),
}

/// Pieces that are sent without an allocation: as many as any message has.
const ON_STACK: usize = 16;

impl ReplyType {
    /// Where it goes.
    pub fn destination(&self) -> Destination {
        match self {
            Self::Wire(_) | Self::WireFlat(_) | Self::WireShared(_) => Destination::Wire,
            Self::Tap(_) | Self::TapFlat(_) | Self::TapShared(_) => Destination::Tap,
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Wire(pieces) | Self::Tap(pieces) => pieces.iter().map(Vec::len).sum(),
            Self::WireFlat(bytes) | Self::TapFlat(bytes) => bytes.len(),
            Self::WireShared(bytes) | Self::TapShared(bytes) => bytes.len(),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the pieces to a vectored send: one for the flat forms, as many as there are for the nested ones.
    pub fn with_slices<R>(&self, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        let pieces = match self {
            Self::WireFlat(bytes) | Self::TapFlat(bytes) => return send(&[IoSlice::new(bytes)]),
            Self::WireShared(bytes) | Self::TapShared(bytes) => {
                return send(&[IoSlice::new(bytes)]);
            }
            Self::Wire(pieces) | Self::Tap(pieces) => pieces,
        };
        if pieces.len() > ON_STACK {
            return send(&pieces.iter().map(|piece| IoSlice::new(piece)).collect::<Vec<_>>());
        }
        let mut slices = [IoSlice::new(&[]); ON_STACK];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
        }
        send(&slices[..pieces.len()])
    }
}
