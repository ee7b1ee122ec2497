//! How many connections are let in, in all and from one address. Time comes in as an argument.
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// So many a second, and so many at once after a quiet time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// A second.
    pub per_second: f64,
    /// At once.
    pub burst: f64,
}

/// Addresses that are told apart; beyond, the ones that have been quiet longest enough are forgotten, and new ones have to wait.
const MAX_ADDRESSES: usize = 4096;

/// Looking through all of them takes longer than what is kept out by it: not more often than this.
const SWEEP: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.at = now;
    }
}

/// Lets in what does not come too fast.
#[derive(Debug)]
pub(crate) struct Gate {
    all: Rate,
    each: Rate,
    total: Option<Bucket>,
    addresses: HashMap<IpAddr, Bucket>,
    /// When it was looked for addresses to forget.
    swept: Option<Instant>,
}

impl Gate {
    pub(crate) fn new(all: Rate, each: Rate) -> Self {
        Self { all, each, total: None, addresses: HashMap::new(), swept: None }
    }

    /// Whether more than half of what all, or this address, may take at once has been taken.
    pub(crate) fn is_busy(&mut self, address: IpAddr, now: Instant) -> bool {
        let used = |bucket: Option<&mut Bucket>, rate: Rate| {
            bucket.is_some_and(|bucket| {
                bucket.refill(rate, now);
                bucket.tokens < rate.burst / 2.0
            })
        };
        used(self.total.as_mut(), self.all)
            || used(self.addresses.get_mut(&address.to_canonical()), self.each)
    }

    /// Whether one more from `address` is let in at `now`.
    pub(crate) fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = address.to_canonical();
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&address) {
            if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP) {
                return false;
            }
            self.swept = Some(now);
            let each = self.each;
            // A full bucket says nothing that a new one would not.
            self.addresses.retain(|_, bucket| {
                bucket.refill(each, now);
                bucket.tokens < each.burst
            });
            if self.addresses.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let full = |rate: Rate| Bucket { tokens: rate.burst, at: now };
        let one = self.addresses.entry(address).or_insert_with(|| full(self.each));
        one.refill(self.each, now);
        let total = self.total.get_or_insert_with(|| full(self.all));
        total.refill(self.all, now);
        if one.tokens < 1.0 || total.tokens < 1.0 {
            return false;
        }
        one.tokens -= 1.0;
        total.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Rate = Rate { per_second: 1.0, burst: 2.0 };
    const MANY: Rate = Rate { per_second: 1e9, burst: 1e9 };

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn one_address_does_not_use_up_the_share_of_another() {
        let mut gate = Gate::new(MANY, ONE);
        let now = Instant::now();
        let admitted = (0..10).filter(|_| gate.admit(address(1), now)).count();
        assert_eq!(admitted, 2);
        assert!(gate.is_busy(address(1), now) && !gate.is_busy(address(2), now));
        assert!(gate.admit(address(2), now));
        assert!(gate.admit(address(1), now + Duration::from_secs(1)));
        assert!(!gate.admit(address(1), now + Duration::from_secs(1)));
    }

    #[test]
    fn all_together_are_bounded_whatever_their_addresses() {
        let mut gate = Gate::new(ONE, MANY);
        let now = Instant::now();
        let admitted = (0..100).filter(|number| gate.admit(address(*number), now)).count();
        assert_eq!(admitted, 2);
        let other = address(1000);
        assert!(gate.is_busy(other, now) && !gate.is_busy(other, now + Duration::from_secs(1)));
    }

    #[test]
    fn memory_is_bounded_and_what_was_quiet_is_forgotten_first() {
        let mut gate = Gate::new(MANY, ONE);
        let now = Instant::now();
        let admitted = (0..10_000).filter(|number| gate.admit(address(*number), now)).count();
        assert_eq!((admitted, gate.addresses.len()), (MAX_ADDRESSES, MAX_ADDRESSES));
        assert!(gate.admit(address(20_000), now + Duration::from_secs(1)));
        assert_eq!(gate.addresses.len(), 1);
    }

    #[test]
    fn the_same_address_in_both_notations_is_one() {
        let mut gate = Gate::new(MANY, ONE);
        let now = Instant::now();
        let mapped: IpAddr = std::net::Ipv4Addr::from(7).to_ipv6_mapped().into();
        assert!(gate.admit(address(7), now) && gate.admit(mapped, now));
        assert!(!gate.admit(address(7), now));
    }
}
