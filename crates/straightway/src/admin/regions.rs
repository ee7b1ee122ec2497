//! `/api/regions`: what the cache's regions hold, for the map on the dashboard.
use serde::Serialize;
use straightway_cache::SegmentKind;

use crate::state::NodeState;

/// All regions; those that no segment names are free.
#[derive(Debug, Serialize)]
pub(super) struct Regions {
    #[serde(rename = "regions")]
    count: u32,
    #[serde(rename = "region_size")]
    size: u64,
    segments: Vec<Segment>,
}

#[derive(Debug, Serialize)]
struct Segment {
    first: u32,
    regions: u32,
    kind: &'static str,
    live_bytes: u64,
    open: bool,
}

/// The map at this moment.
pub(super) fn current(node: &NodeState) -> Regions {
    let info = node.cache().info();
    let segments = node.cache().segments().into_iter().map(|segment| Segment {
        first: segment.first_region,
        regions: segment.regions,
        kind: match segment.kind {
            SegmentKind::SmallNew => "small_new",
            SegmentKind::SmallKept => "small_kept",
            SegmentKind::LargeNew => "large_new",
            SegmentKind::LargeKept => "large_kept",
        },
        live_bytes: segment.live_bytes,
        open: segment.open,
    });
    Regions { count: info.regions, size: info.region_size, segments: segments.collect() }
}
