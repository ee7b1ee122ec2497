//! Datagrams that count for nothing, and why.

/// Why a datagram was refused. It changes nothing but a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// Not as long as a heartbeat or a reply.
    Length,
    /// Of another version of the format.
    Version,
    /// It says that this very node sent it.
    Reflected,
    /// It says that it is from a node that is no member here.
    Unknown,
    /// From a member with which no secret has been agreed on.
    Unkeyed,
    /// Its sender cannot have made it.
    Forged,
    /// It came before, or is too old to know whether it did.
    Replayed,
    /// Proven, and no heartbeat or reply.
    Malformed,
    /// Proven, and of or for a node that it cannot be of or for.
    Misaddressed,
    /// An answer to nothing, or one that came too late to be measured by.
    Unasked,
    /// It was passed on as often as it may be.
    TooFar,
    /// To be passed on, and there is no way, or too much to pass on.
    NoWay,
}

impl Reject {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Length,
        Self::Version,
        Self::Reflected,
        Self::Unknown,
        Self::Unkeyed,
        Self::Forged,
        Self::Replayed,
        Self::Malformed,
        Self::Misaddressed,
        Self::Unasked,
        Self::TooFar,
        Self::NoWay,
    ];

    /// A word for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Version => "version",
            Self::Reflected => "reflected",
            Self::Unknown => "unknown",
            Self::Unkeyed => "unkeyed",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Malformed => "malformed",
            Self::Misaddressed => "misaddressed",
            Self::Unasked => "unasked",
            Self::TooFar => "too_far",
            Self::NoWay => "no_way",
        }
    }
}

/// How many datagrams were refused, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rejected([u64; Reject::ALL.len()]);

impl Rejected {
    pub(super) fn count(&mut self, why: Reject) {
        self.0[why as usize] += 1;
    }

    /// For one reason.
    pub fn of(&self, why: Reject) -> u64 {
        self.0[why as usize]
    }

    /// For all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
