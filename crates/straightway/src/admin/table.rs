//! The one table of a node's statistics: name, unit, kind, meaning, and where the number comes from.
//!
//! `/metrics`, `/api/stats` and the table in the documentation are all made from it, so that a number cannot exist in one
//! of them and be missing, or mean something else, in another.
use serde_json::{Map, Value, json};
use straightway_buffer::{CopyStats, PoolStats};
use straightway_cache::{CacheInfo, CacheStats, ZeroCopyStats};
use straightway_cluster::{Cluster, Metrics, PeerMetrics};
use straightway_codec::optimizer::Plan;
use straightway_codec::{SerializationOptimizer, TypeStats};

use crate::counters::HttpStats;
use crate::feed::FeedStats;
use crate::state::NodeState;

/// Whether a number only grows, or goes up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the node runs.
    Counter,
    /// The state at this moment.
    Gauge,
}

/// One statistic of a group whose numbers come from `S`.
#[derive(Debug)]
pub struct Stat<S: 'static> {
    /// Name within its group, as `/api/stats` shows it.
    pub name: &'static str,
    /// Unit of the number; empty for plain counts.
    pub unit: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// What it means, in one sentence.
    pub help: &'static str,
    /// Takes it from a snapshot.
    pub read: fn(&S) -> u64,
}

macro_rules! stats {
    ($($kind:ident $name:ident $unit:literal $help:literal $read:expr;)*) => {
        &[$(Stat { name: stringify!($name), unit: $unit, kind: Kind::$kind, help: $help, read: $read }),*]
    };
}

/// Statistics of the cache: group `cache`.
pub const CACHE: &[Stat<CacheStats>] = stats! {
    Gauge objects "" "Objects in the index." |s| s.objects;
    Gauge bytes "bytes" "Bytes of live extents, headers included." |s| s.bytes;
    Gauge capacity "bytes" "Bytes that the data area holds." |s| s.capacity;
    Counter hits "" "Lookups that found a live object." |s| s.hits;
    Counter misses "" "Lookups that did not." |s| s.misses;
    Counter stores "" "Objects stored." |s| s.stores;
    Counter removes "" "Objects removed on request." |s| s.removes;
    Counter purged "" "Objects removed by purges." |s| s.purged;
    Counter evictions "" "Objects dropped to make room." |s| s.evictions;
    Counter expired "" "Objects whose lifetime had ended when they were met." |s| s.expired;
    Counter reinsertions "" "Objects copied forward because they were in use when their region was reclaimed." |s| s.reinsertions;
    Counter checksum_failures "" "Objects dropped because their bytes did not match their checksum." |s| s.checksum_failures;
    Counter io_errors "" "Reads or writes that the system refused." |s| s.io_errors;
    Counter no_space "" "Stores that found no space." |s| s.no_space;
    Counter checkpoints "" "Index checkpoints written." |s| s.checkpoints;
    Counter journal_flushes "" "Times that journaled changes were flushed to the medium." |s| s.journal_flushes;
    Counter scrubbed_bytes "bytes" "Bytes verified by the background scrubber." |s| s.scrubbed_bytes;
};

/// Statistics of the ways out of the cache: group `zero_copy`.
pub const ZERO_COPY: &[Stat<ZeroCopyStats>] = stats! {
    Counter mmap_reads "" "Reads answered by a slice of the mapping." |s| s.mmap_reads;
    Counter mmap_bytes "bytes" "Bytes of those reads." |s| s.mmap_bytes;
    Counter sendfile_transfers "" "Transfers by sendfile." |s| s.sendfile_transfers;
    Counter sendfile_bytes "bytes" "Bytes of those transfers." |s| s.sendfile_bytes;
    Counter mmap_skipped "" "Reads that did not use the mapping because the object is below the threshold." |s| s.mmap_skipped;
    Counter writev_transfers "" "Transfers by writev out of the mapping." |s| s.writev_transfers;
    Counter writev_bytes "bytes" "Bytes of those transfers." |s| s.writev_bytes;
    Counter pread_reads "" "Reads by pread into a pooled buffer." |s| s.pread_reads;
    Counter pread_bytes "bytes" "Bytes of those reads." |s| s.pread_bytes;
    Counter bytes_copied "bytes" "Bytes copied in user space on their way to a reader." |s| s.bytes_copied;
    Counter bytes_served "bytes" "Bytes handed to readers by any path." |s| s.bytes_served;
    Counter cold_reads "" "Windows that had to be read from the device before they were served." |s| s.cold_reads;
    Gauge pins_held "" "Extents pinned at this moment." |s| s.pins_held;
};

/// Statistics of one buffer pool: group `pools`, then the pool's name. `hit_rate` stands beside them.
pub const POOL: &[Stat<PoolStats>] = stats! {
    Counter hits "" "Buffers taken from the pool." |s| s.hits;
    Counter misses "" "Buffers that had to be allocated." |s| s.misses;
    Counter returns "" "Buffers given back and kept." |s| s.returns;
    Counter drops "" "Buffers given back and freed: the pool was full, or they were oversize." |s| s.drops;
    Counter allocations "" "Allocations from the heap." |s| s.allocations;
    Counter oversize "" "Buffers larger than the largest class." |s| s.oversize;
    Gauge outstanding "" "Buffers in use." |s| s.outstanding;
    Gauge bytes_held "bytes" "Memory kept for reuse." |s| s.bytes_held;
    Gauge high_water_bytes "bytes" "Most memory that existed at once, in use and kept." |s| s.high_water_bytes;
};

/// Bytes copied in user space, by reason: group `copies`.
pub const COPIES: &[Stat<CopyStats>] = stats! {
    Counter ingest "bytes" "Bodies copied into the aligned buffers that go to the device." |s| s.ingest;
    Counter small_read "bytes" "Objects copied out of the file." |s| s.small_read;
    Counter checksums "bytes" "Checksums copied behind a body." |s| s.checksums;
    Counter relocate "bytes" "Objects copied to another place on the device." |s| s.relocate;
    Counter encrypt "bytes" "Objects copied into memory that encryption may read." |s| s.encrypt;
    Counter cursor "bytes" "Bytes copied into and out of buffers through cursors." |s| s.cursor;
    Counter gather "bytes" "Short feed events copied one behind the other, once for all subscribers." |s| s.gather;
};

/// Statistics of the data listeners: group `http`. Requests by method and status and the latency histogram stand beside them.
pub const HTTP: &[Stat<HttpStats>] = stats! {
    Gauge connections_open "" "Connections that are open." HttpStats::connections_open;
    Counter connections_accepted "" "Connections accepted." |s| s.connections_accepted;
    Counter cut_idle "" "Connections closed because no request came." |s| s.cut_idle;
    Counter cut_header "" "Connections closed because a request head took too long." |s| s.cut_header;
    Counter cut_stalled "" "Connections closed because a transfer made no progress." |s| s.cut_stalled;
    Counter cut_revoked "" "Connections closed because their bytes were wanted back or found damaged." |s| s.cut_revoked;
    Counter aborted_responses "" "Answers that ended before their last byte." |s| s.aborted_responses;
    Counter received_bytes "bytes" "Body bytes taken in by PUT." |s| s.received_bytes;
    Counter sent_bytes "bytes" "Bytes handed to sockets, heads included." |s| s.sent_bytes;
    Counter flattened_bytes "bytes" "Mapped body bytes that were copied behind a head; must stay 0." |s| s.flattened_bytes;
    Counter mapped_bytes_refused "bytes" "Mapped bytes that reached TLS and were refused; must stay 0." |s| s.mapped_bytes_refused;
    Counter tls_failures "" "TLS handshakes that failed." |s| s.tls_failures;
};

/// Statistics of the live feed: group `feed`.
pub const FEED: &[Stat<FeedStats>] = stats! {
    Gauge subscribers "" "Subscribers." |s| s.subscribers;
    Gauge streams "" "Streams of server-sent events." |s| s.streams;
    Gauge head "" "The offset that the next event gets." |s| s.head;
    Counter events "" "Events published." |s| s.events;
    Gauge history_events "" "Events kept for those who resume." |s| s.history_events;
    Gauge history_bytes "bytes" "Bytes of those." |s| s.history_bytes;
    Counter accepted "" "Subscribers accepted." |s| s.accepted;
    Counter refused "" "Subscribers refused for want of room." |s| s.refused;
    Counter deliveries "" "Events handed to sockets." |s| s.deliveries;
    Counter sent_bytes "bytes" "Bytes of those, frames included." |s| s.sent_bytes;
    Counter writes "" "Writes that they took." |s| s.writes;
    Counter gaps "" "Gaps told to subscribers." |s| s.gaps;
    Counter expired "" "Events not sent because their lifetime had ended." |s| s.expired;
    Counter overtaken "" "Urgent events that went ahead of others." |s| s.overtaken;
    Counter lagging_closed "" "Subscribers disconnected because they fell behind." |s| s.lagging_closed;
    Counter violations "" "Subscribers disconnected because they broke the protocol or a limit." |s| s.violations;
    Counter silent "" "Subscribers disconnected because nothing was heard of them." |s| s.silent;
    Counter json_encoded "" "Events written as JSON: once each, for all who read it." |s| s.json_encoded;
    Counter deflated "" "Texts deflated: once each, for those who agreed on permessage-deflate." |s| s.deflated;
    Counter zstd_encoded "" "Events compressed: once each." |s| s.zstd_encoded;
    Counter fallbacks "" "Times that JSON was used in place of rkyv." |s| s.fallbacks;
    Counter fallbacks_recovered "" "Peers that went back to rkyv." |s| s.fallbacks_recovered;
};

/// What the feed's optimizer knows of one type, and what it does about it.
pub type Encoded = (TypeStats, Plan);

/// Statistics of one type of message: group `encoding`, then the type's name.
pub const ENCODING: &[Stat<Encoded>] = stats! {
    Counter count "" "Messages written." |(s, _)| s.serialization_count;
    Gauge average_size "bytes" "Mean size of the measured ones." |(s, _)| s.total_size / s.measured.max(1);
    Gauge average_ns "nanoseconds" "Mean time that writing one took." |(s, _)| u64::try_from(s.average_time.as_nanos()).unwrap_or(u64::MAX);
    Counter compressed_from "bytes" "Bytes that were compressed." |(s, _)| s.compressed_from;
    Counter compressed_to "bytes" "What they came to." |(s, _)| s.compressed_to;
    Counter reused "" "Messages answered with a form that was still fresh." |(s, _)| s.reused;
    Gauge plan_reserve "bytes" "Room that is asked for at once; 0: the usual." |(_, p)| u64::from(p.reserve);
    Gauge plan_pool "" "Whether buffers come from the pool that keeps them." |(_, p)| u64::from(p.pool);
    Gauge plan_compress_from "bytes" "Compressed from here on; 0: never." |(_, p)| u64::from(p.compress_from);
    Gauge plan_cache_ms "milliseconds" "How long encoded forms are kept; 0: not at all." |(_, p)| u64::from(p.cache_ms);
};

/// How a member of a cluster stands: group `cluster`, only while the node is in one.
pub const CLUSTER: &[Stat<Metrics>] = stats! {
    Gauge is_leader "" "Whether this member leads." |s| u64::from(s.is_leader);
    Gauge has_leader "" "Whether this member knows of a leader." |s| u64::from(s.has_leader);
    Gauge term "" "Raft's term." |s| s.term;
    Gauge commit_index "" "The last entry that is known here to be committed." |s| s.commit_index;
    Gauge applied_index "" "The last entry applied here." |s| s.applied_index;
    Gauge durable_index "" "The last entry whose effects are in the catalogue's file." |s| s.durable_index;
    Gauge objects "" "Objects in the catalogue." |s| s.objects;
    Gauge objects_short "" "Objects of which there are fewer copies than there should be: all of them, in a cluster of fewer members than `--copies`." |s| s.objects_short;
    Gauge members "" "Members." |s| s.members;
    Gauge voters "" "Members that vote." |s| s.voters;
    Gauge lease_held "" "Whether hits are served without asking a majority." |s| u64::from(s.lease_held);
    Gauge lease_remaining_ms "milliseconds" "How long the serve lease still holds." |s| s.lease_remaining_ms;
    Counter log_batches "" "Batches written to the log." |s| s.log.batches;
    Counter log_syncs "" "Flushes of the log." |s| s.log.syncs;
    Counter log_entries "" "Entries written to the log." |s| s.log.entries;
    Counter log_payload_bytes "bytes" "Bytes of those entries." |s| s.log.payload_bytes;
    Counter log_file_bytes "bytes" "Bytes written to the log, with all around the entries." |s| s.log.file_bytes;
    Gauge log_segments "" "Segments of the log that hold something." |s| s.log.segments;
    Gauge log_poisoned "" "Whether writing the log failed: the node then stops." |s| u64::from(s.log.poisoned);
    Counter transfers_stored "" "Objects that other members sent here and that were stored." |s| s.transfers.stored;
    Counter transfers_sent "" "Objects that other members fetched from here." |s| s.transfers.sent;
    Counter transfers_parts "" "Parts of objects that other members fetched from here for their readers." |s| s.transfers.parts;
    Counter transfers_snapshots "" "Snapshots that other members fetched from here." |s| s.transfers.snapshots;
    Counter transfers_bytes_in "bytes" "Bytes that came in transfers of others." |s| s.transfers.bytes_in;
    Counter transfers_bytes_out "bytes" "Bytes that left in transfers of others." |s| s.transfers.bytes_out;
    Counter transfers_failed "" "Transfers of others that came to nothing." |s| s.transfers.failed;
    Counter repaired "" "Copies that this member made anew." |s| s.repaired;
    Counter repairs_failed "" "Copies that it could not make anew." |s| s.repairs_failed;
    Counter mesh_sent "" "Datagrams that the mesh sent." |s| s.mesh.sent;
    Counter mesh_received "" "Datagrams that came to the mesh." |s| s.mesh.received;
    Counter mesh_unsent "" "Datagrams of the mesh that could not be sent." |s| s.mesh.unsent;
    Counter mesh_failures "" "Times that the mesh's socket failed." |s| s.mesh.failures;
    Counter wire_sent_direct "" "Messages sent on the lanes in one frame each." |s| s.wire.sent.direct;
    Counter wire_sent_streamed "" "Messages sent on the lanes in chunks: those of more than 64 KiB." |s| s.wire.sent.streamed;
    Counter wire_received_direct "" "Messages that came on the lanes in one frame each." |s| s.wire.received.direct;
    Counter wire_received_streamed "" "Messages that came on the lanes in chunks." |s| s.wire.received.streamed;
    Counter wire_frames "" "Frames read from the lanes, chunks among them." |s| s.wire.frames;
    Counter wire_allocations_avoided "" "Payloads that are slices of what was read: an allocation and a copy less each." |s| s.wire.allocations_avoided;
    Counter wire_gathered "" "Payloads and chunks that had to be copied together on arrival." |s| s.wire.gathered;
    Counter wire_gathered_bytes "bytes" "Bytes copied for that." |s| s.wire.gathered_bytes;
    Counter wire_dropped "" "Messages to other members that were dropped: the queue was full, or the member away." |s| s.wire.dropped;
    Counter wire_refused "" "Messages from other members that were refused for what they say." |s| s.wire.refused;
};

/// What a member knows of each other one: group `cluster.peers`, then its number. Lanes are control and append together.
pub const CLUSTER_PEER: &[Stat<PeerMetrics>] = stats! {
    Gauge healthy "" "Whether the member answers." |p| u64::from(p.healthy);
    Gauge rtt_us "microseconds" "Round-trip time to it, as the mesh measures it; 0: not known." |p| p.rtt_us;
    Gauge loss_permille "" "Heartbeats of the last 64 that it did not answer, in thousandths." |p| p.loss_permille;
    Gauge lanes_connected "" "Lanes to it that are connected, of two." |p| p.both(|lane| u64::from(lane.connected));
    Gauge control_rtt_us "microseconds" "Round trip of the last sign of life on the control lane, with the time that the member was busy. One is sent when the lane was quiet for half a second, which it is not between a leader and the others; 0: none on this connection." |p| p.control.rtt_us();
    Gauge append_rtt_us "microseconds" "The same on the append lane." |p| p.append.rtt_us();
    Gauge queued_bytes "bytes" "Bytes that wait to be sent to it." |p| p.both(|lane| lane.queued_bytes as u64);
    Counter sent "" "Messages sent to it." |p| p.both(|lane| lane.sent);
    Counter sent_bytes "bytes" "Bytes of those." |p| p.both(|lane| lane.sent_bytes);
    Counter received "" "Messages received from it." |p| p.both(|lane| lane.received);
    Counter received_bytes "bytes" "Bytes of those." |p| p.both(|lane| lane.received_bytes);
    Counter dropped "" "Messages to it that were dropped: its queue was full, or it was away." |p| p.both(|lane| lane.dropped);
    Counter replaced "" "Heartbeats to it that a newer one took the place of." |p| p.both(|lane| lane.replaced);
    Counter connections "" "Connections made to it: all but two are reconnections." |p| p.both(|lane| lane.connections);
};

/// What the network refused, by reason: group `cluster`, then its name, then the reason.
pub const CLUSTER_REFUSED: &[Stat<u64>] = stats! {
    Counter refused "" "Connections, frames, messages and tickets that were refused, by reason." |count| *count;
};

/// What the mesh refused, by reason: group `cluster`, then its name, then the reason.
pub const CLUSTER_REJECTED: &[Stat<u64>] = stats! {
    Counter mesh_rejected "" "Datagrams that the mesh refused, by reason." |count| *count;
};

/// All numbers of a node at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) cache: CacheStats,
    pub(crate) zero_copy: ZeroCopyStats,
    pub(crate) pools: Vec<(String, PoolStats)>,
    pub(crate) copies: CopyStats,
    pub(crate) info: CacheInfo,
    pub(crate) http: HttpStats,
    pub(crate) feed: FeedStats,
    pub(crate) encoding: Vec<(String, Encoded)>,
    /// `None`: the node is in no cluster.
    pub(crate) cluster: Option<Metrics>,
    pub(crate) uptime_s: f64,
}

impl Snapshot {
    pub(crate) async fn take(node: &NodeState) -> Self {
        let pool = node.cache().buffers();
        Self {
            cache: node.cache().stats(),
            zero_copy: node.cache().zero_copy_stats().await,
            pools: vec![
                (pool.name().to_owned(), pool.stats()),
                ("feed".to_owned(), node.feed.forms().encoder.pool_stats()),
            ],
            copies: straightway_buffer::copied(),
            info: node.cache().info().clone(),
            http: node.http_stats(),
            feed: node.feed.stats(),
            encoding: encoding(node.feed.forms().encoder.optimizer()),
            cluster: node.cluster().map(Cluster::metrics),
            uptime_s: node.uptime().as_secs_f64(),
        }
    }

    /// The document that `/api/stats` answers with.
    pub(crate) fn to_json(&self) -> Value {
        let pools = self.pools.iter().map(|(name, stats)| {
            let mut pool = group(POOL, stats);
            pool.insert("hit_rate".into(), stats.hit_rate().into());
            (name.clone(), Value::Object(pool))
        });
        let mut http = group(HTTP, &self.http);
        http.insert("requests".into(), self.http.requests_total().into());
        let mut document = Map::new();
        document.insert("cache".into(), Value::Object(group(CACHE, &self.cache)));
        document.insert("zero_copy".into(), Value::Object(group(ZERO_COPY, &self.zero_copy)));
        document.insert("pools".into(), Value::Object(pools.collect()));
        document.insert("copies".into(), Value::Object(group(COPIES, &self.copies)));
        document.insert("info".into(), info(&self.info));
        document.insert("http".into(), Value::Object(http));
        document.insert("feed".into(), Value::Object(group(FEED, &self.feed)));
        let encoding =
            self.encoding.iter().map(|(name, known)| (name.clone(), group(ENCODING, known).into()));
        document.insert("encoding".into(), Value::Object(encoding.collect()));
        if let Some(metrics) = &self.cluster {
            document.insert("cluster".into(), cluster(metrics));
        }
        document.insert("uptime_s".into(), self.uptime_s.into());
        Value::Object(document)
    }
}

fn encoding(optimizer: &SerializationOptimizer) -> Vec<(String, Encoded)> {
    let report = optimizer.report().into_iter();
    report.map(|(name, stats, plan)| (name.to_owned(), (stats, plan))).collect()
}

fn cluster(metrics: &Metrics) -> Value {
    let counts = |counts: &[(&'static str, u64)]| {
        let counts = counts.iter().map(|(why, count)| ((*why).to_owned(), (*count).into()));
        Value::Object(counts.collect())
    };
    let peers = metrics.peers.iter();
    let peers = peers.map(|peer| (peer.id.to_string(), group(CLUSTER_PEER, peer).into()));
    let mut document = group(CLUSTER, metrics);
    document.insert("refused".into(), counts(&metrics.refused));
    document.insert("mesh_rejected".into(), counts(&metrics.mesh_rejected));
    document.insert("peers".into(), Value::Object(peers.collect()));
    Value::Object(document)
}

/// What the cache found out when it was opened: does not change while the node runs.
fn info(info: &CacheInfo) -> Value {
    json!({
        "engine": info.engine,
        "direct": info.direct,
        "mapped": info.mapped,
        "sendfile": info.sendfile,
        "region_size": info.region_size,
        "regions": info.regions,
        "index_slots": info.index_slots,
        "index_bytes": info.index_bytes,
        "max_object": info.max_object,
        "recovered_objects": info.recovered_objects,
        "recovery_us": info.recovery_us,
    })
}

fn group<S>(table: &[Stat<S>], stats: &S) -> Map<String, Value> {
    table.iter().map(|stat| (stat.name.to_owned(), Value::from((stat.read)(stats)))).collect()
}

/// The statistics as a Markdown table, for the documentation.
///
/// ```
/// let table = straightway::admin::table::markdown();
/// assert!(table.contains("| `straightway_cache_hits_total` | `cache.hits` |"));
/// ```
pub fn markdown() -> String {
    let mut out =
        String::from("| metric | `/api/stats` | kind | unit | meaning |\n|---|---|---|---|---|\n");
    rows(&mut out, "cache", "cache", CACHE);
    rows(&mut out, "zero_copy", "zero_copy", ZERO_COPY);
    rows(&mut out, "pool", "pools.NAME", POOL);
    rows(&mut out, "copies", "copies", COPIES);
    rows(&mut out, "http", "http", HTTP);
    rows(&mut out, "feed", "feed", FEED);
    rows(&mut out, "encoding", "encoding.TYPE", ENCODING);
    rows(&mut out, "cluster", "cluster", CLUSTER);
    rows_by(&mut out, "cluster", "cluster", "REASON", CLUSTER_REFUSED);
    rows_by(&mut out, "cluster", "cluster", "REASON", CLUSTER_REJECTED);
    rows(&mut out, "cluster_peer", "cluster.peers.ID", CLUSTER_PEER);
    out
}

fn rows<S>(out: &mut String, prefix: &str, path: &str, table: &[Stat<S>]) {
    rows_by(out, prefix, path, "", table);
}

/// `by`: what stands behind the name, if a statistic is an object of many.
fn rows_by<S>(out: &mut String, prefix: &str, path: &str, by: &str, table: &[Stat<S>]) {
    let dot = if by.is_empty() { "" } else { "." };
    for Stat { name, unit, kind, help, .. } in table {
        let (kind, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        let row = format!(
            "| `straightway_{prefix}_{name}{suffix}` | `{path}.{name}{dot}{by}` | {kind} | {unit} | {help} |\n"
        );
        out.push_str(&row);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_lane_has_its_round_trip() {
        let mut peer = PeerMetrics::default();
        peer.append.round_trip = Some(Duration::from_micros(1500));
        let shown = group(CLUSTER_PEER, &peer);
        assert_eq!((&shown["control_rtt_us"], &shown["append_rtt_us"]), (&0.into(), &1500.into()));
    }
}
