//! Whether a history of one key could have happened, had each operation taken effect at one moment between its call and
//! its end: the search of Wing and Gong with Lowe's memory of where it has been.
//!
//! Keys do not act on each other, so a history is checked key by key. An operation whose end is not known may have taken
//! effect at any moment after its call, or never.
#![allow(unreachable_pub, reason = "a module of each test binary")]
use std::collections::HashSet;
use std::fmt::Write as _;

/// What a key has: the number of the value, which no other put has.
pub type Value = Option<u32>;

/// What was done to a key, and what was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A value was put; `replaced`: whether there was another.
    Put { value: u32, replaced: Option<bool> },
    /// The key was looked up.
    Get(Value),
    /// The key was removed or purged; `existed`: whether there was a value.
    Remove { existed: Option<bool> },
}

/// An operation; times are of one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    pub call: u64,
    /// `None`: nobody knows whether it took effect, or will.
    pub end: Option<u64>,
    pub action: Action,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order explains it; the text says how far the search came.
    Violated(String),
    /// The search was given up.
    Undecided,
}

/// Configurations looked at before giving up.
const BUDGET: usize = 2_000_000;

impl Action {
    /// The state after it, if what was answered fits the state before.
    fn apply(self, state: Value) -> Option<Value> {
        let fits = |claimed: Option<bool>| claimed.is_none_or(|claimed| claimed == state.is_some());
        match self {
            Self::Put { value, replaced } => fits(replaced).then_some(Some(value)),
            Self::Get(seen) => (seen == state).then_some(state),
            Self::Remove { existed } => fits(existed).then_some(None),
        }
    }
}

/// Checks the history of one key, which has nothing at first.
pub fn check(history: &[Operation]) -> Verdict {
    let mut operations: Vec<_> = history
        .iter()
        .copied()
        // A look-up without an answer says nothing.
        .filter(|one| one.end.is_some() || !matches!(one.action, Action::Get(_)))
        .collect();
    operations.sort_by_key(|one| one.call);
    let mut search = Search {
        done: vec![0; operations.len().div_ceil(64)],
        operations: &operations,
        seen: HashSet::new(),
        best: (0, String::new()),
        given_up: false,
    };
    match search.from(None, 0, 0) {
        true => Verdict::Linearizable,
        false if search.given_up => Verdict::Undecided,
        false => Verdict::Violated(search.best.1),
    }
}

struct Search<'a> {
    operations: &'a [Operation],
    /// One bit for each that has been given its place.
    done: Vec<u64>,
    seen: HashSet<(Vec<u64>, Value)>,
    /// How many had their places where the search came furthest, and what stood there.
    best: (usize, String),
    given_up: bool,
}

impl Search<'_> {
    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] >> (at % 64) & 1 == 1
    }

    fn flip(&mut self, at: usize) {
        self.done[at / 64] ^= 1 << (at % 64);
    }

    /// Those that may come next: called before any other that is left has ended.
    fn next(&self, first: usize) -> Vec<usize> {
        let mut earliest_end = u64::MAX;
        let mut next = Vec::new();
        for at in first..self.operations.len() {
            let one = self.operations[at];
            if one.call > earliest_end {
                break;
            }
            if !self.is_done(at) {
                next.push(at);
                earliest_end = earliest_end.min(one.end.unwrap_or(u64::MAX));
            }
        }
        let call = |at: &usize| self.operations[*at].call <= earliest_end;
        next.retain(call);
        // Those of unknown end last: they are needed only where nothing else explains what was seen.
        next.sort_by_key(|at| self.operations[*at].end.is_none());
        next
    }

    fn from(&mut self, state: Value, first: usize, placed: usize) -> bool {
        let mut first = first;
        while first < self.operations.len() && self.is_done(first) {
            first += 1;
        }
        let next = self.next(first);
        let left = |at: usize| !self.is_done(at) && self.operations[at].end.is_some();
        if !(first..self.operations.len()).any(left) {
            return true;
        }
        if self.seen.len() >= BUDGET {
            self.given_up = true;
            return false;
        }
        if !self.seen.insert((self.done.clone(), state)) {
            return false;
        }
        if placed >= self.best.0 {
            self.best = (placed, self.describe(state, &next));
        }
        // What can change nothing wherever it fits, and fits here, can as well come now: that disturbs no order.
        let idle = next.iter().find(|at| {
            let Operation { end, action, .. } = self.operations[**at];
            let only_looks =
                matches!(action, Action::Get(_) | Action::Remove { existed: Some(false) });
            end.is_some() && only_looks && action.apply(state).is_some()
        });
        if let Some(&at) = idle {
            return self.place(at, state, first, placed);
        }
        next.into_iter().any(|at| match self.operations[at].action.apply(state) {
            // One of unknown end that changes nothing is better kept for later.
            Some(after) if after != state || self.operations[at].end.is_some() => {
                self.place(at, after, first, placed)
            }
            _ => false,
        })
    }

    fn place(&mut self, at: usize, after: Value, first: usize, placed: usize) -> bool {
        self.flip(at);
        let found = self.from(after, first, placed + 1);
        self.flip(at);
        found
    }

    fn describe(&self, state: Value, next: &[usize]) -> String {
        let mut text = format!("at {state:?} none of these fits:");
        for at in next.iter().take(20) {
            let _ = write!(text, "\n  {:?}", self.operations[*at]);
        }
        text
    }
}

mod tests {
    use super::*;

    fn op(call: u64, end: u64, action: Action) -> Operation {
        Operation { call, end: (end != 0).then_some(end), action }
    }

    fn put(value: u32) -> Action {
        Action::Put { value, replaced: None }
    }

    fn get(value: u32) -> Action {
        Action::Get(Some(value))
    }

    const NONE: Action = Action::Get(None);
    const REMOVE: Action = Action::Remove { existed: None };

    #[track_caller]
    fn good(history: &[Operation]) {
        assert_eq!(check(history), Verdict::Linearizable);
    }

    #[track_caller]
    fn bad(history: &[Operation]) {
        assert!(matches!(check(history), Verdict::Violated(_)), "{history:?}");
    }

    #[test]
    fn histories_that_are_known_to_be_good() {
        good(&[]);
        good(&[
            op(1, 2, NONE),
            op(3, 4, put(1)),
            op(5, 6, get(1)),
            op(7, 8, REMOVE),
            op(9, 10, NONE),
        ]);
        // Two at a time: either order, as the readers saw it.
        good(&[op(1, 9, put(1)), op(2, 9, put(2)), op(3, 4, get(2)), op(5, 6, get(1))]);
        // Read before its put was answered.
        good(&[op(1, 9, put(1)), op(2, 3, NONE), op(4, 5, get(1))]);
        // A put without an answer: happened late, or never.
        good(&[op(1, 0, put(1)), op(2, 3, NONE), op(50, 60, get(1))]);
        good(&[op(1, 0, put(1)), op(2, 3, NONE), op(50, 60, NONE)]);
        // A removal without an answer.
        good(&[op(1, 2, put(1)), op(3, 0, REMOVE), op(4, 5, get(1)), op(6, 7, NONE)]);
        // A look-up without an answer says nothing, whatever it holds.
        good(&[op(1, 2, put(1)), op(3, 0, get(7)), op(4, 5, get(1))]);
        // Answers that say what was there before.
        good(&[
            op(1, 5, Action::Put { value: 1, replaced: Some(true) }),
            op(1, 5, Action::Put { value: 2, replaced: Some(false) }),
            op(6, 7, get(1)),
            op(8, 9, Action::Remove { existed: Some(true) }),
            op(10, 11, Action::Remove { existed: Some(false) }),
        ]);
    }

    #[test]
    fn histories_that_are_known_to_be_bad() {
        // A value that nobody put.
        bad(&[op(1, 2, get(1))]);
        // Stale.
        bad(&[op(1, 2, put(1)), op(3, 4, put(2)), op(5, 6, get(1))]);
        bad(&[op(1, 2, put(1)), op(3, 4, NONE)]);
        // Purged, and served.
        bad(&[op(1, 2, put(1)), op(3, 4, REMOVE), op(5, 6, get(1))]);
        // The new value, then the old one again, while the put was under way.
        bad(&[op(1, 2, put(1)), op(3, 9, put(2)), op(4, 5, get(2)), op(6, 7, get(1))]);
        // Happened, and then had not.
        bad(&[op(1, 0, put(1)), op(2, 3, get(1)), op(4, 5, NONE)]);
        // An unknown removal explains one disappearance, not two.
        bad(&[
            op(1, 2, put(1)),
            op(3, 0, REMOVE),
            op(4, 5, NONE),
            op(6, 7, put(2)),
            op(8, 9, get(2)),
            op(10, 11, NONE),
        ]);
        // Answers that cannot both be true.
        bad(&[
            op(1, 5, Action::Put { value: 1, replaced: Some(false) }),
            op(1, 5, Action::Put { value: 2, replaced: Some(false) }),
        ]);
        bad(&[op(1, 2, put(1)), op(3, 4, Action::Remove { existed: Some(false) })]);
        // A call after the end of another is after it.
        bad(&[op(1, 2, put(1)), op(3, 4, get(2)), op(5, 6, put(2))]);
    }

    /// xorshift64*.
    fn random(seed: &mut u64, below: u64) -> u64 {
        *seed ^= *seed >> 12;
        *seed ^= *seed << 25;
        *seed ^= *seed >> 27;
        (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    /// All orders, tried one by one.
    fn exhaustive(left: &[Operation], state: Value) -> bool {
        left.iter().all(|one| one.end.is_none())
            || (0..left.len()).any(|at| {
                let one = left[at];
                let free = left.iter().all(|other| other.end.is_none_or(|end| end >= one.call));
                let mut rest = left.to_vec();
                rest.remove(at);
                free && one.action.apply(state).is_some_and(|after| exhaustive(&rest, after))
            })
    }

    #[test]
    fn small_histories_are_judged_as_by_trying_every_order() {
        let (mut seed, mut verdicts) = (0x5eed, [0; 2]);
        for _ in 0..20_000 {
            let len = 2 + random(&mut seed, 5);
            let history: Vec<_> = (0..len)
                .map(|n| {
                    let call = 1 + random(&mut seed, 12);
                    let end = call + 1 + random(&mut seed, 8);
                    let claim = [None, Some(true), Some(false)]
                        [usize::try_from(random(&mut seed, 3)).expect("few")];
                    let value = u32::try_from(n).expect("few");
                    let action = match random(&mut seed, 4) {
                        0 => Action::Put { value, replaced: claim },
                        1 => Action::Remove { existed: claim },
                        2 => NONE,
                        _ => get(u32::try_from(random(&mut seed, len)).expect("few")),
                    };
                    op(call, if random(&mut seed, 6) == 0 { 0 } else { end }, action)
                })
                .collect();
            let answered: Vec<_> = history
                .iter()
                .copied()
                .filter(|one| one.end.is_some() || !matches!(one.action, Action::Get(_)))
                .collect();
            let expected = exhaustive(&answered, None);
            assert_eq!(check(&history) == Verdict::Linearizable, expected, "{history:?}");
            verdicts[usize::from(expected)] += 1;
        }
        assert!(verdicts.iter().all(|count| *count > 1000), "{verdicts:?}");
    }

    /// What five clients see of a register that really is one, some of them without an answer.
    fn long_history(seed: &mut u64, len: usize) -> Vec<Operation> {
        let (mut free_at, mut state, mut now) = ([0; 5], None, 0);
        let mut history = Vec::new();
        for n in 0..len {
            now += 1 + random(seed, 10);
            let client = usize::try_from(random(seed, 5)).expect("few");
            let call = now.saturating_sub(random(seed, 30)).max(free_at[client] + 1);
            now = now.max(call);
            let end = now + 1 + random(seed, 30);
            free_at[client] = end;
            let existed = Some(state.is_some());
            let action = match random(seed, 5) {
                0 => Action::Put { value: u32::try_from(n).expect("few"), replaced: existed },
                1 => Action::Remove { existed },
                _ => Action::Get(state),
            };
            state = action.apply(state).expect("it fits");
            let unknown = random(seed, 40) == 0;
            let action = match action {
                Action::Put { value, .. } if unknown => Action::Put { value, replaced: None },
                Action::Remove { .. } if unknown => Action::Remove { existed: None },
                known => known,
            };
            history.push(op(call, if unknown { 0 } else { end }, action));
        }
        history
    }

    #[test]
    fn long_histories_of_a_register_are_good_until_one_answer_is_stale() {
        let mut seed = 77;
        for _ in 0..20 {
            let mut history = long_history(&mut seed, 500);
            good(&history);
            let end = history.iter().filter_map(|one| one.end).max().expect("some ended");
            history.push(op(end + 1, end + 2, put(9000)));
            history.push(op(end + 3, end + 4, REMOVE));
            good(&history);
            history.push(op(end + 5, end + 6, get(9000)));
            bad(&history);
        }
    }
}
