//! Which segments to give up: pure functions, shared with the simulator.
use std::ops::Range;

/// What a policy may know of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts")]
pub struct SegmentView {
    /// Its first region.
    pub first_region: u32,
    /// How many adjacent regions it has.
    pub regions: u32,
    /// Order of opening, or of its last second chance: smaller is older.
    pub age: u64,
    /// Whether it holds objects that were used and copied forward.
    pub main: bool,
    /// Bytes in it that the index still points to.
    pub live_bytes: u64,
    /// Whether readers or writers hold it now.
    pub pinned: bool,
    /// Whether it is being filled.
    pub open: bool,
    /// Whether it is on its way out already.
    pub draining: bool,
}

/// The cheapest run of `regions` adjacent regions to take: free regions cost nothing, the rest cost by rank of age.
/// Runs that touch a segment in use are not taken. `None`: there is none.
pub fn pick_run(segments: &[SegmentView], total: u32, regions: u32) -> Option<Range<u32>> {
    let mut by_age: Vec<&SegmentView> = segments.iter().collect();
    // S3-FIFO by segments: probation gives way first, down to a tenth of the whole.
    let probation: u32 =
        segments.iter().filter(|segment| !segment.main).map(|segment| segment.regions).sum();
    let main_first = u64::from(probation) * 10 <= u64::from(total);
    by_age.sort_by_key(|segment| (segment.main != main_first, segment.age));
    // Cost by region: none for free ones, impossible for those in use.
    let mut costs: Vec<Option<u64>> = vec![Some(0); total as usize];
    for (rank, segment) in (1u64..).zip(by_age) {
        let taken = segment.pinned || segment.open || segment.draining;
        for region in segment.first_region..(segment.first_region + segment.regions).min(total) {
            costs[region as usize] = (!taken).then_some(rank * rank);
        }
    }
    cheapest(&costs, regions)
}

/// The first of the cheapest windows of `len` costs without an impossible one; one that costs nothing is no victim.
fn cheapest(costs: &[Option<u64>], len: u32) -> Option<Range<u32>> {
    let len_usize = len as usize;
    let (mut sum, mut impossible) = (0u64, 0usize);
    let mut best: Option<(u64, u32)> = None;
    for (end, entering) in (1u32..).zip(costs) {
        match entering {
            Some(cost) => sum += cost,
            None => impossible += 1,
        }
        if let Some(leaving) = (end as usize).checked_sub(len_usize + 1) {
            match costs[leaving] {
                Some(cost) => sum -= cost,
                None => impossible -= 1,
            }
        }
        if end >= len && impossible == 0 && sum > 0 && best.is_none_or(|(least, _)| sum < least) {
            best = Some((sum, end - len));
        }
    }
    best.map(|(_, first)| first..first + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sliding_window_finds_what_trying_every_run_finds(
            costs in proptest::collection::vec(proptest::option::weighted(0.8, 0..4u64), 0..40),
            len in 1..6usize,
        ) {
            let tried = (0..(costs.len() + 1).saturating_sub(len))
                .filter_map(|first| {
                    let sum = costs[first..first + len].iter().try_fold(0, |sum, c| c.map(|c| sum + c))?;
                    (sum > 0).then_some((sum, first))
                })
                .min();
            let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let expected = tried.map(|(_, first)| narrow(first)..narrow(first + len));
            prop_assert_eq!(cheapest(&costs, narrow(len)), expected);
        }
    }

    fn segment(first_region: u32, regions: u32, age: u64) -> SegmentView {
        SegmentView {
            first_region,
            regions,
            age,
            main: false,
            live_bytes: 1,
            pinned: false,
            open: false,
            draining: false,
        }
    }

    #[test]
    fn the_oldest_goes_first_and_what_is_in_use_stays() {
        let mut all = vec![segment(0, 1, 3), segment(1, 1, 1), segment(2, 1, 2), segment(3, 1, 4)];
        assert_eq!(pick_run(&all, 4, 1), Some(1..2));
        all[1].pinned = true;
        assert_eq!(pick_run(&all, 4, 1), Some(2..3));
        all[2].open = true;
        assert_eq!(pick_run(&all, 4, 2), None);
        all[3].draining = true;
        assert_eq!(pick_run(&all, 4, 1), Some(0..1));
    }

    #[test]
    fn probation_gives_way_to_main_down_to_a_tenth() {
        let mut all: Vec<_> = (0..20).map(|n| segment(n, 1, u64::from(n))).collect();
        for main in &mut all[..10] {
            main.main = true;
        }
        assert_eq!(pick_run(&all, 20, 1), Some(10..11), "the oldest on probation");
        for main in &mut all[..18] {
            main.main = true;
        }
        assert_eq!(pick_run(&all, 20, 1), Some(0..1), "the oldest of main");
    }

    #[test]
    fn a_run_takes_in_free_neighbours() {
        let all = vec![segment(0, 2, 1), segment(3, 1, 2), segment(4, 2, 9)];
        assert_eq!(pick_run(&all, 6, 2), Some(1..3), "the oldest segment and a free region");
        assert_eq!(pick_run(&all, 6, 7), None);
    }
}
