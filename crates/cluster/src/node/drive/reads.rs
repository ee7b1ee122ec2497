//! What waits for a majority's word, or for all members': reads, serve leases, and who took something away.
use super::{Answer, Driver, NotProposed, ReadToken, Reader, Wait, boot_clock, members_of, reply};
use crate::core::Committed;
use crate::lease::BootTime;

impl Driver {
    pub(super) fn read(&mut self, answer: Answer<u64>) {
        let token = self.next_token();
        match self.core.read(token) {
            Ok(()) => {
                self.state.reads.insert(token, Reader::Barrier(answer));
            }
            Err(refused) => reply(answer, Err(refused)),
        }
    }

    fn next_token(&mut self) -> ReadToken {
        self.state.last_token += 1;
        self.state.last_token
    }

    /// Leases are granted after a majority has confirmed, since they were asked for, that this member leads.
    pub(super) fn begin_leases(&mut self) {
        let Some(round) = self.state.lease.confirm_wanted(boot_clock()) else { return };
        let token = self.next_token();
        if self.core.read(token).is_ok() {
            self.state.reads.insert(token, Reader::Leases(round));
        } else {
            self.state.lease.failed(round);
        }
    }

    /// Whoever was a member may hold a lease: every node keeps account, since any may lead next.
    pub(super) fn note_members(&mut self, committed: &[Committed]) {
        let now = boot_clock();
        for entry in committed {
            match entry {
                Committed::Members { index, conf_state, .. } => {
                    self.state.lease.members(&members_of(conf_state), *index, now);
                }
                Committed::Command { index, .. } => self.state.lease.scanned(*index),
            }
        }
    }

    pub(super) fn answer_read(&mut self, token: ReadToken, index: Option<u64>, now: BootTime) {
        let not_leader = NotProposed::NotLeader(self.core.leadership().leader);
        match (self.state.reads.remove(&token), index) {
            (Some(Reader::Barrier(answer)), index) => reply(answer, index.ok_or(not_leader)),
            (Some(Reader::Leases(round)), None) => self.state.lease.failed(round),
            (Some(Reader::Leases(round)), Some(index)) => {
                // Not only what was confirmed but all that is committed by now: what has been acknowledged since must be
                // applied by whoever serves.
                let commit = self.core.commit_index();
                for (member, grant) in self.state.lease.confirmed(round, index, commit, now) {
                    if let Some(answer) = self.state.asks.remove(&member) {
                        reply(answer, Ok(grant));
                    }
                }
            }
            (None, _) => {}
        }
    }

    /// Tells those who wait until no member can serve what was taken away.
    pub(super) fn releases(&mut self) {
        if self.state.releases.is_empty() {
            return;
        }
        let leading = self.leading();
        let (lease, now) = (&self.state.lease, boot_clock());
        for (index, answer) in std::mem::take(&mut self.state.releases) {
            if answer.is_closed() {
                continue;
            }
            match leading {
                Err(refused) => reply(answer, Err(refused)),
                Ok(()) => match lease.wait_for(index, now) {
                    Wait::Released => reply(answer, Ok(())),
                    // Looked at again after every report, and every tick.
                    Wait::Until(_) | Wait::NotLeader => self.state.releases.push((index, answer)),
                },
            }
        }
    }
}
