//! The serve lease and the purge that waits for it: every order of events within a bound.
//!
//! Three voters elect leaders, replicate and commit by Raft's rules; two of them may lead at a time, one of them cut off.
//! A purge is proposed, committed, applied, and acknowledged by the rules of the lease. All the while one member, the
//! *subject*, asks for leases, gets them late, twice, in any order or never, is paused, restarts, and looks whether it may
//! serve.
//!
//! **The property:** once the purge is acknowledged, the subject never serves without having applied it.
//!
//! What keeps the state small, and why nothing is lost by it:
//! - *One subject.* The property is about one member at a time. The others' leases could only delay the acknowledgement,
//!   so they count as having applied everything; the subject is in turn the first leader, another voter, and a learner that
//!   is removed.
//! - *Time* passes in ticks, between any two events. Only what is left of each period is kept. A period that the subject
//!   measures lasts as long as the slowest clock makes it: serving less is always possible.
//! - *A pause* is nothing but ticks without an event of that node, and a *lost* message one that never arrives: both are
//!   among the orders explored. What was sent stays in the air, so that it may also arrive twice.
//! - *What cannot matter any more* is forgotten: leases and grants that another one outdoes, or that want the purge applied;
//!   what a leader records once the purge is acknowledged; all that happens when no lease can come any more.
//! - *Replication* is one step from a leader to another node, with the answer kept by the leader. That answers are late is
//!   covered by the leader's not looking at them yet.
mod explore;
mod few;
mod lease;
mod raft;
#[cfg(test)]
mod tests;

pub(crate) use explore::{Model, Outcome, explore};
use few::Few;

/// Ticks that a lease lasts by the subject's clock, at its slowest.
const LEASE: u8 = 2;
/// Ticks that the leader records: it knows how slow a clock may be.
const RECORDED: u8 = 2;
/// Ticks that a leader would record that trusts all clocks to be alike.
const NOMINAL: u8 = 1;
/// The nodes: three voters and a learner.
const NODES: usize = 4;
/// The learner.
pub(crate) const LEARNER: usize = 3;

/// The rules of the protocol, each of which can be left out to see what it is for.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "one for each rule")]
pub(crate) struct Rules {
    /// A leader grants after a majority has confirmed it since the ask arrived.
    pub(crate) confirm: bool,
    /// A new leader acknowledges by time only when its predecessors' grants have run out.
    pub(crate) wait: bool,
    /// The grant wants applied what is committed when it is sent, not when the confirmation began.
    pub(crate) commit_at_sending: bool,
    /// The subject counts from when it asked.
    pub(crate) from_ask: bool,
    /// The leader records a lease as longer than it is.
    pub(crate) margin: bool,
    /// A leader grants only after it has committed an entry of its own term.
    pub(crate) own_term: bool,
    /// A restarted member's asks have numbers that it never used.
    pub(crate) fresh_seq: bool,
    /// A new leader that is told by all members that they have applied the purge still waits for the leases of removed ones.
    pub(crate) wait_for_removed: bool,
    /// A node that starts takes it that a member was removed just then.
    pub(crate) start_is_removal: bool,
    /// A leader grants only when it knows the members as of the confirmed index.
    pub(crate) scanned: bool,
}

impl Rules {
    /// The protocol.
    pub(crate) const ALL: Self = Self {
        confirm: true,
        wait: true,
        commit_at_sending: true,
        from_ask: true,
        margin: true,
        own_term: true,
        fresh_seq: true,
        wait_for_removed: true,
        start_is_removal: true,
        scanned: true,
    };
}

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) rules: Rules,
    pub(crate) subject: usize,
    /// Node 1 hears all others, and they hear only it: 0 leads by 1, and later 1 by 2. Otherwise all hear all.
    pub(crate) chain: bool,
    /// Elections after the first.
    pub(crate) elections: u8,
    /// Asks of the subject.
    pub(crate) asks: u8,
    /// Restarts of the subject.
    pub(crate) subject_restarts: u8,
    /// Restarts of others.
    pub(crate) other_restarts: u8,
}

/// What an entry of the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
enum Kind {
    #[default]
    Noop,
    Purge,
    /// Removes the subject.
    Remove,
}

/// An entry of the log: its term, and what it does. Index 0 is committed and applied everywhere when it all begins.
type Entry = (u8, Kind);

/// How far a leader is with the subject's ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Round {
    None,
    Begun { seq: u8, read: u8 },
    Confirmed { seq: u8, read: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    term: u8,
    leads: bool,
    log: Few<Entry, 5>,
    commit: u8,
    /// For the subject: what it serves by. For the others: up to where they know the members.
    applied: u8,
    /// As a leader: what the voters hold.
    matched: [u8; 3],
    /// As a leader: ticks left of the wait for its predecessors' grants.
    wait: u8,
    /// As a leader: ticks left of the subject's lease.
    recorded: u8,
    /// As a leader: what the subject reported as applied.
    reported: u8,
    round: Round,
    /// Ticks left since it saw the subject removed.
    removed: u8,
}

/// A lease that the subject was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Lease {
    left: u8,
    min_applied: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    nodes: [Node; NODES],
    elections: u8,
    subject_restarts: u8,
    other_restarts: u8,
    /// The subject's asks so far, all of which are in the air.
    asked: u8,
    /// Numbers of asks given out; fewer than asks when numbers are used again.
    next_seq: u8,
    /// Ticks left of each ask that the subject remembers.
    asks: Few<(u8, u8), 2>,
    /// In the air: the ask's number and what must be applied.
    grants: Few<(u8, u8), 10>,
    leases: Few<Lease, 8>,
    /// The most that the subject ever had applied, and so may have reported.
    reported: u8,
    proposed: bool,
    removing: bool,
    /// Where the purge lies that was acknowledged.
    acknowledged: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    Elect { node: usize, voter: usize },
    Replicate { from: usize, to: usize },
    Commit { leader: usize },
    Apply { node: usize },
    Propose { leader: usize },
    Remove { leader: usize },
    Ask,
    AskArrives { leader: usize, seq: u8 },
    Confirm { leader: usize, voter: usize },
    Grant { leader: usize },
    GrantArrives { seq: u8, min_applied: u8 },
    ReportArrives { leader: usize },
    Acknowledge { leader: usize },
    RestartSubject,
    Restart { node: usize },
}

impl Setup {
    /// Whether what `from` sends can reach `to`.
    fn hears(&self, from: usize, to: usize) -> bool {
        from != to && (!self.chain || to == LEARNER || matches!((from, to), (0, 1) | (1, 2)))
    }
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let mut log = Few::new();
        log.push((1, Kind::Noop));
        let node = Node {
            term: 1,
            leads: false,
            log,
            commit: 0,
            applied: 0,
            matched: [0; 3],
            wait: 0,
            recorded: 0,
            reported: 0,
            round: Round::None,
            removed: 0,
        };
        let mut nodes = [node; NODES];
        nodes[0].leads = true;
        State {
            nodes,
            elections: 0,
            subject_restarts: 0,
            other_restarts: 0,
            asked: 0,
            next_seq: 0,
            asks: Few::new(),
            grants: Few::new(),
            leases: Few::new(),
            reported: 0,
            proposed: false,
            removing: false,
            acknowledged: None,
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.over(state) {
            return;
        }
        actions.push(Action::Tick);
        self.raft_actions(state, actions);
        self.lease_actions(state, actions);
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        let possible = match action {
            Action::Tick => next.tick(),
            Action::Elect { node, voter } => next.elect(node, voter),
            Action::Replicate { from, to } => next.replicate(from, to),
            Action::Commit { leader } => next.commit(leader),
            Action::Apply { node } => next.apply(node, self.subject),
            Action::Propose { leader } => next.propose(leader),
            Action::Remove { leader } => next.remove(leader),
            Action::RestartSubject => next.restart_subject(self),
            Action::Restart { node } => next.restart(node, self),
            other => next.lease_step(self, other),
        };
        next.forget(self);
        next.tidy(self);
        (possible && next != *state).then_some(next)
    }

    fn sound(&self, state: &State) -> bool {
        let applied = state.nodes[self.subject].applied;
        let serves = state.leases.iter().any(|lease| applied >= lease.min_applied);
        !(serves && state.acknowledged.is_some_and(|purge| applied < purge))
    }
}
