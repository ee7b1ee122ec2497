//! The lease: asks, grants, and when a purge is acknowledged.
use super::{Action, Kind, LEARNER, LEASE, Lease, NOMINAL, RECORDED, Round, Setup, State};

impl Setup {
    pub(super) fn lease_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.asked < self.asks {
            actions.push(Action::Ask);
        }
        for (leader, node) in state.nodes.iter().enumerate().filter(|(_, node)| node.leads) {
            let seqs = state.asks.iter().map(|(seq, _)| *seq);
            match node.round {
                Round::None => {
                    actions.extend(seqs.map(|seq| Action::AskArrives { leader, seq }));
                }
                Round::Begun { .. } => {
                    actions.extend(
                        (0..LEARNER)
                            .filter(|voter| self.hears(leader, *voter))
                            .map(|voter| Action::Confirm { leader, voter }),
                    );
                }
                Round::Confirmed { .. } => actions.push(Action::Grant { leader }),
            }
            if node.reported < state.reported {
                actions.push(Action::ReportArrives { leader });
            }
            if state.acknowledged.is_none() {
                actions.push(Action::Acknowledge { leader });
            }
        }
        let grants = state.grants.iter();
        actions.extend(grants.map(|&(seq, min_applied)| Action::GrantArrives { seq, min_applied }));
    }
}

impl Setup {
    /// Whether the property can be broken no more: no lease is there or can come.
    pub(super) fn over(&self, state: &State) -> bool {
        let none = state.leases.is_empty() && state.grants.is_empty() && state.asks.is_empty();
        none && state.asked == self.asks
    }
}

impl State {
    /// One form for what is the same, and nothing of what cannot matter any more.
    pub(super) fn tidy(&mut self, setup: &Setup) {
        if setup.rules.from_ask {
            self.asks.keep(|(_, left)| *left > 0);
        }
        // Numbers that may be used again keep what is in the air alive.
        if setup.rules.fresh_seq {
            let asks = self.asks;
            let known = |seq: u8| asks.iter().any(|(other, _)| *other == seq);
            self.grants.keep(|(seq, _)| known(*seq));
            for node in &mut self.nodes {
                let (Round::Begun { seq, .. } | Round::Confirmed { seq, .. }) = node.round else {
                    continue;
                };
                if !known(seq) {
                    node.round = Round::None;
                }
            }
        }
        // A committed purge stays where it is: who wants it applied can do no harm.
        let purges =
            self.nodes[..LEARNER].iter().filter_map(|node| node.find(Kind::Purge, node.commit));
        let purge = purges.min().unwrap_or(u8::MAX);
        self.grants.keep(|(_, min_applied)| *min_applied < purge);
        let all = self.leases;
        self.leases.keep(|lease| {
            let outdone = |other: &Lease| {
                other != lease && other.left >= lease.left && other.min_applied <= lease.min_applied
            };
            lease.left > 0 && lease.min_applied < purge && !all.iter().any(outdone)
        });
        if self.acknowledged.is_some() {
            for node in &mut self.nodes {
                (node.wait, node.recorded, node.reported, node.removed) = (0, 0, 0, 0);
            }
        }
    }

    pub(super) fn lease_step(&mut self, setup: &Setup, action: Action) -> bool {
        match action {
            Action::Ask => self.ask(),
            Action::AskArrives { leader, seq } => self.begin(setup, leader, seq),
            Action::Confirm { leader, voter } => {
                let Round::Begun { seq, read } = self.nodes[leader].round else { return false };
                let confirmed = self.nodes[voter].term == self.nodes[leader].term;
                self.nodes[leader].round = Round::Confirmed { seq, read };
                confirmed
            }
            Action::Grant { leader } => self.grant(setup, leader),
            Action::GrantArrives { seq, min_applied } => self.granted(setup, seq, min_applied),
            Action::ReportArrives { leader } => {
                self.nodes[leader].reported = self.reported;
                true
            }
            Action::Acknowledge { leader } => self.acknowledge(setup, leader),
            _ => false,
        }
    }

    fn ask(&mut self) -> bool {
        self.asked += 1;
        self.next_seq += 1;
        self.asks.push((self.next_seq, LEASE));
        true
    }

    /// The ask arrives, and the leader begins to ask the others whether it still leads.
    fn begin(&mut self, setup: &Setup, leader: usize, seq: u8) -> bool {
        let node = &mut self.nodes[leader];
        let read = node.commit;
        let own = node.entry(read).0 == node.term || !setup.rules.own_term;
        node.round = if setup.rules.confirm {
            Round::Begun { seq, read }
        } else {
            Round::Confirmed { seq, read }
        };
        own
    }

    fn grant(&mut self, setup: &Setup, leader: usize) -> bool {
        let rules = setup.rules;
        let node = &mut self.nodes[leader];
        let Round::Confirmed { seq, read } = node.round else { return false };
        node.round = Round::None;
        let known = !rules.scanned || setup.subject != LEARNER || node.applied >= read;
        let member = setup.subject != LEARNER || node.find(Kind::Remove, node.applied).is_none();
        if known && member {
            node.recorded = if rules.margin { RECORDED } else { NOMINAL };
            let min_applied = if rules.commit_at_sending { node.commit } else { read };
            self.grants.push((seq, min_applied));
        }
        true
    }

    fn granted(&mut self, setup: &Setup, seq: u8, min_applied: u8) -> bool {
        let Some((_, left)) = self.asks.iter().find(|(known, _)| *known == seq) else {
            return false;
        };
        let left = if setup.rules.from_ask { *left } else { LEASE };
        if left == 0 {
            return false;
        }
        self.leases.push(Lease { left, min_applied });
        true
    }

    fn acknowledge(&mut self, setup: &Setup, leader: usize) -> bool {
        let rules = setup.rules;
        let node = &self.nodes[leader];
        let Some(purge) = node.find(Kind::Purge, node.commit) else { return false };
        let reported = node.reported >= purge;
        let own_grants_over = reported || node.recorded == 0;
        // What the predecessors granted: over by time, or all members known to the leader have reported.
        let member = setup.subject != LEARNER || node.find(Kind::Remove, node.applied).is_none();
        let others_over =
            if member { reported } else { node.removed == 0 || !rules.wait_for_removed };
        let known = setup.subject != LEARNER || node.applied >= purge;
        if own_grants_over && (node.wait == 0 || !rules.wait || (others_over && known)) {
            self.acknowledged = Some(purge);
            return true;
        }
        false
    }
}
