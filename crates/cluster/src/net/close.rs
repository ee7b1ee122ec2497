//! Why a connection is closed, as a number that the other side understands.
use std::fmt;

use iroh::endpoint::{ApplicationClose, ConnectionError, VarInt};

/// Longest reason that is sent, and kept of what is received.
const MAX_REASON: usize = 512;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why a connection was closed. The numbers are part of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum CloseCode {
            $($(#[$doc])* $name,)*
            /// A number that this version does not know.
            Other(u32),
        }

        impl CloseCode {
            /// The number on the wire.
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$name => $code,)*
                    Self::Other(number) => number,
                }
            }

            /// The reverse of [`CloseCode::number`].
            pub fn from_number(number: u32) -> Self {
                match number {
                    $($code => Self::$name,)*
                    other => Self::Other(other),
                }
            }

            fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_) => "closed for a reason that this version does not know",
                }
            }
        }
    };
}

codes! {
    /// Nothing more to say.
    Done = 0, "done";
    /// The node that closes is being stopped.
    Stopping = 64, "this node is being stopped";
    /// The key belongs to no member.
    NotAMember = 65, "not a member of this cluster; a node joins with a ticket";
    /// The key belonged to a member that was removed.
    Removed = 66, "this node was removed from the cluster";
    /// A member of another cluster.
    OtherCluster = 67, "this is another cluster";
    /// A member that lost its log, and would forget what it has voted for.
    Wiped = 68, "this node's log is not the one it joined with; remove it from the cluster, empty its data folder and let it join again";
    /// It says it is another member than the one its key belongs to.
    WrongNumber = 69, "the member number does not belong to this key";
    /// The first frame did not come, or was no `Hello`.
    NoHello = 70, "a connection begins with a hello";
    /// It broke the wire format, or sent a message that no member sends.
    Protocol = 71, "broke the protocol";
    /// A newer connection took its place.
    Superseded = 72, "a newer connection took the place of this one";
    /// It comes from a start of the peer that was not its last.
    StaleBoot = 73, "the node was started again since";
    /// Took too long.
    TooSlow = 75, "took too long";
}

impl CloseCode {
    /// As QUIC wants it.
    pub(crate) fn var_int(self) -> VarInt {
        VarInt::from_u32(self.number())
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What the other side said when it closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) code: CloseCode,
    pub(crate) reason: String,
}

impl Closed {
    /// `None`: it did not close, the connection was lost or closed from here.
    pub(crate) fn of(error: &ConnectionError) -> Option<Self> {
        match error {
            ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason }) => {
                let number = u32::try_from(error_code.into_inner()).unwrap_or(u32::MAX);
                let code = CloseCode::from_number(number);
                let reason = &reason[..reason.len().min(MAX_REASON)];
                let reason = String::from_utf8_lossy(reason)
                    .chars()
                    .filter(|letter| !letter.is_control())
                    .collect::<String>();
                let reason = if reason.is_empty() { code.to_string() } else { reason };
                Some(Self { code, reason })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_unknown_ones_are_kept() {
        for number in 0..100 {
            assert_eq!(CloseCode::from_number(number).number(), number);
        }
        assert_eq!(CloseCode::NotAMember.number(), 65);
        assert_eq!(CloseCode::from_number(99), CloseCode::Other(99));
    }

    #[test]
    fn what_a_stranger_says_is_cut_and_cleaned() {
        let error = ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: VarInt::from_u32(66),
            reason: [&b"gone\x1b[2J"[..], &[b'x'; 1000]].concat().into(),
        });
        let closed = Closed::of(&error).expect("closed by the peer");
        assert_eq!(closed.code, CloseCode::Removed);
        assert!(closed.reason.starts_with("gone[2Jxx") && closed.reason.len() < MAX_REASON);
        assert_eq!(Closed::of(&ConnectionError::TimedOut), None);
    }
}
