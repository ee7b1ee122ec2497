//! Tells the feed the node's numbers once a second, while anybody listens.
use std::sync::Arc;
use std::time::Duration;

use straightway_buffer::PoolStats;
use straightway_codec::event::Stats;
use tokio::sync::watch;

use super::table::Snapshot;
use crate::counters::{HttpStats, LATENCY_BOUNDS};
use crate::state::NodeState;

const PERIOD: Duration = Duration::from_secs(1);

/// Runs until `stop` changes.
pub(super) async fn run(node: Arc<NodeState>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.changed() => return,
        }
        if node.feed.has_listeners() {
            node.feed.publish_stats(&stats(&node, &Snapshot::take(&node).await));
        }
    }
}

/// A node's numbers, as the feed tells them.
pub(super) fn stats(node: &NodeState, snapshot: &Snapshot) -> Stats {
    let Snapshot { cache, zero_copy, pools, http, feed, uptime_s, .. } = snapshot;
    let sum = |read: fn(&PoolStats) -> u64| pools.iter().map(|(_, pool)| read(pool)).sum();
    Stats {
        node: node.feed.node().to_owned(),
        uptime_ms: (uptime_s * 1000.0) as u64,
        objects: cache.objects,
        bytes: cache.bytes,
        capacity: cache.capacity,
        hits: cache.hits,
        misses: cache.misses,
        stores: cache.stores,
        evictions: cache.evictions,
        purged: cache.purged,
        requests: http.requests_total(),
        sent_bytes: http.sent_bytes,
        received_bytes: http.received_bytes,
        bytes_served: zero_copy.bytes_served,
        bytes_copied: zero_copy.bytes_copied,
        writev_bytes: zero_copy.writev_bytes,
        sendfile_bytes: zero_copy.sendfile_bytes,
        pread_bytes: zero_copy.pread_bytes,
        cold_reads: zero_copy.cold_reads,
        pins_held: zero_copy.pins_held,
        connections: http.connections_open(),
        subscribers: feed.subscribers,
        latency_p50_us: quantile_us(http, 0.5),
        latency_p99_us: quantile_us(http, 0.99),
        pool_hits: sum(|pool| pool.hits),
        pool_misses: sum(|pool| pool.misses),
        checksum_failures: cache.checksum_failures,
    }
}

/// A quantile of the latency, as the upper bound of its bucket in microseconds; 0 without requests.
fn quantile_us(http: &HttpStats, quantile: f64) -> u64 {
    let total: u64 = http.latency.iter().sum();
    let wanted = (total as f64 * quantile).ceil() as u64;
    let mut seen = 0;
    for (count, bound) in http.latency.iter().zip(LATENCY_BOUNDS.iter().chain([&60.0])) {
        seen += count;
        if total > 0 && seen >= wanted.max(1) {
            return (bound * 1e6) as u64;
        }
    }
    0
}
