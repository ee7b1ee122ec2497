//! Raft, as far as the lease leans on it: terms, votes, logs, what is committed.
use super::{Action, Entry, Few, Kind, LEARNER, NODES, Node, RECORDED, Round, Setup, State};

const VOTERS: usize = 3;

impl Node {
    fn last(&self) -> (u8, usize) {
        (self.log.last().map_or(0, |(term, _)| *term), self.log.len())
    }

    fn last_index(&self) -> u8 {
        u8::try_from(self.log.len() - 1).unwrap_or(u8::MAX)
    }

    pub(super) fn entry(&self, index: u8) -> Entry {
        self.log[usize::from(index)]
    }

    /// Where an entry of this kind lies within the first `count` entries.
    pub(super) fn find(&self, kind: Kind, last: u8) -> Option<u8> {
        (0..=last).find(|index| self.log.get(usize::from(*index)).is_some_and(|(_, k)| *k == kind))
    }

    /// Forgets what only a leader knows.
    fn step_down(&mut self) {
        (self.leads, self.matched, self.wait) = (false, [0; 3], 0);
        (self.recorded, self.reported, self.round) = (0, 0, Round::None);
    }

    fn append(&mut self, me: usize, kind: Kind) {
        self.log.push((self.term, kind));
        if me < VOTERS {
            self.matched[me] = self.last_index();
        }
    }
}

impl Setup {
    pub(super) fn raft_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for node in 0..VOTERS {
            if state.elections < self.elections {
                actions.extend(
                    (0..VOTERS)
                        .filter(|voter| self.hears(node, *voter))
                        .filter(|_| node > 0 || !self.chain)
                        .map(|voter| Action::Elect { node, voter }),
                );
            }
            if state.nodes[node].leads {
                // The learner matters only when it is the subject.
                let last = if self.subject == LEARNER { NODES } else { VOTERS };
                actions.extend(
                    (0..last)
                        .filter(|to| self.hears(node, *to))
                        .map(|to| Action::Replicate { from: node, to }),
                );
                actions.push(Action::Commit { leader: node });
                if !state.proposed {
                    actions.push(Action::Propose { leader: node });
                }
                if !state.removing && self.subject == LEARNER && node == 0 {
                    actions.push(Action::Remove { leader: node });
                }
            }
            if self.subject == LEARNER && (node < 2 || !self.chain) {
                actions.push(Action::Apply { node });
                if state.other_restarts < self.other_restarts {
                    actions.push(Action::Restart { node });
                }
            }
        }
        if self.subject != LEARNER {
            actions.push(Action::Apply { node: self.subject });
        }
        if state.subject_restarts < self.subject_restarts {
            actions.push(Action::RestartSubject);
        }
    }
}

impl State {
    /// Nothing of what nobody looks at.
    pub(super) fn forget(&mut self, setup: &Setup) {
        if setup.subject != LEARNER {
            // Nobody is removed: it does not matter up to where the others know that.
            for (id, node) in
                self.nodes.iter_mut().enumerate().filter(|(id, _)| *id != setup.subject)
            {
                node.applied = if id == LEARNER { 0 } else { node.commit };
            }
            return;
        }
        // The learner applies what it hears; hearing it later is the same as applying it later.
        let learner = &mut self.nodes[LEARNER];
        learner.applied = learner.applied.max(learner.commit);
        (learner.term, learner.commit, learner.log) = (0, 0, Few::new());
        self.reported = learner.applied;
        if setup.chain {
            // Node 0 leads from the start or never, node 2 never.
            (self.nodes[0].removed, self.nodes[2].removed) = (0, 0);
            (self.nodes[2].commit, self.nodes[2].applied) = (0, 0);
        }
    }

    pub(super) fn tick(&mut self) -> bool {
        for node in &mut self.nodes {
            node.wait = node.wait.saturating_sub(1);
            node.recorded = node.recorded.saturating_sub(1);
            node.removed = node.removed.saturating_sub(1);
        }
        for (_, left) in self.asks.iter_mut() {
            *left = left.saturating_sub(1);
        }
        self.leases.iter_mut().for_each(|lease| lease.left -= 1);
        true
    }

    /// `node` is elected by itself and `voter`, and begins its term with an empty entry.
    pub(super) fn elect(&mut self, node: usize, voter: usize) -> bool {
        if self.nodes[node].last() < self.nodes[voter].last() {
            return false;
        }
        let term = self.nodes[node].term.max(self.nodes[voter].term) + 1;
        for id in [node, voter] {
            self.nodes[id].step_down();
            self.nodes[id].term = term;
        }
        let leader = &mut self.nodes[node];
        (leader.leads, leader.wait) = (true, RECORDED);
        leader.append(node, Kind::Noop);
        self.elections += 1;
        true
    }

    pub(super) fn replicate(&mut self, from: usize, to: usize) -> bool {
        let leader = self.nodes[from];
        let node = &mut self.nodes[to];
        if node.term > leader.term {
            return false;
        }
        if node.leads {
            node.step_down();
        }
        node.term = leader.term;
        node.commit = node.commit.max(leader.commit);
        node.log = leader.log;
        if to < VOTERS {
            self.nodes[from].matched[to] = leader.last_index();
        }
        true
    }

    pub(super) fn commit(&mut self, leader: usize) -> bool {
        let node = &mut self.nodes[leader];
        let mut matched = node.matched;
        matched.sort_unstable();
        let index = matched[1];
        if index <= node.commit || node.entry(index).0 != node.term {
            return false;
        }
        node.commit = index;
        true
    }

    pub(super) fn apply(&mut self, id: usize, subject: usize) -> bool {
        let node = &mut self.nodes[id];
        if node.applied >= node.commit {
            return false;
        }
        let before = node.applied;
        if id == subject {
            node.applied += 1;
            self.reported = self.reported.max(node.applied);
        } else {
            node.applied = node.commit;
            if node.find(Kind::Remove, node.applied).is_some_and(|index| index > before) {
                node.removed = RECORDED;
            }
        }
        true
    }

    pub(super) fn propose(&mut self, leader: usize) -> bool {
        self.nodes[leader].append(leader, Kind::Purge);
        self.proposed = true;
        true
    }

    pub(super) fn remove(&mut self, leader: usize) -> bool {
        self.nodes[leader].append(leader, Kind::Remove);
        self.removing = true;
        true
    }

    /// The subject starts anew: it has forgotten its leases and asks, and what it applied but had not made durable.
    pub(super) fn restart_subject(&mut self, setup: &Setup) -> bool {
        let node = &mut self.nodes[setup.subject];
        node.step_down();
        node.applied = 0;
        (self.asks, self.leases) = (Few::new(), Few::new());
        if !setup.rules.fresh_seq {
            self.next_seq = 0;
        }
        self.subject_restarts += 1;
        true
    }

    /// Another node starts anew: it does not know when it saw a member removed.
    pub(super) fn restart(&mut self, id: usize, setup: &Setup) -> bool {
        let node = &mut self.nodes[id];
        node.step_down();
        node.removed = if setup.rules.start_is_removal { RECORDED } else { 0 };
        self.other_restarts += 1;
        true
    }
}
