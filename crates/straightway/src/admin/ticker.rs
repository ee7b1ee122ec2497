//! Tells the feed the node's numbers once a second, while anybody listens.
use std::sync::Arc;
use std::time::Duration;

use straightway_buffer::PoolStats;
use straightway_codec::event::Stats;
use tokio::sync::watch;

use super::table::Snapshot;
use crate::counters::{HttpStats, latency_bound_us};
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
    let Snapshot { cache, zero_copy, pools, http, feed, .. } = snapshot;
    let sum = |read: fn(&PoolStats) -> u64| pools.iter().map(|(_, pool)| read(pool)).sum();
    Stats {
        node: node.feed.node().to_owned(),
        epoch: node.feed.epoch(),
        uptime_ms: u64::try_from(node.uptime().as_millis()).unwrap_or(u64::MAX),
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
        latency_p50_us: quantile_us(http, 500),
        latency_p99_us: quantile_us(http, 990),
        pool_hits: sum(|pool| pool.hits),
        pool_misses: sum(|pool| pool.misses),
        checksum_failures: cache.checksum_failures,
    }
}

/// A quantile of the latency, given in thousandths, as the upper bound of its bucket in microseconds; 0 without requests.
fn quantile_us(http: &HttpStats, thousandths: u64) -> u64 {
    let total: u64 = http.latency.iter().sum();
    let wanted = (total * thousandths).div_ceil(1000).max(1);
    let mut seen = 0;
    let bucket = http.latency.iter().position(|count| {
        seen += count;
        seen >= wanted
    });
    bucket.map_or(0, latency_bound_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_bounds_of_their_buckets() {
        let mut http = HttpStats::default();
        assert_eq!(quantile_us(&http, 500), 0);
        http.latency[0] = 98;
        http.latency[2] = 1;
        http.latency[14] = 1;
        assert_eq!((quantile_us(&http, 500), quantile_us(&http, 990)), (50, 250));
        assert_eq!(quantile_us(&http, 1000), 60_000_000);
    }
}
