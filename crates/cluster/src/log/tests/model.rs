//! Anything that Raft may do to a log, and reopening it at any moment, against a list of entries.
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Do {
    /// Entries from `back` before the end on.
    Append {
        back: u64,
        count: u64,
        len: usize,
        state: bool,
    },
    Vote,
    Compact {
        behind: u64,
    },
    Install {
        ahead: u64,
        entries: u64,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let one = prop_oneof![
        8 => (0_u64..4, 1_u64..6, 0_usize..400, any::<bool>())
            .prop_map(|(back, count, len, state)| Do::Append { back, count, len, state }),
        1 => (1_u64..3, 5000_usize..20_000)
            .prop_map(|(count, len)| Do::Append { back: 0, count, len, state: false }),
        2 => Just(Do::Vote),
        3 => (0_u64..20).prop_map(|behind| Do::Compact { behind }),
        1 => (0_u64..10, 0_u64..3).prop_map(|(ahead, entries)| Do::Install { ahead, entries }),
        2 => Just(Do::Reopen),
    ];
    proptest::collection::vec(one, 1..60)
}

struct Pair {
    disk: Disk,
    log: Option<SegmentLog>,
    model: Recovered,
    term: u64,
}

impl Pair {
    fn base(&self) -> u64 {
        self.model.snapshot.as_ref().map_or(0, |mark| mark.index)
    }

    fn last(&self) -> u64 {
        self.model.entries.last().map_or(self.base(), |entry| entry.index)
    }

    fn append(&mut self, batch: Batch<'_>) {
        self.model.apply(&batch);
        let last = self.last();
        let log = self.log.as_mut().unwrap();
        assert_eq!(append(log, batch), last);
        assert_eq!(log.stats().syncs, log.stats().batches);
    }

    fn step(&mut self, step: &Do) {
        match *step {
            Do::Append { back, count, len, state } => {
                let first = (self.last() + 1).saturating_sub(back).max(self.base() + 1);
                self.term += u64::from(first <= self.last());
                let new = entries(first..first + count, self.term, len);
                // Nothing that was committed is ever truncated.
                let state = state.then(|| hard_state(self.term, 2, self.base()));
                self.append(Batch { entries: &new, hard_state: state.as_ref(), snapshot: None });
            }
            Do::Vote => {
                self.term += 1;
                let state = hard_state(self.term, 3, self.base());
                self.append(Batch { hard_state: Some(&state), ..Batch::default() });
            }
            Do::Compact { behind } => {
                let Some(index) = self.last().checked_sub(behind) else { return };
                let Some(at) = self.model.entries.iter().find(|entry| entry.index == index) else {
                    return;
                };
                let at = mark(index, at.term);
                self.model.apply(&Batch { snapshot: Some(&at), ..Batch::default() });
                self.log.as_mut().unwrap().compact(&at).unwrap();
            }
            Do::Install { ahead, entries: count } => {
                self.term += 1;
                let index = self.last() + ahead;
                let at = mark(index.max(1), self.term);
                let new = entries(at.index + 1..=at.index + count, self.term, 50);
                let state = hard_state(self.term, 0, at.index);
                self.append(Batch { entries: &new, hard_state: Some(&state), snapshot: Some(&at) });
            }
            Do::Reopen => {
                self.log = None;
                let (log, found) = open(&self.disk).unwrap();
                assert_eq!(found.torn_bytes, 0);
                assert_eq!(image(found), self.model);
                self.log = Some(log);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn holds_what_a_list_holds(steps in steps()) {
        let disk = Disk::default();
        let log = open(&disk).unwrap().0;
        let mut pair = Pair { disk, log: Some(log), model: Recovered::default(), term: 1 };
        for step in &steps {
            pair.step(step);
        }
        pair.step(&Do::Reopen);
    }
}

#[test]
fn a_commit_index_beyond_the_log_is_refused() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    let state = hard_state(1, 1, 9);
    append(
        &mut log,
        Batch { entries: &entries(1..=3, 1, 5), hard_state: Some(&state), snapshot: None },
    );
    drop(log);
    let error = open(&disk).unwrap_err().to_string();
    assert!(error.contains("entries through 9 were committed, and the log ends with 3"), "{error}");
}
