//! Why a connection ends.

/// A close code (RFC 6455 §7.4), of those that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// Done.
    Normal = 1000,
    /// The node or the page goes away.
    GoingAway = 1001,
    /// The peer broke the protocol.
    Protocol = 1002,
    /// The peer sent a kind of data that is not taken.
    Unsupported = 1003,
    /// Text that is no UTF-8, or a payload that cannot be read.
    InvalidPayload = 1007,
    /// The peer broke a rule of this node.
    Policy = 1008,
    /// A message over the limit.
    TooBig = 1009,
    /// The node restarts: come back.
    Restart = 1012,
    /// The node has no room: come back later.
    TryAgain = 1013,
    /// The subscriber fell too far behind and asked to be disconnected then; it may resume.
    Lagging = 4008,
    /// Nothing was heard from the peer.
    Silent = 4012,
    /// Too many commands.
    TooMany = 4029,
}

/// The payload of a close frame. The reason is cut to what a control frame holds.
pub fn close_payload(code: CloseCode, reason: &str) -> Vec<u8> {
    let mut len = reason.len().min(123);
    while !reason.is_char_boundary(len) {
        len -= 1;
    }
    let mut payload = (code as u16).to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..len]);
    payload
}

/// Whether a peer may send this code (RFC 6455 §7.4.1 and §7.4.2).
pub(super) fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
