//! Goes through every state that can be reached, the nearest first.
use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Something that has states and can go from one to others.
pub(crate) trait Model {
    type State: Clone + Hash;
    type Action: Copy + Debug;

    /// Where it begins.
    fn start(&self) -> Self::State;
    /// What may happen in a state; some of it may turn out to be impossible.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);
    /// What comes of it; `None`: nothing.
    fn step(&self, state: &Self::State, action: Self::Action) -> Option<Self::State>;
    /// Whether the property holds.
    fn sound(&self, state: &Self::State) -> bool;
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Outcome<A> {
    /// The property holds in all of so many states.
    Sound { states: usize },
    /// The property is broken by these events; no fewer do it.
    Broken { trace: Vec<A> },
    /// There are more states than the limit; the property holds in those that were seen.
    TooMany,
}

/// Looks at all states, up to `limit` of them. States are known again by a hash of 64 bits: that two of a few million
/// share one is a matter of one run in a million.
pub(crate) fn explore<M: Model>(model: &M, limit: usize) -> Outcome<M::Action> {
    let start = model.start();
    let mut seen: HashSet<u64, BuildHasherDefault<Fingerprint>> = HashSet::default();
    seen.insert(fingerprint(&start));
    // How each state was reached: its parent's number, and what happened.
    let mut origins: Vec<(usize, Option<M::Action>)> = vec![(0, None)];
    let mut now = vec![(0, start)];
    let mut actions = Vec::new();
    while !now.is_empty() {
        let mut later = Vec::new();
        for (number, state) in now {
            actions.clear();
            model.actions(&state, &mut actions);
            for action in &actions {
                let Some(next) = model.step(&state, *action) else { continue };
                if !seen.insert(fingerprint(&next)) {
                    continue;
                }
                origins.push((number, Some(*action)));
                if !model.sound(&next) {
                    return Outcome::Broken { trace: trace(&origins) };
                }
                if origins.len() >= limit {
                    return Outcome::TooMany;
                }
                later.push((origins.len() - 1, next));
            }
        }
        now = later;
    }
    Outcome::Sound { states: origins.len() }
}

/// The events up to the last state.
fn trace<A: Copy>(origins: &[(usize, Option<A>)]) -> Vec<A> {
    let mut at = origins.len() - 1;
    let mut trace = Vec::new();
    while let (parent, Some(action)) = origins[at] {
        trace.push(action);
        at = parent;
    }
    trace.reverse();
    trace
}

/// A hash that is quick for many small numbers.
#[derive(Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.0 = mixed ^ (mixed >> 32);
    }
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = Fingerprint::default();
    state.hash(&mut hasher);
    hasher.finish()
}
