//! One peer: its keys, what was sent to it, what came back and how fast.
use std::net::SocketAddr;
use std::time::Duration;

use straightway_packet::MacAddr;

use super::seal::Keys;
use crate::ids::RaftId;
use crate::lease::BootTime;

/// Secrets of one peer that are accepted: both ends dial, and dial again, and do not change over at the same moment.
const SECRETS: usize = 4;
/// Heartbeats that may be unanswered at a time.
const PROBES: usize = 32;

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Not measured yet.
    #[default]
    Unknown,
    /// It answers.
    Direct,
    /// It answers what another member passes on.
    Relayed {
        /// That member.
        via: RaftId,
        /// How often heartbeat and answer were passed on, together.
        hops: u32,
    },
    /// It has answered nothing for too long.
    Suspect,
}

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerStatus {
    /// How it is reached.
    pub reach: Reach,
    /// Round trip, smoothed: by the way that it is reached.
    pub rtt: Option<Duration>,
    /// The shortest direct round trip.
    pub min_rtt: Option<Duration>,
    /// Of the last direct heartbeats, up to 64, how many were not answered, in thousandths.
    pub loss_permille: u16,
    /// Heartbeats sent to it directly.
    pub sent: u64,
    /// Those that it answered.
    pub answered: u64,
}

/// A heartbeat that has not been answered.
#[derive(Debug, Clone, Copy, Default)]
struct Probe {
    id: u32,
    at: BootTime,
    relayed: bool,
    open: bool,
    /// It has been counted as lost.
    late: bool,
}

/// What an answer told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) relayed: bool,
    pub(super) rtt: Duration,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: RaftId,
    pub(super) mac: MacAddr,
    pub(super) addr: Option<SocketAddr>,
    /// The newest last: that one seals.
    pub(super) keys: Vec<Keys>,
    probes: [Probe; PROBES],
    next_probe: usize,
    /// Of the last direct heartbeats: 1 answered, the newest in the lowest bit; and how many there are.
    outcomes: (u64, u32),
    pub(super) direct: Rtt,
    pub(super) relayed: Rtt,
    /// The way of the last relayed answer.
    pub(super) via: (RaftId, u32),
    /// Since when it is being sent to.
    pub(super) since: Option<BootTime>,
    pub(super) last_direct: Option<BootTime>,
    pub(super) last_relayed: Option<BootTime>,
    pub(super) reach: Reach,
    sent: u64,
    answered: u64,
}

impl Peer {
    pub(super) fn new(id: RaftId, mac: MacAddr, addr: Option<SocketAddr>) -> Self {
        Self {
            id,
            mac,
            addr,
            keys: Vec::with_capacity(SECRETS),
            probes: [Probe::default(); PROBES],
            next_probe: 0,
            outcomes: (0, 0),
            direct: Rtt::default(),
            relayed: Rtt::default(),
            via: (0, 0),
            since: None,
            last_direct: None,
            last_relayed: None,
            reach: Reach::Unknown,
            sent: 0,
            answered: 0,
        }
    }

    /// One that is held already becomes the newest and keeps its counters.
    pub(super) fn secret(&mut self, secret: [u8; 32], me: RaftId) {
        if let Some(place) = self.keys.iter().position(|keys| keys.is_of(&secret)) {
            self.keys[place..].rotate_left(1);
            return;
        }
        if self.keys.len() >= SECRETS {
            self.keys.remove(0);
        }
        self.keys.push(Keys::new(secret, me, self.id));
    }

    /// A heartbeat of that number is being sent.
    pub(super) fn probing(&mut self, id: u32, at: BootTime, relayed: bool) {
        self.count_lost(self.next_probe);
        self.probes[self.next_probe] = Probe { id, at, relayed, open: true, late: false };
        self.next_probe = (self.next_probe + 1) % PROBES;
        self.sent += u64::from(!relayed);
        self.since.get_or_insert(at);
    }

    /// The heartbeat of that number has been answered; `None`: it was before, or too long ago, or never sent.
    pub(super) fn answer(&mut self, id: u32, now: BootTime) -> Option<Answer> {
        let probe = self.probes.iter_mut().find(|probe| probe.open && probe.id == id)?;
        probe.open = false;
        let measured = if probe.relayed { &self.relayed } else { &self.direct }.smoothed.is_some();
        let late = probe.late;
        // Where nothing is measured yet, every answer may be late, because the way is long. Later a late one says nothing of
        // the way: its sender, or this node, was asleep.
        if late && measured {
            return None;
        }
        let answer = Answer { relayed: probe.relayed, rtt: now.since(probe.at) };
        if !answer.relayed {
            self.answered += 1;
            if !late {
                self.outcome(true);
            }
        }
        Some(answer)
    }

    /// Heartbeats that have not been answered for so long, and what a round trip may take, count as lost.
    pub(super) fn expire(&mut self, now: BootTime, limit: Duration) {
        for place in 0..PROBES {
            let Probe { at, relayed, .. } = self.probes[place];
            let patience = if relayed { &self.relayed } else { &self.direct }.patience();
            if now.since(at) >= limit.saturating_add(patience) {
                self.count_lost(place);
            }
        }
    }

    fn count_lost(&mut self, place: usize) {
        let probe = &mut self.probes[place];
        let lost = probe.open && !probe.late && !probe.relayed;
        probe.late = true;
        if lost {
            self.outcome(false);
        }
    }

    fn outcome(&mut self, answered: bool) {
        let (bits, count) = self.outcomes;
        self.outcomes = ((bits << 1) | u64::from(answered), (count + 1).min(u64::BITS));
    }

    /// Whether it has not answered directly for as long as `doubt` and what a round trip may take.
    pub(super) fn is_doubtful(
        &self,
        now: BootTime,
        awake_since: BootTime,
        doubt: Duration,
    ) -> bool {
        let heard = self.last_direct.or(self.since);
        let silent = heard.map(|heard| now.since(heard.max(awake_since)));
        let certain = matches!(self.reach, Reach::Relayed { .. } | Reach::Suspect);
        certain
            || silent.is_some_and(|silent| silent >= doubt.saturating_add(self.direct.patience()))
    }

    /// How it is reached, if silence counts from `limit` and what a round trip may take. While this node did not run,
    /// nobody was silent: what was so before stays so for as long again.
    pub(super) fn reached(&self, now: BootTime, awake_since: BootTime, limit: Duration) -> Reach {
        let within = |last: Option<BootTime>, stands: bool, patience: Duration| {
            let from = if stands { awake_since } else { BootTime(0) };
            last.is_some_and(|last| now.since(last.max(from)) < limit.saturating_add(patience))
        };
        let was_direct = self.reach == Reach::Direct;
        let was_relayed = matches!(self.reach, Reach::Relayed { .. });
        if within(self.last_direct, was_direct, self.direct.patience()) {
            return Reach::Direct;
        }
        if within(self.last_relayed, was_relayed, self.relayed.patience()) {
            return Reach::Relayed { via: self.via.0, hops: self.via.1 };
        }
        // Not sent to for long enough to tell.
        let waiting = self.since.is_none() || within(self.since, true, Duration::ZERO);
        if self.reach == Reach::Unknown && waiting { Reach::Unknown } else { Reach::Suspect }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        let relayed = matches!(self.reach, Reach::Relayed { .. });
        if relayed { self.relayed.smoothed } else { self.direct.smoothed }
    }

    pub(super) fn status(&self) -> PeerStatus {
        let (bits, count) = self.outcomes;
        let lost = count - bits.count_ones().min(count);
        PeerStatus {
            reach: self.reach,
            rtt: self.rtt(),
            min_rtt: self.direct.min,
            loss_permille: u16::try_from(lost * 1000 / count.max(1)).unwrap_or(1000),
            sent: self.sent,
            answered: self.answered,
        }
    }
}

/// Round trips, smoothed as TCP smooths them (RFC 6298).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rtt {
    pub(super) smoothed: Option<Duration>,
    variation: Duration,
    pub(super) min: Option<Duration>,
}

impl Rtt {
    pub(super) fn sample(&mut self, rtt: Duration) {
        self.min = Some(self.min.map_or(rtt, |min| min.min(rtt)));
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variation) = (Some(rtt), rtt / 2);
            return;
        };
        let off = smoothed.abs_diff(rtt);
        self.variation = self.variation.saturating_mul(3).saturating_add(off) / 4;
        self.smoothed = Some(smoothed.saturating_mul(7).saturating_add(rtt) / 8);
    }

    /// How long an answer may take: the smoothed time and four times its variation.
    pub(super) fn patience(&self) -> Duration {
        self.smoothed.unwrap_or_default().saturating_add(self.variation.saturating_mul(4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn round_trips_are_smoothed_as_rfc_6298_says() {
        let mut rtt = Rtt::default();
        rtt.sample(ms(100));
        assert_eq!((rtt.smoothed, rtt.patience()), (Some(ms(100)), ms(300)));
        rtt.sample(ms(180));
        // 3/4 of 50 and 1/4 of 80; 7/8 of 100 and 1/8 of 180.
        assert_eq!(
            (rtt.smoothed, rtt.variation, rtt.min),
            (Some(ms(110)), Duration::from_micros(57_500), Some(ms(100)))
        );
    }

    proptest! {
        #[test]
        fn what_is_smoothed_lies_within_what_was_measured(samples in prop::collection::vec(0..u64::MAX / 16, 1..50)) {
            let mut rtt = Rtt::default();
            for sample in &samples {
                rtt.sample(Duration::from_nanos(*sample));
            }
            let smoothed = u64::try_from(rtt.smoothed.unwrap().as_nanos()).unwrap();
            // Each step rounds down by less than a nanosecond.
            let least = samples.iter().min().unwrap().saturating_sub(samples.len() as u64);
            prop_assert!((least..=*samples.iter().max().unwrap()).contains(&smoothed));
        }

        #[test]
        fn loss_is_what_was_not_answered(answers in prop::collection::vec(any::<bool>(), 1..200)) {
            let mut peer = Peer::new(2, MacAddr([2; 6]), None);
            for (id, answered) in (0..).zip(&answers) {
                peer.probing(id, BootTime(u64::from(id)), false);
                if *answered {
                    assert!(peer.answer(id, BootTime(u64::from(id) + 1)).is_some());
                    assert!(peer.answer(id, BootTime(u64::from(id) + 1)).is_none(), "once only");
                }
            }
            peer.expire(BootTime(u64::MAX), Duration::ZERO);
            let last: Vec<_> = answers.iter().rev().take(64).collect();
            // Answers come before losses are known: the order within differs, the share of up to 64 does not.
            if answers.len() <= 64 {
                let lost = last.iter().filter(|answered| !***answered).count();
                prop_assert_eq!(usize::from(peer.status().loss_permille), lost * 1000 / last.len());
            }
            prop_assert_eq!(peer.status().sent, answers.len() as u64);
        }
    }
}
