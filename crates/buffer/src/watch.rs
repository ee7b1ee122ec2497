//! Who holds the buffers that are out: recorded in debug builds, where a lock for each buffer does not matter.
use std::fmt;
use std::panic::Location;

use crate::raw::block::IdleBlock;

/// Buffers that were taken and not given back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakReport {
    /// The pool's name.
    pub pool: &'static str,
    /// Buffers that are out.
    pub outstanding: u64,
    /// How many of them were taken where, most first. Empty in release builds.
    pub places: Vec<(&'static Location<'static>, usize)>,
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} buffers are out", self.pool, self.outstanding)?;
        self.places.iter().try_for_each(|(place, count)| write!(f, "\n  {count} taken at {place}"))
    }
}

#[cfg(all(debug_assertions, not(loom)))]
#[derive(Debug, Default)]
pub(crate) struct Watch {
    out: parking_lot::Mutex<std::collections::HashMap<usize, &'static Location<'static>>>,
}

#[cfg(all(debug_assertions, not(loom)))]
impl Watch {
    #[track_caller]
    pub(crate) fn lent(&self, block: &IdleBlock) {
        self.out.lock().insert(block.id(), Location::caller());
    }

    pub(crate) fn back(&self, block: &IdleBlock) {
        let known = self.out.lock().remove(&block.id());
        debug_assert!(known.is_some(), "a buffer came back twice");
    }

    pub(crate) fn report(&self, pool: &'static str, outstanding: u64) -> LeakReport {
        let mut places: Vec<(&'static Location<'static>, usize)> = Vec::new();
        for place in self.out.lock().values().copied() {
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, count)) => *count += 1,
                None => places.push((place, 1)),
            }
        }
        places.sort_by_key(|(place, count)| (std::cmp::Reverse(*count), place.line()));
        LeakReport { pool, outstanding, places }
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
#[derive(Debug, Default)]
pub(crate) struct Watch;

#[cfg(not(all(debug_assertions, not(loom))))]
#[expect(clippy::unused_self, reason = "the interface of debug builds")]
impl Watch {
    pub(crate) fn lent(&self, _: &IdleBlock) {}

    pub(crate) fn back(&self, _: &IdleBlock) {}

    pub(crate) fn report(&self, pool: &'static str, outstanding: u64) -> LeakReport {
        LeakReport { pool, outstanding, places: Vec::new() }
    }
}
