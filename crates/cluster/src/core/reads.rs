//! Reads that wait for a majority to confirm the leader (Raft thesis, 6.4), many to one round of heartbeats.
use std::collections::VecDeque;

/// Names a read; the caller's.
pub type ReadToken = u64;

/// Rounds under way at a time: the next one gathers what comes meanwhile.
const MAX_ROUNDS: usize = 4;

/// Reads by the round that will confirm them.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Not in a round yet.
    waiting: Vec<ReadToken>,
    rounds: VecDeque<(u64, Vec<ReadToken>)>,
    last_round: u64,
}

impl Reads {
    pub(super) fn ask(&mut self, token: ReadToken) {
        self.waiting.push(token);
    }

    /// The context of a round that should begin now.
    pub(super) fn begin(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() || self.rounds.len() >= MAX_ROUNDS {
            return None;
        }
        self.last_round += 1;
        self.rounds.push_back((self.last_round, std::mem::take(&mut self.waiting)));
        Some(self.last_round.to_le_bytes().to_vec())
    }

    /// A majority has answered the round of this context, and with it all rounds before.
    pub(super) fn confirmed(
        &mut self,
        context: &[u8],
        index: u64,
        done: &mut Vec<(ReadToken, Option<u64>)>,
    ) {
        let Ok(context) = context.try_into() else { return };
        let round = u64::from_le_bytes(context);
        while self.rounds.front().is_some_and(|(number, _)| *number <= round) {
            let Some((_, tokens)) = self.rounds.pop_front() else { return };
            done.extend(tokens.into_iter().map(|token| (token, Some(index))));
        }
    }

    /// Leadership has been lost: nobody will answer.
    pub(super) fn fail_all(&mut self, done: &mut Vec<(ReadToken, Option<u64>)>) {
        let rounds = std::mem::take(&mut self.rounds);
        let waiting = std::mem::take(&mut self.waiting);
        let tokens = rounds.into_iter().flat_map(|(_, tokens)| tokens).chain(waiting);
        done.extend(tokens.map(|token| (token, None)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_a_round_runs_waits_for_its_own() {
        let (mut reads, mut done) = (Reads::default(), Vec::new());
        reads.ask(1);
        reads.ask(2);
        let first = reads.begin().unwrap();
        assert_eq!(reads.begin(), None);
        reads.ask(3);
        let second = reads.begin().unwrap();
        reads.confirmed(&first, 7, &mut done);
        assert_eq!(done, [(1, Some(7)), (2, Some(7))]);
        done.clear();
        reads.fail_all(&mut done);
        assert_eq!(done, [(3, None)]);
        done.clear();
        reads.confirmed(&second, 9, &mut done);
        reads.confirmed(b"short", 9, &mut done);
        assert!(done.is_empty());
    }

    #[test]
    fn rounds_are_bounded_and_nothing_is_lost() {
        let (mut reads, mut done) = (Reads::default(), Vec::new());
        let mut last = None;
        for token in 0..100 {
            reads.ask(token);
            last = reads.begin().or(last);
        }
        assert_eq!(reads.rounds.len(), MAX_ROUNDS);
        reads.confirmed(&last.unwrap(), 1, &mut done);
        let last = reads.begin().unwrap();
        reads.confirmed(&last, 2, &mut done);
        assert_eq!(done.len(), 100);
    }
}
