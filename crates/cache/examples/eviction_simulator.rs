//! How the eviction policy compares, on made-up traffic: plain FIFO by segments, the cache's own (probation and main
//! segments, second chances, reinsertion), and an ideal LRU by objects that no log-structured cache can be.
//!
//! ```sh
//! cargo run --release -p straightway-cache --example eviction_simulator
//! ```
//! Zipf-distributed keys, object sizes from a few KiB to some MiB as a CDN sees them, optionally every fifth request to
//! an object that is never asked for again. Seeded: the same figures each time.
use std::collections::{BTreeMap, HashMap};

use straightway_cache::policy::{SegmentView, pick_run};

const REGIONS: u32 = 64;
const KEYS: u64 = 50_000;
const REQUESTS: u64 = 1_000_000;

fn main() {
    println!("| traffic | cache | policy | hits | bytes hit | bytes copied per byte stored |");
    println!("|---|---|---|---|---|---|");
    let footprint: u64 = (0..KEYS).map(size_of_object).sum();
    for (exponent, scan) in [(0.8, false), (1.0, false), (1.2, false), (1.0, true)] {
        for share in [10, 50] {
            let capacity = footprint / share;
            let traffic = format!("Zipf {exponent}{}", if scan { " and scan" } else { "" });
            let fifo = segments(exponent, scan, capacity, false);
            let ours = segments(exponent, scan, capacity, true);
            for (policy, score) in
                [("FIFO", fifo), ("ours", ours), ("LRU by object", lru(exponent, scan, capacity))]
            {
                println!(
                    "| {traffic} | 1/{share} of the footprint | {policy} | {} |",
                    score.text()
                );
            }
        }
    }
}

#[derive(Default)]
struct Score {
    requests: u64,
    hits: u64,
    bytes: u64,
    bytes_hit: u64,
    stored: u64,
    copied: u64,
}

impl Score {
    fn count(&mut self, bytes: u64, hit: bool) {
        self.requests += 1;
        self.bytes += bytes;
        if hit {
            self.hits += 1;
            self.bytes_hit += bytes;
        } else {
            self.stored += bytes;
        }
    }

    fn text(&self) -> String {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        format!(
            "{:.3} | {:.3} | {:.3}",
            share(self.hits, self.requests),
            share(self.bytes_hit, self.bytes),
            share(self.copied, self.stored)
        )
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Half the objects are small, a few are large.
fn size_of_object(key: u64) -> u64 {
    let mut random = Random((key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let spread = random.next();
    match random.next() % 100 {
        0..50 => 1_000 + spread % 30_000,
        50..90 => 30_000 + spread % 300_000,
        _ => 300_000 + spread % 3_000_000,
    }
}

/// The requests, the same for every policy.
fn traffic(exponent: f64, scan: bool) -> impl Iterator<Item = u64> {
    let mut cumulative = Vec::new();
    let mut sum = 0.0;
    for rank in 1..=KEYS {
        sum += 1.0 / (rank as f64).powf(exponent);
        cumulative.push(sum);
    }
    let mut random = Random(0x00c0_ffee);
    (0..REQUESTS).map(move |n| {
        let point = random.unit() * sum;
        if scan && n % 5 == 0 {
            // Never asked for again.
            return KEYS + n;
        }
        let rank = cumulative.partition_point(|c| *c < point) as u64;
        // Popularity and size have nothing to do with each other.
        rank.wrapping_mul(7919) % KEYS
    })
}

fn lru(exponent: f64, scan: bool, capacity: u64) -> Score {
    let mut score = Score::default();
    let (mut last, mut order, mut used) = (HashMap::new(), BTreeMap::new(), 0);
    for (now, key) in (0u64..).zip(traffic(exponent, scan)) {
        let bytes = size_of_object(key);
        let seen = last.insert(key, now);
        if let Some(before) = seen {
            order.remove(&before);
        } else {
            used += bytes;
        }
        order.insert(now, key);
        score.count(bytes, seen.is_some());
        while used > capacity {
            let Some((_, oldest)) = order.pop_first() else { break };
            last.remove(&oldest);
            used -= size_of_object(oldest);
        }
    }
    score
}

#[derive(Default, Clone)]
struct Segment {
    age: u64,
    main: bool,
    used: u64,
    keys: Vec<u64>,
}

struct Log {
    region_bytes: u64,
    regions: Vec<Option<Segment>>,
    open: [Option<usize>; 2],
    places: HashMap<u64, (usize, u8)>,
    age: u64,
    keep: bool,
    copied: u64,
}

fn segments(exponent: f64, scan: bool, capacity: u64, keep: bool) -> Score {
    let mut log = Log {
        region_bytes: capacity / u64::from(REGIONS),
        regions: vec![None; REGIONS as usize],
        open: [None; 2],
        places: HashMap::new(),
        age: 0,
        keep,
        copied: 0,
    };
    let mut score = Score::default();
    for key in traffic(exponent, scan) {
        let bytes = size_of_object(key);
        let hit = if let Some((_, freq)) = log.places.get_mut(&key) {
            *freq = (*freq + 1).min(3);
            true
        } else {
            false
        };
        score.count(bytes, hit);
        if !hit {
            log.put(key, bytes, false);
        }
    }
    score.copied = log.copied;
    score
}

impl Log {
    fn put(&mut self, key: u64, bytes: u64, main: bool) -> bool {
        if bytes > self.region_bytes {
            return false;
        }
        let fits = |segment: &Segment| segment.used + bytes <= self.region_bytes;
        let open =
            self.open[usize::from(main)].filter(|at| self.regions[*at].as_ref().is_some_and(fits));
        let Some(at) = open.or_else(|| self.open_segment(main)) else { return false };
        if let Some(segment) = &mut self.regions[at] {
            segment.used += bytes;
            segment.keys.push(key);
        }
        self.places.insert(key, (at, 0));
        true
    }

    fn open_segment(&mut self, main: bool) -> Option<usize> {
        // Copying forward takes only what is free; everything else makes room.
        while !main && self.regions.iter().filter(|region| region.is_none()).count() < 2 {
            self.reclaim();
        }
        let at = self.regions.iter().position(Option::is_none)?;
        self.age += 1;
        self.regions[at] = Some(Segment { age: self.age, main, ..Segment::default() });
        self.open[usize::from(main)] = Some(at);
        Some(at)
    }

    fn reclaim(&mut self) {
        for _ in 0..REGIONS {
            let Some(at) = self.pick() else { return };
            let used = self.used_bytes(at);
            if !self.keep || used * 2 < self.region_bytes {
                return self.empty(at);
            }
            self.spare(at);
        }
        if let Some(at) = self.pick() {
            self.empty(at);
        }
    }

    fn pick(&self) -> Option<usize> {
        let views: Vec<SegmentView> = (0..)
            .zip(&self.regions)
            .filter_map(|(at, region)| {
                region.as_ref().map(|segment| SegmentView {
                    first_region: at,
                    regions: 1,
                    age: segment.age,
                    main: self.keep && segment.main,
                    live_bytes: segment.used,
                    pinned: false,
                    open: self.open.contains(&Some(at as usize)),
                    draining: false,
                })
            })
            .collect();
        pick_run(&views, REGIONS, 1).map(|run| run.start as usize)
    }

    /// The keys that are still here, with how often they were used.
    fn here(&self, at: usize) -> Vec<(u64, u8)> {
        let keys = self.regions[at].iter().flat_map(|segment| &segment.keys);
        keys.filter_map(|key| {
            self.places.get(key).filter(|(place, _)| *place == at).map(|(_, freq)| (*key, *freq))
        })
        .collect()
    }

    fn used_bytes(&self, at: usize) -> u64 {
        self.here(at)
            .iter()
            .filter(|(_, freq)| *freq > 0)
            .map(|(key, _)| size_of_object(*key))
            .sum()
    }

    fn spare(&mut self, at: usize) {
        for (key, freq) in self.here(at) {
            self.places.insert(key, (at, freq.saturating_sub(1)));
        }
        self.age += 1;
        if let Some(segment) = &mut self.regions[at] {
            segment.age = self.age;
        }
    }

    fn empty(&mut self, at: usize) {
        let mut budget = self.region_bytes / 2;
        for (key, freq) in self.here(at) {
            let bytes = size_of_object(key);
            self.places.remove(&key);
            if self.keep && freq > 0 && bytes <= budget && self.put(key, bytes, true) {
                budget -= bytes;
                self.copied += bytes;
                self.places.entry(key).and_modify(|(_, kept)| *kept = freq - 1);
            }
        }
        self.regions[at] = None;
    }
}
