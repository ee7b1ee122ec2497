//! `/metrics`: the statistics in the OpenMetrics text format.
//!
//! Names are `straightway_GROUP_NAME`, with `_total` behind counters; `admin::table` holds them all. Beside them:
//! `straightway_http_requests_total{method,status}`, the histogram `straightway_http_latency_seconds` (from a complete
//! request head to the last byte of the answer handed to the kernel), and `straightway_uptime_seconds`.
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use straightway_cluster::Metrics;
use straightway_wire::{LATENCY_BOUNDS_US, SIZE_BOUNDS, WireSnapshot};

use super::table::{
    CACHE, CLUSTER, CLUSTER_PEER, CLUSTER_REFUSED, CLUSTER_REJECTED, COPIES, ENCODING, FEED, HTTP,
    Kind, POOL, Snapshot, Stat, ZERO_COPY,
};
use crate::counters::{HttpStats, LATENCY_BOUNDS, METHODS, STATUSES};

/// The content type of the answer.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders a snapshot.
pub(crate) fn render(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("straightway");
    registry.register_collector(Box::new(Once(Arc::new(snapshot))));
    let mut text = String::with_capacity(16 * 1024);
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Once(Arc<Snapshot>);

impl Collector for Once {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let snapshot = &self.0;
        group(&mut encoder, "cache", CACHE, &snapshot.cache)?;
        group(&mut encoder, "zero_copy", ZERO_COPY, &snapshot.zero_copy)?;
        for stat in POOL {
            labelled(&mut encoder, ("pool", "pool"), stat, &snapshot.pools)?;
        }
        group(&mut encoder, "copies", COPIES, &snapshot.copies)?;
        group(&mut encoder, "http", HTTP, &snapshot.http)?;
        group(&mut encoder, "feed", FEED, &snapshot.feed)?;
        for stat in ENCODING {
            labelled(&mut encoder, ("encoding", "type"), stat, &snapshot.encoding)?;
        }
        if let Some(metrics) = &snapshot.cluster {
            cluster(&mut encoder, metrics)?;
        }
        requests(&mut encoder, &snapshot.http)?;
        latency(&mut encoder, &snapshot.http)?;
        let uptime = ConstGauge::new(snapshot.uptime_s);
        let metric = encoder.encode_descriptor(
            "uptime",
            "Time since the node started.",
            Some(&Unit::Seconds),
            uptime.metric_type(),
        )?;
        uptime.encode(metric)
    }
}

fn cluster(encoder: &mut DescriptorEncoder, metrics: &Metrics) -> fmt::Result {
    group(encoder, "cluster", CLUSTER, metrics)?;
    let named = |counts: &[(&'static str, u64)]| -> Vec<_> {
        counts.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect()
    };
    for stat in CLUSTER_REFUSED {
        labelled(encoder, ("cluster", "reason"), stat, &named(&metrics.refused))?;
    }
    for stat in CLUSTER_REJECTED {
        labelled(encoder, ("cluster", "reason"), stat, &named(&metrics.mesh_rejected))?;
    }
    let peers: Vec<_> = metrics.peers.iter().map(|peer| (peer.id.to_string(), *peer)).collect();
    for stat in CLUSTER_PEER {
        labelled(encoder, ("cluster_peer", "peer"), stat, &peers)?;
    }
    wire(encoder, &metrics.wire)
}

/// How long messages between members are, and how long it takes to hand them on.
fn wire(encoder: &mut DescriptorEncoder, wire: &WireSnapshot) -> fmt::Result {
    let help = "Messages on the lanes between members, by the length of their payload.";
    let (name, kind) = ("cluster_wire_message", MetricType::Histogram);
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), kind)?;
    for (direction, passed) in [("sent", &wire.sent), ("received", &wire.received)] {
        let bounds = SIZE_BOUNDS.into_iter().map(|bytes| bytes as f64).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(passed.sizes).collect();
        family.encode_family(&[("direction", direction)])?.encode_histogram::<NoLabelSet>(
            passed.bytes as f64,
            passed.messages(),
            &buckets,
            None,
        )?;
    }
    let help = "Time from a complete message of another member to its being handed on.";
    let name = "cluster_wire_latency";
    let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
    let bounds = LATENCY_BOUNDS_US.into_iter().map(|us| us as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(wire.latency).collect();
    let sum_s = wire.latency_us as f64 / 1e6;
    metric.encode_histogram::<NoLabelSet>(sum_s, wire.latency.iter().sum(), &buckets, None)
}

fn group<S>(
    encoder: &mut DescriptorEncoder,
    prefix: &str,
    table: &[Stat<S>],
    stats: &S,
) -> fmt::Result {
    for stat in table {
        let name = format!("{prefix}_{}", stat.name);
        let value = (stat.read)(stats);
        match stat.kind {
            Kind::Counter => {
                let counter = ConstCounter::new(value);
                counter.encode(encoder.encode_descriptor(
                    &name,
                    stat.help,
                    None,
                    counter.metric_type(),
                )?)?;
            }
            Kind::Gauge => {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(
                    &name,
                    stat.help,
                    None,
                    gauge.metric_type(),
                )?)?;
            }
        }
    }
    Ok(())
}

/// One statistic of several things of a kind, told apart by a label.
fn labelled<S>(
    encoder: &mut DescriptorEncoder,
    (prefix, label): (&str, &str),
    stat: &Stat<S>,
    things: &[(String, S)],
) -> fmt::Result {
    let kind = match stat.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    };
    let name = format!("{prefix}_{}", stat.name);
    let mut family = encoder.encode_descriptor(&name, stat.help, None, kind)?;
    for (thing, stats) in things {
        let labels = [(label, thing.as_str())];
        let metric = family.encode_family(&labels)?;
        match stat.kind {
            Kind::Counter => ConstCounter::new((stat.read)(stats)).encode(metric)?,
            Kind::Gauge => ConstGauge::new((stat.read)(stats)).encode(metric)?,
        }
    }
    Ok(())
}

fn requests(encoder: &mut DescriptorEncoder, http: &HttpStats) -> fmt::Result {
    let help =
        "Requests answered, by method and status; what is not listed by name is 'other' or 0.";
    let mut family = encoder.encode_descriptor("http_requests", help, None, MetricType::Counter)?;
    for (method, counts) in METHODS.into_iter().zip(&http.requests) {
        for (status, count) in STATUSES.into_iter().zip(counts).filter(|(_, count)| **count > 0) {
            let status = status.to_string();
            let labels = [("method", method), ("status", status.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn latency(encoder: &mut DescriptorEncoder, http: &HttpStats) -> fmt::Result {
    let help =
        "Time from a complete request head to the last byte of the answer handed to the kernel.";
    let mut metric = encoder.encode_descriptor(
        "http_latency",
        help,
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    let bounds = LATENCY_BOUNDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(http.latency).collect();
    let sum_s = http.latency_sum_ns as f64 / 1e9;
    metric.encode_histogram::<NoLabelSet>(sum_s, http.latency.iter().sum(), &buckets, None)
}
