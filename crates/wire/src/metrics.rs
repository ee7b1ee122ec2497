//! What passes through, counted: relaxed atomics, one snapshot to show.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::LARGE_MESSAGE_THRESHOLD;
use crate::parser::ParserStats;

/// Upper bounds of the sizes that are told apart, in bytes of payload. One more counter is for larger ones.
pub const SIZE_BOUNDS: [usize; 8] =
    [64, 512, 4 << 10, 16 << 10, LARGE_MESSAGE_THRESHOLD, 256 << 10, 1 << 20, 16 << 20];
/// Upper bounds of the times that are told apart, in microseconds. One more counter is for longer ones.
pub const LATENCY_BOUNDS_US: [u64; 11] =
    [3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 1_000_000];

/// Counters of one connection, or of many.
#[derive(Debug, Default)]
pub struct WireMetrics {
    sent: Direction,
    received: Direction,
    frames: AtomicU64,
    sliced: AtomicU64,
    gathered: AtomicU64,
    gathered_bytes: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
    latency: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    latency_us: AtomicU64,
}

#[derive(Debug, Default)]
struct Direction {
    bytes: AtomicU64,
    streamed: AtomicU64,
    sizes: [AtomicU64; SIZE_BOUNDS.len() + 1],
}

/// What passed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirectionSnapshot {
    /// Messages in one frame each.
    pub direct: u64,
    /// Messages in chunks.
    pub streamed: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// How many of which size, by [`SIZE_BOUNDS`].
    pub sizes: [u64; SIZE_BOUNDS.len() + 1],
}

impl DirectionSnapshot {
    /// All messages.
    pub fn messages(&self) -> u64 {
        self.direct + self.streamed
    }

    /// The share of messages that came in chunks, from 0 to 1.
    pub fn streaming_ratio(&self) -> f64 {
        match self.messages() {
            0 => 0.0,
            all => self.streamed as f64 / all as f64,
        }
    }
}

/// All counters at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireSnapshot {
    /// What went out.
    pub sent: DirectionSnapshot,
    /// What came in.
    pub received: DirectionSnapshot,
    /// Frames read, parts of chunked messages among them.
    pub frames: u64,
    /// Payloads that are slices of what was read: each an allocation and a copy avoided.
    pub allocations_avoided: u64,
    /// Payloads and chunks that had to be copied together.
    pub gathered: u64,
    /// Bytes copied for that.
    pub gathered_bytes: u64,
    /// Messages dropped because there was no room for them.
    pub dropped: u64,
    /// Messages refused for what they say.
    pub refused: u64,
    /// How many messages were processed how fast, by [`LATENCY_BOUNDS_US`].
    pub latency: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// All of those times together, in microseconds.
    pub latency_us: u64,
}

impl WireMetrics {
    /// Counts a message that was written, by the length of its payload and whether it went in chunks.
    #[inline]
    pub fn sent(&self, len: usize, streamed: bool) {
        self.sent.count(len);
        add(&self.sent.streamed, streamed.into());
    }

    /// Counts a message that was read. Whether it came in chunks, its parser has seen: see [`WireMetrics::parsed`].
    #[inline]
    pub fn received(&self, len: usize) {
        self.received.count(len);
    }

    /// Adds what a parser has done since it was last asked.
    pub fn parsed(&self, before: &ParserStats, now: &ParserStats) {
        let more = u64::saturating_sub;
        add(&self.frames, more(now.frames, before.frames));
        add(&self.sliced, more(now.sliced, before.sliced));
        add(&self.gathered, more(now.gathered, before.gathered));
        add(&self.gathered_bytes, more(now.gathered_bytes, before.gathered_bytes));
        add(&self.received.streamed, more(now.streamed, before.streamed));
    }

    /// Counts a message that there was no room for.
    pub fn dropped(&self) {
        add(&self.dropped, 1);
    }

    /// Counts a message that was refused for what it says.
    pub fn refused(&self) {
        add(&self.refused, 1);
    }

    /// Counts how long it took to process a message.
    #[inline]
    pub fn processed(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        add(&self.latency[LATENCY_BOUNDS_US.partition_point(|bound| *bound < us)], 1);
        add(&self.latency_us, us);
    }

    /// All of it. Counters that move meanwhile may be from either side of the moment.
    pub fn snapshot(&self) -> WireSnapshot {
        WireSnapshot {
            sent: self.sent.snapshot(),
            received: self.received.snapshot(),
            frames: read(&self.frames),
            allocations_avoided: read(&self.sliced),
            gathered: read(&self.gathered),
            gathered_bytes: read(&self.gathered_bytes),
            dropped: read(&self.dropped),
            refused: read(&self.refused),
            latency: self.latency.each_ref().map(read),
            latency_us: read(&self.latency_us),
        }
    }
}

impl Direction {
    fn count(&self, len: usize) {
        add(&self.bytes, len as u64);
        add(&self.sizes[SIZE_BOUNDS.partition_point(|bound| *bound < len)], 1);
    }

    fn snapshot(&self) -> DirectionSnapshot {
        let (sizes, streamed) = (self.sizes.each_ref().map(read), read(&self.streamed));
        DirectionSnapshot {
            direct: sizes.iter().sum::<u64>().saturating_sub(streamed),
            streamed,
            bytes: read(&self.bytes),
            sizes,
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    if more > 0 {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_what_is_below_them() {
        let metrics = WireMetrics::default();
        for len in [0, 64, 65, LARGE_MESSAGE_THRESHOLD, LARGE_MESSAGE_THRESHOLD + 1, 20 << 20] {
            metrics.sent(len, len > 20_000);
        }
        let sent = metrics.snapshot().sent;
        assert_eq!(sent.sizes, [2, 1, 0, 0, 1, 1, 0, 0, 1]);
        assert_eq!((sent.direct, sent.streamed), (3, 3));
        assert!((sent.streaming_ratio() - 0.5).abs() < 1e-9);
        for us in [0, 3, 4, 2_000_000] {
            metrics.processed(Duration::from_micros(us));
        }
        let latency = metrics.snapshot().latency;
        assert_eq!((latency[0], latency[1], latency[11]), (2, 1, 1));
        assert!(DirectionSnapshot::default().streaming_ratio() < 1e-9);
    }
}
