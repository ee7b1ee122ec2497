//! Which packets can travel as one message: a pure function.
use std::net::SocketAddr;
use std::ops::Range;

/// Packets of one message, at most: what every kernel with segmentation takes.
pub(super) const MAX_SEGMENTS: usize = 64;

/// A message: which packets of the queue, and the length to cut at if there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) packets: Range<usize>,
    pub(super) segment: Option<u16>,
}

/// The message that begins with packet `first`: that packet, and those behind it that go to the same place and are
/// as long, and a shorter one that ends it. `lens` and `to` describe the queue; `join` tells whether a place takes
/// joined packets.
pub(super) fn next_group(
    first: usize,
    count: usize,
    packet: impl Fn(usize) -> (SocketAddr, usize),
    join: bool,
) -> Group {
    let (to, len) = packet(first);
    let single = Group { packets: first..first + 1, segment: None };
    let Some(segment) = u16::try_from(len).ok().filter(|len| join && *len > 0) else {
        return single;
    };
    let (mut end, mut bytes) = (first + 1, len);
    while end < count && end - first < MAX_SEGMENTS {
        let (other_to, other_len) = packet(end);
        let fits = other_to == to
            && (1..=len).contains(&other_len)
            && bytes + other_len <= super::MAX_PAYLOAD;
        if !fits {
            break;
        }
        end += 1;
        bytes += other_len;
        if other_len < len {
            break;
        }
    }
    if end - first == 1 { single } else { Group { packets: first..end, segment: Some(segment) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn groups_are_what_the_kernel_cuts_into_the_same_packets(
            queue in proptest::collection::vec((0..3u8, 0..6usize, any::<bool>()), 1..300), join: bool,
        ) {
            let lens = [0, 1, 700, 1200, 9000, 65_507];
            let packet = |n: usize| {
                let (host, len, _) = queue[n];
                (SocketAddr::from(([10, 0, 0, host], 1)), lens[len])
            };
            let mut at = 0;
            while at < queue.len() {
                let group = next_group(at, queue.len(), packet, join);
                prop_assert_eq!(group.packets.start, at);
                prop_assert!(!group.packets.is_empty() && group.packets.len() <= MAX_SEGMENTS);
                let (to, _) = packet(at);
                let sizes: Vec<_> = group.packets.clone().map(|n| packet(n).1).collect();
                prop_assert!(group.packets.clone().all(|n| packet(n).0 == to));
                match group.segment {
                    None => prop_assert_eq!(sizes.len(), 1),
                    Some(segment) => {
                        prop_assert!(join && sizes.len() > 1 && sizes.iter().sum::<usize>() <= super::super::MAX_PAYLOAD);
                        // What the kernel does: cut every `segment` bytes.
                        let total: usize = sizes.iter().sum();
                        let cut: Vec<_> = (0..total.div_ceil(usize::from(segment)))
                            .map(|n| usize::from(segment).min(total - n * usize::from(segment)))
                            .collect();
                        prop_assert_eq!(cut, sizes);
                    }
                }
                at = group.packets.end;
            }
        }
    }
}
