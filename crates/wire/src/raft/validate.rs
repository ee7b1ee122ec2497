//! The judge in front of `step`: raft 0.7 believes its peers, and panics over some of what they can say.
//!
//! A message that passes makes no part of the library panic: not `step`, not `ready`, not the application of what is
//! committed, in any role. What is refused is either what no honest peer sends, or what one sends when messages cross on the
//! way and does no harm by being lost. Each rule says which panic or lie it stands against.
use raft::prelude::{ConfState, EntryType, Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, INVALID_ID};

use super::facts::{Facts, Refusal, Severity, lane_of};
use super::{MAX_MEMBERS, decode_conf_change};

/// Terms and indices stay below this, so that adding to one never overflows.
const MAX_NUMBER: u64 = 1 << 62;
/// How far a peer's term may be ahead: more than a hundred years of elections, and nothing that would use terms up.
const MAX_TERM_STEP: u64 = 1 << 32;
/// Longest context of a heartbeat, and of a read.
const MAX_CONTEXT: usize = 256;
/// Reads that a leader holds for its peers before it refuses more.
const MAX_PENDING_READS: usize = 4096;

/// Whether `message` may be stepped by a node of which `facts` are true.
pub fn validate(message: &Message, facts: &Facts) -> Result<(), Refusal> {
    let judge = Judge { message, facts };
    judge.envelope()?;
    judge.numbers()?;
    judge.extras()?;
    match message.msg_type {
        MessageType::MsgAppend => judge.append(),
        MessageType::MsgHeartbeat => judge.heartbeat(),
        MessageType::MsgSnapshot => judge.snapshot(),
        MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => {
            judge.acknowledgement()
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => judge.vote_request(),
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            judge.vote()
        }
        MessageType::MsgTimeoutNow => judge.timeout_now(),
        MessageType::MsgReadIndex => judge.read_request(),
        MessageType::MsgReadIndexResp => judge.read_answer(),
        // Refused with the envelope.
        _ => judge.hostile("a message of this type does not travel", 0, 0),
    }
}

struct Judge<'a> {
    message: &'a Message,
    facts: &'a Facts,
}

type Verdict = Result<(), Refusal>;

impl Judge<'_> {
    fn refuse(&self, severity: Severity, rule: &'static str, found: u64, expected: u64) -> Verdict {
        Err(Refusal { rule, severity, msg_type: self.message.msg_type, found, expected })
    }

    #[cold]
    fn hostile(&self, rule: &'static str, found: u64, expected: u64) -> Verdict {
        self.refuse(Severity::Hostile, rule, found, expected)
    }

    #[cold]
    fn stale(&self, rule: &'static str, found: u64, expected: u64) -> Verdict {
        self.refuse(Severity::Stale, rule, found, expected)
    }

    fn at_most(&self, rule: &'static str, found: u64, limit: u64) -> Verdict {
        if found > limit { self.hostile(rule, found, limit) } else { Ok(()) }
    }

    fn must_be(&self, rule: &'static str, found: u64, expected: u64) -> Verdict {
        if found == expected { Ok(()) } else { self.hostile(rule, found, expected) }
    }

    /// Who speaks to whom, and where.
    fn envelope(&self) -> Verdict {
        let Self { message, facts } = *self;
        match lane_of(message.msg_type) {
            Some(lane) if lane == facts.lane => {}
            Some(_) => return self.hostile("a message belongs on its own lane", 0, 0),
            None => return self.hostile("a message of this type does not travel", 0, 0),
        }
        self.must_be("a message is for the member that gets it", message.to, facts.self_id)?;
        self.must_be(
            "a message is from the member that the connection is bound to",
            message.from,
            facts.peer,
        )?;
        if message.from == facts.self_id || message.from == INVALID_ID {
            return self.hostile("a message is from somebody else", message.from, facts.peer);
        }
        Ok(())
    }

    /// Sums with these do not overflow, and a term is there: without one, the library takes a message for its own.
    fn numbers(&self) -> Verdict {
        let m = self.message;
        for number in [m.term, m.log_term, m.index, m.commit, m.commit_term, m.reject_hint] {
            self.at_most("terms and indices stay below 2^62", number, MAX_NUMBER - 1)?;
        }
        if m.msg_type == MessageType::MsgReadIndex {
            // Forwarded by a library that panics if there is one.
            self.must_be("a request to read has no term", m.term, 0)?;
        } else if m.term == 0 {
            return self.hostile("a message has a term", 0, 1);
        }
        let limit = self.facts.term.saturating_add(MAX_TERM_STEP);
        self.at_most("terms grow by elections", m.term, limit)?;
        self.at_most("no entry is of a later term than its message", m.log_term, m.term)?;
        self.at_most("no entry is of a later term than its message", m.commit_term, m.term)
    }

    /// Fields that a message of this type does not have, and two that nobody uses here: a priority can make a node without
    /// a term panic, a requested snapshot one that has none.
    fn extras(&self) -> Verdict {
        let m = self.message;
        self.must_be("priorities are not used", m.priority.cast_unsigned(), 0)?;
        self.must_be("priorities are not used", m.deprecated_priority, 0)?;
        self.must_be("snapshots are not requested", m.request_snapshot, 0)?;
        let (entries, context) = match m.msg_type {
            MessageType::MsgAppend => (usize::MAX, 0),
            MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => (1, 0),
            MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => (0, MAX_CONTEXT),
            MessageType::MsgRequestVote if m.context[..] == *CAMPAIGN_TRANSFER => (0, MAX_CONTEXT),
            _ => (0, 0),
        };
        self.at_most("entries are where they belong", m.entries.len() as u64, entries as u64)?;
        self.at_most(
            "a context is short, and where it belongs",
            m.context.len() as u64,
            context as u64,
        )?;
        let snapshot = m.snapshot.is_some() && m.msg_type != MessageType::MsgSnapshot;
        self.must_be("a snapshot is where it belongs", snapshot.into(), 0)
    }

    /// There is one leader in a term.
    fn by_leader(&self) -> Verdict {
        let Self { message, facts } = *self;
        if message.term == facts.term && facts.leader != INVALID_ID {
            self.must_be("one member leads in a term", message.from, facts.leader)?;
        }
        Ok(())
    }

    /// The library takes an unknown index for one of term 0: together they would match beyond the end of the log.
    fn place(&self) -> Verdict {
        let m = self.message;
        if (m.index == 0) == (m.log_term == 0) {
            return Ok(());
        }
        self.hostile("an index has a term, and the other way round", m.log_term, m.index)
    }

    fn append(&self) -> Verdict {
        let m = self.message;
        self.by_leader()?;
        self.place()?;
        let mut term = m.log_term.max(1);
        for (index, entry) in (m.index + 1..).zip(&m.entries) {
            // A gap makes the library panic.
            self.must_be("entries follow one another", entry.index, index)?;
            if entry.term < term {
                return self.hostile("terms of entries do not decrease", entry.term, term);
            }
            term = entry.term;
            if entry.entry_type != EntryType::EntryNormal
                && decode_conf_change(entry.entry_type, &entry.data).is_err()
            {
                return self.hostile("a change of members can be read", index, 0);
            }
        }
        self.at_most("no entry is of a later term than its message", term, m.term)?;
        let last = m.index.saturating_add(m.entries.len() as u64);
        self.at_most("terms and indices stay below 2^62", last, MAX_NUMBER - 1)
    }

    fn heartbeat(&self) -> Verdict {
        let Self { message, facts } = *self;
        self.by_leader()?;
        // An old leader's is answered without a look at it. Otherwise: what a leader calls committed to a member in
        // a heartbeat, that member has acknowledged. The library panics if it does not have it.
        if message.term >= facts.term && message.commit > facts.last_index {
            let rule = "what was acknowledged is in the log";
            return self.refuse(Severity::Amnesia, rule, message.commit, facts.last_index);
        }
        Ok(())
    }

    fn snapshot(&self) -> Verdict {
        let Self { message, facts } = *self;
        self.by_leader()?;
        let metadata = message.get_snapshot().get_metadata();
        if metadata.index == 0 || metadata.term == 0 {
            return self.hostile("a snapshot has an index and a term", metadata.index, 1);
        }
        self.at_most("terms and indices stay below 2^62", metadata.index, MAX_NUMBER - 1)?;
        self.at_most("no entry is of a later term than its message", metadata.term, message.term)?;
        if metadata.index == facts.commit {
            self.must_be("what is committed is of one term", metadata.term, facts.commit_term)?;
        }
        match check_conf_state(metadata.get_conf_state()) {
            Ok(()) => Ok(()),
            Err((rule, found)) => self.hostile(rule, found, 0),
        }
    }

    /// A leader that believed in entries beyond its log would send from there, and count them as held.
    fn acknowledgement(&self) -> Verdict {
        let Self { message: m, facts } = *self;
        if m.term != facts.term || facts.leader != facts.self_id {
            return Ok(());
        }
        self.at_most("nobody has more than the leader", m.index, facts.last_index)?;
        self.at_most("nobody has more than the leader", m.reject_hint, facts.last_index)?;
        self.at_most("nobody has more than the leader", m.commit, facts.last_index)
    }

    fn vote_request(&self) -> Verdict {
        let Self { message: m, facts } = *self;
        self.place()?;
        let behind = (m.log_term, m.index) < (facts.last_term, facts.last_index);
        if m.msg_type == MessageType::MsgRequestPreVote && facts.term == 0 && behind {
            // The library would answer with its own term, and panics because it has none.
            return self.stale("without a term nothing is refused", m.index, facts.last_index);
        }
        Ok(())
    }

    /// Who is elected while entries are on their way to the disk panics. An honest vote comes after they have arrived,
    /// because the request for it did.
    fn vote(&self) -> Verdict {
        let facts = self.facts;
        if facts.leader == INVALID_ID && !(facts.settled && facts.promotable) {
            return self.stale("votes count when the log is on the disk", facts.settled.into(), 1);
        }
        Ok(())
    }

    /// The same for who is alone and is told to stand for election.
    fn timeout_now(&self) -> Verdict {
        self.by_leader()?;
        if !self.facts.settled {
            return self.stale("elections begin when the log is on the disk", 0, 1);
        }
        Ok(())
    }

    fn read_request(&self) -> Verdict {
        let facts = self.facts;
        if facts.leader != facts.self_id {
            return self.stale("reads are asked of the leader", facts.self_id, facts.leader);
        }
        if facts.pending_reads >= MAX_PENDING_READS {
            let (found, limit) = (facts.pending_reads as u64, MAX_PENDING_READS as u64);
            return self.stale("reads that wait are limited", found, limit);
        }
        self.read_context()
    }

    fn read_answer(&self) -> Verdict {
        self.by_leader()?;
        self.read_context()
    }

    fn read_context(&self) -> Verdict {
        let [entry] = self.message.get_entries() else {
            return self.hostile("a read has one context", self.message.entries.len() as u64, 1);
        };
        // An empty one is never confirmed.
        if entry.data.is_empty() {
            return self.hostile("a read has one context", 0, 1);
        }
        let len = entry.data.len() + entry.context.len();
        self.at_most("a context is short, and where it belongs", len as u64, MAX_CONTEXT as u64)
    }
}

/// Whether the library can restore this configuration: if it cannot, it panics. The error is the rule, and the member.
fn check_conf_state(state: &ConfState) -> Result<(), (&'static str, u64)> {
    let ConfState { voters, learners, voters_outgoing: outgoing, learners_next: next, .. } = state;
    let members = voters.len() + learners.len() + outgoing.len() + next.len();
    if voters.is_empty() {
        return Err(("a configuration has voters", 0));
    }
    if members > MAX_MEMBERS {
        return Err(("a configuration has at most 64 members", members as u64));
    }
    for list in [voters, learners, outgoing, next] {
        for (at, id) in list.iter().enumerate() {
            if *id == INVALID_ID {
                return Err(("members have a number", 0));
            }
            if list[..at].contains(id) {
                return Err(("a member is in a list once", *id));
            }
        }
    }
    if let Some(id) = learners.iter().find(|id| voters.contains(id) || outgoing.contains(id)) {
        return Err(("nobody learns and votes", *id));
    }
    if let Some(id) = next.iter().find(|id| voters.contains(id) || !outgoing.contains(id)) {
        return Err(("who will learn is voting until then", *id));
    }
    if state.auto_leave && outgoing.is_empty() {
        return Err(("only what is joint is left", 0));
    }
    Ok(())
}
