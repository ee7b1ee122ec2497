//! Holders and tables of five nodes under random schedules: messages late, twice or lost, two leaders at a time, restarts
//! that forget, members removed, clocks that differ. Raft itself is an oracle: a list of what is committed, and a term.
use proptest::prelude::*;

use super::super::{Ask, BootTime, Grant, LeaseHolder, LeaseTable, Wait};
use crate::ids::RaftId;

const NODES: u64 = 5;
const STEPS: usize = 1500;

/// What is drawn.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one_of<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let n = self.below(from.len().max(1) as u64);
        from.get(usize::try_from(n).unwrap()).cloned()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Entry {
    Noop,
    Purge,
    Remove(RaftId),
}

struct Node {
    id: RaftId,
    boot: u64,
    /// Its clock: nanoseconds at moment 0, and for every thousand that pass.
    clock: (u64, u64),
    holder: LeaseHolder,
    table: LeaseTable,
    leads: Option<u64>,
    /// What it knows to be committed, has looked through for removals, and has applied.
    commit: u64,
    scanned: u64,
    applied: u64,
}

/// A confirmation on its way: of whom, in which term, its number and index, and whether a majority has answered.
#[derive(Clone)]
struct Confirmation {
    node: RaftId,
    term: u64,
    round: u64,
    read: u64,
    confirmed: bool,
}

struct World {
    random: Random,
    now: u64,
    nodes: Vec<Node>,
    log: Vec<Entry>,
    /// The newest leader's term, and whether it has committed in it.
    term: u64,
    own: bool,
    asks: Vec<(RaftId, Ask)>,
    confirmations: Vec<Confirmation>,
    grants: Vec<(RaftId, Grant)>,
    acknowledged: Vec<u64>,
    /// How often a node could serve while a purge was acknowledged: that the schedules are worth something.
    served: u64,
    /// How often a snapshot was installed.
    installed: u64,
}

impl World {
    /// Clocks run at 1000 to `fastest` thousandths.
    fn new(seed: u64, fastest: u64) -> Self {
        let mut random = Random(seed);
        let nodes = (1..=NODES)
            .map(|id| {
                let clock = (random.below(1 << 40), 1000 + random.below(fastest - 999));
                let mut table = LeaseTable::new(BootTime(clock.0), false);
                table.members(&[1, 2, 3, 4, 5], 1, BootTime(clock.0));
                let holder = LeaseHolder::new(0);
                Node {
                    id,
                    boot: 0,
                    clock,
                    holder,
                    table,
                    leads: None,
                    commit: 1,
                    scanned: 1,
                    applied: 1,
                }
            })
            .collect();
        let mut world = Self {
            random,
            now: 0,
            nodes,
            log: vec![Entry::Noop],
            term: 0,
            own: false,
            asks: Vec::new(),
            confirmations: Vec::new(),
            grants: Vec::new(),
            acknowledged: Vec::new(),
            served: 0,
            installed: 0,
        };
        world.elect(1);
        world
    }

    fn committed(&self) -> u64 {
        self.log.len() as u64
    }

    fn node(&mut self, id: RaftId) -> (&mut Node, BootTime) {
        let node = &mut self.nodes[usize::try_from(id - 1).unwrap()];
        let now = BootTime(
            node.clock.0
                + u64::try_from(u128::from(self.now) * u128::from(node.clock.1) / 1000).unwrap(),
        );
        (node, now)
    }

    fn members(&self, index: u64) -> Vec<RaftId> {
        let seen = &self.log[..usize::try_from(index).unwrap()];
        (1..=NODES).filter(|id| !seen.contains(&Entry::Remove(*id))).collect()
    }

    fn top(&mut self) -> Option<RaftId> {
        let term = self.term;
        self.nodes.iter().find(|node| node.leads == Some(term)).map(|node| node.id)
    }

    fn elect(&mut self, id: RaftId) {
        if !self.members(self.committed()).contains(&id) {
            return;
        }
        self.term += 1;
        self.own = false;
        let term = self.term;
        let (node, now) = self.node(id);
        node.leads = Some(term);
        node.table.became_leader(term, now);
    }

    /// The newest leader commits something.
    fn commit(&mut self, entry: Entry) {
        let Some(top) = self.top() else { return };
        if !self.own && entry != Entry::Noop {
            return;
        }
        self.log.push(entry);
        self.own = true;
        let committed = self.committed();
        self.node(top).0.commit = committed;
    }

    fn scan(&mut self, id: RaftId) {
        let until = self.node(id).0.commit;
        for index in self.node(id).0.scanned + 1..=until {
            let members = self.members(index);
            let removal = matches!(self.log[usize::try_from(index - 1).unwrap()], Entry::Remove(_));
            let (node, now) = self.node(id);
            if removal {
                node.table.members(&members, index, now);
            }
            node.table.scanned(index);
            node.scanned = index;
        }
    }

    fn restart(&mut self, id: RaftId) {
        let applied = self.node(id).0.applied;
        let applied = 1 + self.random.below(applied);
        let members = self.members(applied);
        let removed_before = members.len() < 5;
        let (node, now) = self.node(id);
        node.boot += 1;
        (node.leads, node.applied, node.scanned) = (None, applied, applied);
        node.holder = LeaseHolder::new(node.boot);
        node.holder.applied(applied);
        node.table = LeaseTable::new(now, removed_before);
        node.table.members(&members, applied, now);
    }

    /// A member takes a snapshot in the place of the entries that it lacks, and does not see who was removed by them.
    fn install(&mut self, id: RaftId) {
        let committed = self.committed();
        let members = self.members(committed);
        let (node, now) = self.node(id);
        if node.leads.is_some() || node.applied >= committed || !members.contains(&id) {
            return;
        }
        node.table.restored(&members, committed, now);
        (node.commit, node.scanned, node.applied) = (committed, committed, committed);
        node.holder.applied(committed);
        self.installed += 1;
    }

    fn step(&mut self) {
        let (a, b) = (1 + self.random.below(NODES), 1 + self.random.below(NODES));
        match self.random.below(32) {
            0..=2 => self.now += self.random.below(40_000_000),
            // Long enough for what was granted to be about to end, or a little over.
            3 if a == 1 && b < 3 => self.now += 1_000_000_000 + self.random.below(1_500_000_000),
            3 => self.now += self.random.below(5_000_000),
            5..=7 => {
                let (node, now) = self.node(a);
                let ask = node.holder.ask(now);
                self.asks.push((a, ask));
            }
            8..=11 => {
                // Mostly a late one, to the newest leader or an older one.
                let recent = self.asks.len().saturating_sub(6);
                let Some((member, ask)) = self.random.one_of(&self.asks[recent..]) else { return };
                let to = self.top().filter(|_| a > 2).unwrap_or(b);
                self.node(to).0.table.asked(member, &ask);
            }
            12..=14 => {
                let (own, term) = (self.own, self.term);
                let a = self.top().filter(|_| b > 2).unwrap_or(a);
                let (node, now) = self.node(a);
                let Some(leads) = node.leads else { return };
                let read = node.commit;
                let Some(round) = node.table.confirm_wanted(now) else { return };
                if own || leads < term {
                    self.confirmations.push(Confirmation {
                        node: a,
                        term: leads,
                        round,
                        read,
                        confirmed: false,
                    });
                }
            }
            15 | 16 => {
                let term = self.term;
                for confirmation in self.confirmations.iter_mut().filter(|c| c.term == term) {
                    confirmation.confirmed = true;
                }
            }
            17 | 18 => {
                let ready: Vec<_> =
                    self.confirmations.iter().filter(|c| c.confirmed).cloned().collect();
                let Some(confirmation) = self.random.one_of(&ready) else { return };
                let (node, now) = self.node(confirmation.node);
                if node.leads == Some(confirmation.term) {
                    let grants = node.table.confirmed(
                        confirmation.round,
                        confirmation.read,
                        node.commit,
                        now,
                    );
                    self.grants.extend(grants);
                }
                let (node, round) = (confirmation.node, confirmation.round);
                self.confirmations.retain(|c| !c.confirmed || (c.node, c.round) != (node, round));
            }
            19..=21 => {
                let recent = self.grants.len().saturating_sub(8);
                let Some((member, grant)) = self.random.one_of(&self.grants[recent..]) else {
                    return;
                };
                let (node, now) = self.node(member);
                node.holder.granted(&grant, now);
            }
            22 => self.commit(Entry::Noop),
            23 => self.commit(Entry::Purge),
            24 | 25 => {
                let (committed, term) = (self.committed(), self.term);
                let member = self.members(committed).contains(&a);
                let (node, _) = self.node(a);
                if node.leads != Some(term) && member {
                    node.leads = None;
                    node.table.stepped_down();
                    node.commit = committed;
                }
            }
            26 => self.scan(a),
            27 | 28 => {
                let some = self.random.below(4);
                let (node, _) = self.node(a);
                node.applied = node.commit.min(node.applied + some);
                node.holder.applied(node.applied);
            }
            29 => {
                let applied = self.node(a).0.applied;
                self.node(b).0.table.applied(a, applied);
            }
            4 => self.hurry(a),
            30 => self.upset(a),
            _ => self.acknowledge(a),
        }
    }

    /// What happens seldom.
    fn upset(&mut self, id: RaftId) {
        match self.random.below(12) {
            0 | 1 => self.elect(id),
            2 => self.restart(id),
            3 if self.top() != Some(id) => {
                let members = self.members(self.committed());
                if members.len() > 3 && members.contains(&id) {
                    self.commit(Entry::Remove(id));
                }
            }
            4 => self.install(id),
            _ => {}
        }
    }

    /// All goes as it should: member `id` catches up and asks, and the leader is confirmed. The grant is left open.
    fn hurry(&mut self, id: RaftId) {
        let Some(top) = self.top().filter(|_| self.own) else { return };
        let committed = self.committed();
        if self.random.below(2) == 0 {
            self.scan(top);
        }
        let (node, now) = self.node(id);
        if node.leads.is_none() {
            node.commit = committed;
        }
        node.applied = node.commit;
        node.holder.applied(node.applied);
        let ask = node.holder.ask(now);
        let (leader, now) = self.node(top);
        leader.table.asked(id, &ask);
        let Some(round) = leader.table.confirm_wanted(now) else { return };
        let term = leader.leads.unwrap_or(0);
        let confirmed = true;
        self.confirmations.push(Confirmation {
            node: top,
            term,
            round,
            read: committed,
            confirmed,
        });
    }

    fn acknowledge(&mut self, id: RaftId) {
        let log = self.log.clone();
        let (node, now) = self.node(id);
        let purges = (1..)
            .zip(&log)
            .filter(|(index, entry)| **entry == Entry::Purge && *index <= node.commit);
        let purges = purges.filter(|(index, _)| node.table.wait_for(*index, now) == Wait::Released);
        let purges: Vec<u64> = purges.map(|(index, _)| index).collect();
        self.acknowledged.extend(purges);
        self.acknowledged.sort_unstable();
        self.acknowledged.dedup();
    }

    /// Who serves a purge that was acknowledged.
    fn liar(&mut self) -> Option<RaftId> {
        let last = *self.acknowledged.last()?;
        for id in 1..=NODES {
            let (node, now) = self.node(id);
            if node.holder.may_serve(now).is_ok() {
                if node.applied < last {
                    return Some(id);
                }
                self.served += 1;
            }
        }
        None
    }

    fn run(&mut self) -> Result<(), String> {
        for step in 0..STEPS {
            self.step();
            if let Some(liar) = self.liar() {
                return Err(format!("member {liar} serves what was purged, after step {step}"));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn what_was_purged_is_never_served(seed: u64) {
        prop_assert_eq!(World::new(seed, 1099).run(), Ok(()));
    }
}

#[test]
fn the_schedules_serve_and_acknowledge_and_notice_clocks_that_differ_too_much() {
    let worlds: Vec<_> = (0..40)
        .map(|seed| {
            let mut world = World::new(seed, 1099);
            (world.run(), world.acknowledged.len(), world.served)
        })
        .collect();
    assert!(
        worlds.iter().filter(|(_, purges, served)| *purges > 3 && *served > 20).count() > 20,
        "{worlds:?}"
    );
    let installed = (0..40).map(|seed| {
        let mut world = World::new(seed, 1099);
        drop(world.run());
        world.installed
    });
    assert!(installed.sum::<u64>() > 20, "snapshots are hardly ever installed");
    let bad = (0..400).filter(|seed| World::new(*seed, 2500).run().is_err()).count();
    assert!(bad > 0, "the margin is never needed");
}
