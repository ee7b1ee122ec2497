//! Several members on a virtual network with virtual disks: messages are lost, doubled, delayed, cut off one way or both;
//! members crash with what they had not flushed; logs are cut so that those who were away need snapshots. After every step
//! Raft's promises are checked (the list is that of Ongaro's thesis, 3.6 and 3.8): one leader a term, committed entries never
//! change and never get lost, everybody applies the same. At the end everything heals, and all must agree and go on.
//!
//! A seed replays: `SEED=17 cargo test -p straightway-cluster --test simulator`.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
use std::collections::BTreeMap;

use bytes::Bytes;
use raft::prelude::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Message};
use straightway_cluster::core::{Committed, Core, Output, Persist};
use straightway_cluster::log::{Batch, LogMark, LogStore, MemoryLog, RaftStorage, Recovered};
use straightway_wire::raft::{
    Lane, Severity, deserialize_raft_message_fast, lane_of, serialize_raft_message_fast,
};

const SEEDS: u64 = 150;
const ROUNDS: u64 = 600;
/// Rounds without faults after which all must agree.
const HEALING: u64 = 400;

#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a state machine holds: how far it is, and the configuration there.
#[derive(Clone)]
struct Machine {
    applied: u64,
    term: u64,
    conf_state: ConfState,
}

impl Machine {
    fn mark(&self) -> LogMark {
        LogMark { index: self.applied, term: self.term, conf_state: self.conf_state.clone() }
    }
}

struct Running {
    core: Core,
    storage: RaftStorage,
    log: MemoryLog,
    /// Written and not flushed; the messages leave afterwards.
    unflushed: Vec<Persist>,
    machine: Machine,
}

struct Node {
    id: u64,
    /// What a restart finds of the state machine: it is made durable now and then.
    durable: Machine,
    image: Recovered,
    running: Option<Running>,
}

struct World {
    random: Random,
    now: u64,
    nodes: Vec<Node>,
    /// On their way, by time of arrival.
    wire: Vec<(u64, Message)>,
    /// Cut off: from, to.
    cut: Vec<(u64, u64)>,
    faults: bool,
    /// State machines become durable now and then; without, a restart finds them as they were at the beginning.
    durable: bool,
    /// What was committed at each index: term and data. Never changes.
    history: BTreeMap<u64, (u64, Bytes)>,
    leaders: BTreeMap<u64, u64>,
    confs: BTreeMap<u64, ConfState>,
    proposed: u64,
}

fn first_mark(voters: u64) -> LogMark {
    let conf_state = ConfState { voters: (1..=voters).collect(), ..ConfState::default() };
    LogMark { index: 1, term: 1, conf_state }
}

fn single(id: u64, kind: ConfChangeType) -> ConfChangeSingle {
    let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    single
}

impl World {
    fn new(seed: u64, count: u64, voters: u64) -> Self {
        let mark = first_mark(voters);
        let machine = Machine { applied: 1, term: 1, conf_state: mark.conf_state.clone() };
        let mut world = Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 0,
            nodes: Vec::new(),
            wire: Vec::new(),
            cut: Vec::new(),
            faults: true,
            durable: true,
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            confs: BTreeMap::from([(1, mark.conf_state.clone())]),
            proposed: 0,
        };
        for id in 1..=count {
            let mut log = MemoryLog::new();
            let _synced =
                log.append(Batch { snapshot: Some(&mark), ..Batch::default() }).expect("written");
            let image = log.synced().clone();
            world.nodes.push(Node { id, durable: machine.clone(), image, running: None });
        }
        for at in 0..world.nodes.len() {
            world.start(at);
        }
        world
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (log, recovered): (MemoryLog, Recovered) = MemoryLog::reopen(node.image.clone());
        let machine = node.durable.clone();
        let storage = RaftStorage::recover(recovered, Some(machine.mark()))
            .expect("what was flushed is enough");
        // Each has its own patience: elections end.
        let ticks = 10 + 3 * usize::try_from(node.id).expect("small");
        let core = Core::new(node.id, storage.clone(), machine.applied, Some((ticks, ticks + 1)))
            .expect("it starts");
        node.running = Some(Running { core, storage, log, unflushed: Vec::new(), machine });
    }

    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(running) = node.running.take() else { return };
        let keep =
            usize::try_from(self.random.below(running.log.staged() as u64 + 1)).expect("small");
        node.image = running.log.crash(keep);
    }

    fn post(&mut self, message: &Message) {
        let cut = self.cut.contains(&(message.from, message.to));
        if cut || (self.faults && self.random.one_in(20)) {
            return;
        }
        let copies = if self.faults && self.random.one_in(20) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = 1 + if self.faults { self.random.below(6) } else { 0 };
            self.wire.push((self.now + delay, message.clone()));
        }
    }

    /// Carries out what a member wants done; what it wants flushed is flushed some time later.
    fn carry_out(&mut self, at: usize, output: Output) {
        let Output { messages, persist, committed, leadership, .. } = output;
        let id = self.nodes[at].id;
        if let Some(leadership) = leadership
            && leadership.leader == id
        {
            let before = self.leaders.insert(leadership.term, id);
            assert!(
                before.is_none_or(|before| before == id),
                "two leaders in term {}",
                leadership.term
            );
        }
        for message in messages {
            self.post(&message);
        }
        for persist in persist {
            let mark = persist.snapshot.as_ref().map(LogMark::of);
            let node = &mut self.nodes[at];
            let running = node.running.as_mut().expect("it runs");
            if let Some(mark) = &mark {
                // The state machine has it before the log says so.
                running.machine = Machine {
                    applied: mark.index,
                    term: mark.term,
                    conf_state: self.confs[&mark.index].clone(),
                };
                node.durable = running.machine.clone();
            }
            let batch = Batch {
                entries: &persist.entries,
                hard_state: persist.hard_state.as_ref(),
                snapshot: mark.as_ref(),
            };
            running.log.write(batch).expect("written");
            running.unflushed.push(persist);
            if mark.is_some() {
                self.flush(at);
            }
        }
        for committed in committed {
            self.apply(at, committed);
        }
    }

    fn flush(&mut self, at: usize) {
        let running = self.nodes[at].running.as_mut().expect("it runs");
        let _synced = running.log.sync().expect("flushed");
        let flushed = std::mem::take(&mut running.unflushed);
        if let Some(last) = flushed.last() {
            running.core.persisted(last.number);
        }
        for message in flushed.into_iter().flat_map(|persist| persist.messages) {
            self.post(&message);
        }
    }

    fn apply(&mut self, at: usize, committed: Committed) {
        let running = self.nodes[at].running.as_mut().expect("it runs");
        let (index, term, data) = match committed {
            Committed::Command { index, term, data } => (index, term, data),
            Committed::Members { index, term, conf_state } => {
                running.machine.conf_state = conf_state;
                (index, term, Bytes::from_static(b"members"))
            }
        };
        assert_eq!(
            index,
            running.machine.applied + 1,
            "nothing is skipped and nothing comes twice"
        );
        (running.machine.applied, running.machine.term) = (index, term);
        self.confs.entry(index).or_insert_with(|| running.machine.conf_state.clone());
        let agreed = self.history.entry(index).or_insert_with(|| (term, data.clone()));
        assert_eq!(*agreed, (term, data), "committed entries are the same everywhere, for ever");
    }

    fn poll(&mut self, at: usize) {
        let Some(running) = self.nodes[at].running.as_mut() else { return };
        running.core.applied(running.machine.applied);
        let output = running.core.poll().expect("it goes on");
        self.carry_out(at, output);
    }

    fn deliver(&mut self) {
        let (due, later) =
            std::mem::take(&mut self.wire).into_iter().partition(|(when, _)| *when <= self.now);
        self.wire = later;
        let due: Vec<(u64, Message)> = due;
        for (_, message) in due {
            let at = usize::try_from(message.to - 1).expect("small");
            let Some(running) = self.nodes.get_mut(at).and_then(|node| node.running.as_mut())
            else {
                continue;
            };
            // As on the wire: its own codec, and the judge.
            let bytes = serialize_raft_message_fast(&message).expect("encoded");
            let message = deserialize_raft_message_fast(&bytes).expect("decoded");
            let lane = lane_of(message.get_msg_type()).unwrap_or(Lane::Control);
            match running.core.judge(&message, message.from, lane) {
                Ok(()) => running.core.step(message),
                Err(refusal) => {
                    assert_eq!(refusal.severity, Severity::Stale, "all are honest: {refusal}");
                }
            }
            self.poll(at);
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads =
            |node: &&Node| node.running.as_ref().is_some_and(|running| running.core.is_leader());
        let leaders = self.nodes.iter().filter(leads);
        // An old one may not know yet.
        let newest = leaders.max_by_key(|node| {
            node.running.as_ref().map(|running| running.core.leadership().term)
        })?;
        usize::try_from(newest.id - 1).ok()
    }

    fn propose(&mut self) {
        let Some(at) = self.leader() else { return };
        self.proposed += 1;
        let data = Bytes::from(format!("command {}", self.proposed).into_bytes());
        let running = self.nodes[at].running.as_mut().expect("it runs");
        let _ = running.core.propose(vec![data]);
        self.poll(at);
    }

    fn change_members(&mut self) {
        let Some(at) = self.leader() else { return };
        let id = 1 + self.random.below(self.nodes.len() as u64);
        let running = self.nodes[at].running.as_mut().expect("it runs");
        let voters = running.core.conf_state().voters.len();
        let kind = match self.random.below(3) {
            0 if voters > 2 => ConfChangeType::RemoveNode,
            1 => ConfChangeType::AddLearnerNode,
            _ => ConfChangeType::AddNode,
        };
        if kind == ConfChangeType::AddLearnerNode && voters <= 2 {
            return;
        }
        let mut changes = vec![single(id, kind)];
        if self.random.one_in(2) {
            // Two at once: through a joint configuration.
            changes.push(single(1 + id % self.nodes.len() as u64, ConfChangeType::AddNode));
        }
        self.propose_members(at, changes);
    }

    fn propose_members(&mut self, at: usize, changes: Vec<ConfChangeSingle>) {
        let running = self.nodes[at].running.as_mut().expect("it runs");
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.into());
        let _ = running.core.propose_members(&change);
        self.poll(at);
    }

    fn conf_state(&self, at: usize) -> ConfState {
        self.nodes[at].running.as_ref().expect("it runs").core.conf_state()
    }

    /// Logs are cut where the state machine is durable; those who are further behind get a snapshot.
    fn housekeeping(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(running) = node.running.as_mut() else { return };
        if running.storage.take_snapshot_request() {
            running.storage.set_snapshot(running.machine.mark().to_snapshot());
        }
        if self.durable && self.random.one_in(20) {
            node.durable = running.machine.clone();
        }
        if self.random.one_in(40)
            && let Some(mark) = running.storage.cut(node.durable.applied.saturating_sub(3))
        {
            self.flush(at);
            let running = self.nodes[at].running.as_mut().expect("it runs");
            running.log.compact(&mark).expect("cut");
        }
    }

    fn round(&mut self) {
        self.now += 1;
        if self.faults {
            self.disturb();
        }
        for at in 0..self.nodes.len() {
            let Some(running) = self.nodes[at].running.as_mut() else { continue };
            running.core.tick();
            self.poll(at);
            self.housekeeping(at);
            if !self.faults || self.random.below(3) > 0 {
                self.flush(at);
                self.poll(at);
            }
        }
        self.deliver();
        if self.random.one_in(2) {
            self.propose();
        }
    }

    fn disturb(&mut self) {
        let count = self.nodes.len() as u64;
        if self.random.one_in(50) {
            let at = usize::try_from(self.random.below(count)).expect("small");
            if self.nodes[at].running.is_some() { self.crash(at) } else { self.start(at) }
        }
        if self.random.one_in(25) {
            let from = 1 + self.random.below(count);
            let to = 1 + self.random.below(count);
            self.cut.push((from, to));
            if self.random.one_in(2) {
                self.cut.push((to, from));
            }
        }
        if self.random.one_in(15) {
            self.cut.clear();
        }
        if self.random.one_in(60) {
            self.change_members();
        }
        if self.random.one_in(80)
            && let Some(at) = self.leader()
        {
            let to = 1 + self.random.below(count);
            let running = self.nodes[at].running.as_mut().expect("it runs");
            if running.core.conf_state().voters.contains(&to) {
                running.core.transfer(to);
                self.poll(at);
            }
        }
    }

    /// Everything works again: all members must come to agree, and new commands must be committed.
    fn heal(&mut self) {
        self.faults = false;
        self.cut.clear();
        for at in 0..self.nodes.len() {
            if self.nodes[at].running.is_none() {
                self.start(at);
            }
        }
        let committed = self.history.len();
        for _ in 0..HEALING {
            self.round();
        }
        assert!(self.history.len() > committed + 20, "commands are committed again");
        let leader = self.leader().expect("somebody leads");
        let conf = self.nodes[leader].running.as_ref().expect("it runs").core.conf_state();
        let target = self.history.keys().next_back().copied().unwrap_or(1);
        for id in conf.voters.iter().chain(&conf.learners) {
            let at = usize::try_from(*id - 1).expect("small");
            let applied = self.nodes[at].running.as_ref().expect("it runs").machine.applied;
            assert!(applied + 20 >= target, "member {id} is at {applied}, the others at {target}");
        }
    }
}

fn run(seed: u64) -> usize {
    let (count, voters) =
        [(3, 3), (5, 3), (5, 5), (7, 5), (3, 1), (5, 1)][usize::try_from(seed % 6).expect("small")];
    let mut world = World::new(seed, count, voters);
    for _ in 0..ROUNDS {
        world.round();
    }
    world.heal();
    world.history.len()
}

#[test]
fn promises_hold_whatever_fails() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        run(seed);
        return;
    }
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut committed = 0;
    for seed in 1..=seeds {
        let ended = std::panic::catch_unwind(|| run(seed));
        assert!(ended.is_ok(), "seed {seed} fails: SEED={seed} replays it");
        committed += ended.unwrap_or(0);
    }
    println!("{seeds} seeds, {committed} entries committed");
}

/// The first member makes two others vote, is killed before its state machine is durable, and starts again as the only voter
/// that it was then: it must not lead on its own while the others do.
#[test]
fn a_member_that_was_the_only_voter_does_not_lead_alone_when_it_starts_again() {
    let mut world = World::new(1, 3, 1);
    world.faults = false;
    world.durable = false;
    for _ in 0..100 {
        world.round();
    }
    assert_eq!(world.leader(), Some(0));
    let learner = ConfChangeType::AddLearnerNode;
    for id in [2, 3] {
        world.propose_members(0, vec![single(id, learner)]);
        for _ in 0..20 {
            world.round();
        }
    }
    // Nothing else is going on from here: what is committed is not written along with something else.
    let quiet = |world: &mut World, rounds| {
        for _ in 0..rounds {
            world.now += 1;
            for at in 0..3 {
                let Some(running) = world.nodes[at].running.as_mut() else { continue };
                running.core.tick();
                world.poll(at);
                world.flush(at);
                world.poll(at);
            }
            world.deliver();
        }
    };
    let voter = ConfChangeType::AddNode;
    world.propose_members(0, vec![single(2, voter), single(3, voter)]);
    quiet(&mut world, 20);
    for at in 0..3 {
        let conf = world.conf_state(at);
        assert_eq!((conf.voters.len(), conf.voters_outgoing.len()), (3, 0));
    }
    world.crash(0);
    quiet(&mut world, 100);
    assert!(matches!(world.leader(), Some(1 | 2)), "the others go on");
    for _ in 0..20 {
        world.round();
    }
    world.start(0);
    world.nodes[0].running.as_mut().expect("it runs").core.campaign();
    world.poll(0);
    world.flush(0);
    world.poll(0);
    // The world minds two leaders in a term, and entries that are not what they were.
    for _ in 0..50 {
        world.round();
    }
    world.heal();
}
