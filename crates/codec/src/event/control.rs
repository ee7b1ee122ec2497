//! What is said about the feed, rather than on it.
use rkyv::{Archive, Deserialize, Serialize};

/// The first message to a peer that reads rkyv: who speaks, where the stream stands, and what its types are.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(default)]
pub struct Hello {
    /// The node's name.
    pub node: String,
    /// Changes when offsets start again.
    pub epoch: u64,
    /// The first offset that follows, unless a gap says otherwise.
    pub head: u64,
    /// The oldest offset in the history.
    pub oldest: u64,
    /// After this much silence, in milliseconds, the node sends a ping.
    pub heartbeat_ms: u32,
    /// Longest message that the node takes, in bytes.
    pub max_message: u32,
    /// Which dictionary compressed messages need; 0: none are compressed.
    pub dictionary: u32,
    /// The types that may come.
    pub types: Vec<TypeEntry>,
}

/// A type as one side knows it.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(default)]
pub struct TypeEntry {
    /// Its name.
    pub name: String,
    /// Its id in headers.
    pub id: u32,
    /// The version that is written.
    pub version: u16,
    /// Its layout.
    pub fingerprint: u32,
}

/// What a subscriber asks for; replaces what it asked for before.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(default, deny_unknown_fields)]
pub struct Subscribe {
    /// Kinds by name; all of them when empty.
    pub kinds: Vec<String>,
    /// Only keys that begin so.
    pub prefix: String,
    /// Only objects that bear one of these tags; all when empty.
    pub tags: Vec<String>,
    /// Go on from this offset.
    pub from: Option<u64>,
    /// The epoch that `from` counts in.
    pub epoch: Option<u64>,
    /// What to do when the subscriber falls behind.
    pub on_lag: OnLag,
}

/// What happens to a subscriber that falls too far behind.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OnLag {
    /// The oldest events are left out, and it is told which.
    #[default]
    Drop,
    /// It is disconnected, and may resume.
    Disconnect,
}

/// The answer to [`Subscribe`].
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(default)]
pub struct Subscribed {
    /// The offsets' epoch.
    pub epoch: u64,
    /// The first offset that follows.
    pub from: u64,
    /// Whether nothing is missing between what was asked for and what follows.
    pub resumed: bool,
    /// What was wrong with the request, if anything: then the old subscription stands.
    pub error: Option<String>,
}
