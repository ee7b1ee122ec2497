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
    let runs = 0..=total.checked_sub(regions)?;
    runs.filter_map(|first| {
        let window = &costs[first as usize..(first + regions) as usize];
        let cost = window.iter().try_fold(0u64, |sum, cost| cost.map(|cost| sum + cost))?;
        // A run of free regions only is no victim.
        (cost > 0).then_some((cost, first))
    })
    .min()
    .map(|(_, first)| first..first + regions)
}

#[cfg(test)]
mod tests {
    use super::*;

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
