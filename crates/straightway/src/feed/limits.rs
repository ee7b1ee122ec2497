//! What the feed keeps and what it allows.
use std::time::Duration;

/// Limits of the feed. Each has a counter that says how often it was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedLimits {
    /// Bytes of encoded events kept for those who resume.
    pub history_bytes: usize,
    /// Events kept.
    pub history_events: usize,
    /// How long events are kept.
    pub history_age: Duration,
    /// Subscribers at a time.
    pub max_subscribers: usize,
    /// Subscribers at a time from one address beyond this machine.
    pub max_per_address: usize,
    /// Streams of server-sent events at a time: each keeps one of the admin listener's connections.
    pub max_streams: usize,
    /// Longest message that a subscriber may send, in bytes.
    pub max_message: usize,
    /// Events that a subscriber may be behind.
    pub max_lag: u64,
    /// How long events are gathered for one write when they come thick and fast; a first one is written at once.
    pub flush_window: Duration,
    /// After this much silence a subscriber is asked whether it is there.
    pub heartbeat: Duration,
    /// How long it may take to answer.
    pub pong_timeout: Duration,
    /// Commands a second, and twice as many at once.
    pub commands_per_second: u32,
}

impl Default for FeedLimits {
    fn default() -> Self {
        Self {
            history_bytes: 64 << 20,
            history_events: 65_536,
            history_age: Duration::from_mins(10),
            max_subscribers: 10_000,
            max_per_address: 256,
            max_streams: 128,
            max_message: 4096,
            max_lag: 16_384,
            flush_window: Duration::from_millis(2),
            heartbeat: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(10),
            commands_per_second: 20,
        }
    }
}
