//! The leader's side.
use std::collections::VecDeque;
use std::time::Duration;

use super::{Ask, BootTime, Grant, LENGTH, recorded};
use crate::ids::RaftId;

/// Confirmations under way at a time: what comes meanwhile goes into the next one.
const MAX_ROUNDS: usize = 4;
/// Grants of a member that are told apart: those of one lease's length, at the pace at which members ask.
const MAX_GRANTS: usize = 16;
/// A confirmation that has not come by then never will; its members have asked again.
const ROUND_LASTS: Duration = Duration::from_secs(1);

/// Grants leases, knows how long they last, and says when an acknowledged purge can be served by nobody.
///
/// Every node has one from its start: who follows now may lead later, and must know then who was removed when.
#[derive(Debug)]
pub struct LeaseTable {
    length: Duration,
    members: Vec<Member>,
    leading: Option<Leading>,
    rounds: VecDeque<Round>,
    next_round: u64,
    /// From which index of the log on these are the members.
    members_at: u64,
    /// Changes of members are known up to this index.
    scanned: u64,
    /// Until when a removed member may hold a grant of whoever led.
    removed_until: BootTime,
}

#[derive(Debug)]
struct Member {
    id: RaftId,
    /// `false`: removed, and kept until its lease is over.
    current: bool,
    /// What it has reported.
    applied: u64,
    /// When its lease, as granted here, is certainly over.
    until: BootTime,
    /// What the grants that may not be over want applied, and when each is. Both only grow.
    grants: VecDeque<(u64, BootTime)>,
    /// An ask that no confirmation has been begun for.
    asked: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Leading {
    term: u64,
    since: BootTime,
}

#[derive(Debug)]
struct Round {
    number: u64,
    began: BootTime,
    asks: Vec<(RaftId, u64)>,
}

impl Member {
    fn new(id: RaftId) -> Self {
        let (until, grants) = (BootTime(0), VecDeque::new());
        Self { id, current: true, applied: 0, until, grants, asked: None }
    }

    fn grant(&mut self, min_applied: u64, until: BootTime, now: BootTime) {
        self.until = self.until.max(until);
        while self.grants.front().is_some_and(|(_, over)| *over <= now) {
            self.grants.pop_front();
        }
        let full = self.grants.len() >= MAX_GRANTS;
        match self.grants.back_mut() {
            // One that wants less lasts longer: nobody is taken to have let go too early.
            Some(last) if last.0 >= min_applied || full => {
                *last = (last.0.min(min_applied), last.1.max(until));
            }
            _ => self.grants.push_back((min_applied, until)),
        }
    }

    /// Until when it may serve what the entry at `index` took away, unless it reports that it has applied that. Later grants
    /// are good for nothing before it has: a member that catches up, and asks all the time, holds nobody up.
    fn serves_without(&self, index: u64) -> BootTime {
        let grants = self.grants.iter().filter(|(min_applied, _)| *min_applied < index);
        grants.map(|(_, until)| *until).max().unwrap_or_default()
    }
}

/// Whether a purge may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Wait {
    /// Nobody can serve what it purged.
    Released,
    /// Not before this, unless members report until then that they have applied it.
    Until(BootTime),
    /// This node does not lead: ask the one that does.
    NotLeader,
}

impl LeaseTable {
    /// A table of a node that starts. `removed_before`: the state that it starts from may have seen a member removed, or is a
    /// snapshot; only a node that knows that nobody ever was may say no.
    pub fn new(now: BootTime, removed_before: bool) -> Self {
        Self {
            length: LENGTH,
            members: Vec::new(),
            leading: None,
            rounds: VecDeque::with_capacity(MAX_ROUNDS),
            next_round: 0,
            members_at: 0,
            scanned: 0,
            removed_until: if removed_before { now.after(recorded(LENGTH)) } else { now },
        }
    }

    /// The members (voters, of both halves while that changes, and learners) from `index` of the log on. To be told on every
    /// node, in the order of the log, as soon as the change counts; and at the start. What is older than what was told before
    /// is ignored.
    pub fn members(&mut self, members: &[RaftId], index: u64, now: BootTime) {
        if index < self.members_at {
            return;
        }
        self.members_at = index;
        let over = now.after(recorded(self.length));
        for member in &mut self.members {
            let stays = members.contains(&member.id);
            if member.current && !stays {
                self.removed_until = self.removed_until.max(over);
                member.asked = None;
            }
            member.current = stays;
        }
        self.members.retain(|member| member.current || member.until > now);
        for id in members {
            if !self.members.iter().any(|member| member.id == *id) {
                self.members.push(Member::new(*id));
            }
        }
        self.scanned(index);
    }

    /// The members as a snapshot at `index` has them. Others may have come and gone in the entries that it stands for. One that
    /// is older than what is known, and so will not be installed, does no harm.
    pub fn restored(&mut self, members: &[RaftId], index: u64, now: BootTime) {
        self.members(members, index, now);
        self.removed_until = self.removed_until.max(now.after(recorded(self.length)));
    }

    /// Changes of members are known up to `index`, which is committed.
    pub fn scanned(&mut self, index: u64) {
        self.scanned = self.scanned.max(index);
    }

    /// This node leads since just now. To be told before it grants anything or says when a purge is over.
    pub fn became_leader(&mut self, term: u64, now: BootTime) {
        if self.leading.is_some_and(|leading| leading.term == term) {
            return;
        }
        self.stepped_down();
        self.leading = Some(Leading { term, since: now });
    }

    /// This node leads no more. What it granted is covered by the wait of the next leader, itself perhaps.
    pub fn stepped_down(&mut self) {
        self.leading = None;
        self.rounds.clear();
        self.members.iter_mut().for_each(|member| member.asked = None);
    }

    /// A member has asked. `false`: it gets nothing here, because this node does not lead or it is no member.
    pub fn asked(&mut self, member: RaftId, ask: &Ask) -> bool {
        self.applied(member, ask.applied);
        let leads = self.leading.is_some();
        match self.find(member) {
            Some(member) if leads && member.current => {
                member.asked = Some(ask.seq);
                true
            }
            _ => false,
        }
    }

    /// Somebody has asked: the number under which leadership is to be confirmed by a majority, beginning now.
    pub fn confirm_wanted(&mut self, now: BootTime) -> Option<u64> {
        self.rounds.retain(|round| now.since(round.began) < ROUND_LASTS);
        if self.rounds.len() >= MAX_ROUNDS {
            return None;
        }
        let asks = self.members.iter_mut();
        let asks: Vec<_> = asks.filter_map(|m| Some((m.id, m.asked.take()?))).collect();
        if asks.is_empty() {
            return None;
        }
        self.next_round += 1;
        self.rounds.push_back(Round { number: self.next_round, began: now, asks });
        Some(self.next_round)
    }

    /// A majority has confirmed that this node led after [`Self::confirm_wanted`] gave that number; `read_index` is what was
    /// committed then, `commit` what is now, as far as this node knows. Gives the grants to be sent: each is taken to last
    /// from now on.
    ///
    /// Nothing is granted before changes of members are known up to `read_index`; the asks then wait for the next number.
    pub fn confirmed(
        &mut self,
        round: u64,
        read_index: u64,
        commit: u64,
        now: BootTime,
    ) -> Vec<(RaftId, Grant)> {
        let (Some(asks), Some(leading)) = (self.end(round), self.leading) else {
            return Vec::new();
        };
        let known = self.scanned >= read_index;
        let until = now.after(recorded(self.length));
        let length_ms = u32::try_from(self.length.as_millis()).unwrap_or(u32::MAX);
        let min_applied = commit.max(read_index);
        let mut grants = Vec::with_capacity(asks.len());
        for (id, seq) in asks {
            let Some(member) = self.find(id).filter(|member| member.current) else { continue };
            if !known {
                member.asked.get_or_insert(seq);
                continue;
            }
            member.grant(min_applied, until, now);
            grants.push((id, Grant { seq, length_ms, min_applied, term: leading.term }));
        }
        grants
    }

    /// The confirmation of that number will not come.
    pub fn failed(&mut self, round: u64) {
        for (id, seq) in self.end(round).unwrap_or_default() {
            if let Some(member) = self.find(id).filter(|member| member.current) {
                member.asked.get_or_insert(seq);
            }
        }
    }

    /// A member, this node among them, has applied the log up to `index`: from then on it serves nothing purged before.
    pub fn applied(&mut self, member: RaftId, index: u64) {
        if let Some(member) = self.find(member) {
            member.applied = member.applied.max(index);
        }
    }

    /// Whether the purge at `index`, which is committed, may be acknowledged. To be asked again when a member has reported,
    /// and at the time that it gives.
    pub fn wait_for(&self, index: u64, now: BootTime) -> Wait {
        let Some(leading) = self.leading else { return Wait::NotLeader };
        let behind = self.members.iter().filter(|member| member.applied < index);
        let mut until =
            behind.clone().map(|member| member.serves_without(index)).max().unwrap_or_default();
        let predecessors = leading.since.after(recorded(self.length));
        if predecessors > now {
            let none_behind = !self.members.is_empty() && !behind.clone().any(|m| m.current);
            let over = if none_behind && self.scanned >= index {
                self.removed_until.min(predecessors)
            } else {
                predecessors
            };
            until = until.max(over);
        }
        if until > now { Wait::Until(until) } else { Wait::Released }
    }

    /// Until when a member's lease, as granted here, may last.
    #[cfg(test)]
    pub(super) fn lease_of(&self, member: RaftId) -> Option<BootTime> {
        let found = self.members.iter().find(|other| other.id == member);
        found.map(|member| member.until).filter(|until| until.0 > 0)
    }

    fn find(&mut self, id: RaftId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    fn end(&mut self, round: u64) -> Option<Vec<(RaftId, u64)>> {
        let place = self.rounds.iter().position(|other| other.number == round)?;
        self.rounds.remove(place).map(|round| round.asks)
    }
}
