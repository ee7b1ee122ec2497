//! How many handshakes may be under way, in all and with one address.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// Handshakes under way.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    all: usize,
    each: usize,
    counts: Mutex<Counts>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Shaking {
    half_open: Arc<HalfOpen>,
    address: IpAddr,
}

impl HalfOpen {
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, counts: Mutex::default() })
    }

    /// Whether more than half of what may be is under way, in all or with this address.
    pub(crate) fn is_busy(&self, address: IpAddr) -> bool {
        let counts = self.counts.lock();
        let each = counts.each.get(&address.to_canonical());
        counts.all > self.all / 2 || each.is_some_and(|each| *each > self.each / 2)
    }

    /// One more, if there may be.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Shaking> {
        let address = address.to_canonical();
        let mut counts = self.counts.lock();
        if counts.all >= self.all {
            return None;
        }
        let each = counts.each.entry(address).or_default();
        if *each >= self.each {
            return None;
        }
        *each += 1;
        counts.all += 1;
        Some(Shaking { half_open: Arc::clone(self), address })
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        let mut counts = self.half_open.counts.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(each) = counts.each.get_mut(&self.address) {
            *each = each.saturating_sub(1);
            if *each == 0 {
                counts.each.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_uses_half_of_its_share_is_busy_and_no_other() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let half_open = HalfOpen::new(100, 4);
        let held: Vec<_> = (0..3).map_while(|_| half_open.enter(address(1))).collect();
        assert_eq!(held.len(), 3);
        assert!(half_open.is_busy(address(1)) && !half_open.is_busy(address(2)));
    }

    #[test]
    fn one_address_does_not_take_all_and_what_ends_makes_room() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let half_open = HalfOpen::new(3, 2);
        let first = half_open.enter(address(1)).expect("room");
        assert!(!half_open.is_busy(address(1)));
        let second = half_open.enter(address(1)).expect("room");
        assert!(half_open.is_busy(address(1)) && half_open.is_busy(address(2)));
        assert!(half_open.enter(address(1)).is_none(), "two each");
        let third = half_open.enter(address(2)).expect("room for others");
        assert!(half_open.enter(address(3)).is_none(), "three in all");
        drop((first, second));
        assert!(half_open.enter(address(3)).is_some());
        drop(third);
        assert!(half_open.counts.lock().each.is_empty(), "nothing is kept of what is over");
    }
}
