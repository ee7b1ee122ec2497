//! What Raft's thread does with what arrives, and in which order its orders leave.
use crossbeam_channel::bounded;
use parking_lot::Mutex;
use raft::prelude::{Entry, HardState};

use super::*;
use crate::core::Committed;
use crate::log::Recovered;
use crate::node::inbox::{Letterbox, inbox};
use crate::node::wake::Wake;

#[derive(Clone, Default)]
struct Posted(Arc<Mutex<Vec<Message>>>);

impl Outbox for Posted {
    fn send(&self, message: Message) {
        self.0.lock().push(message);
    }

    fn refused(&self, peer: RaftId, lane: Lane, why: &dyn std::fmt::Display) {
        panic!("member {peer} was hung up on, {lane:?}: {why}");
    }
}

impl Posted {
    /// Kind, receiver and last entry of what has left since.
    fn take(&self) -> Vec<(MessageType, RaftId, u64)> {
        let last = |message: &Message| message.entries.last().map_or(0, |entry| entry.index);
        let posted = std::mem::take(&mut *self.0.lock());
        posted.iter().map(|message| (message.get_msg_type(), message.to, last(message))).collect()
    }
}

struct Place {
    driver: Driver,
    letterbox: Letterbox,
    posted: Posted,
    jobs: Receiver<Job>,
    tasks: Receiver<Task>,
}

/// Member 1 of three, with a log that holds the bootstrap and nothing else.
fn place() -> Place {
    let conf_state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let mark = LogMark { index: 1, term: 1, conf_state };
    let recovered = Recovered {
        hard_state: HardState { term: 1, commit: 1, ..HardState::default() },
        snapshot: Some(mark.clone()),
        ..Recovered::default()
    };
    let storage = RaftStorage::recover(recovered, Some(mark)).unwrap();
    let (wake, woken) = Wake::new();
    let (letterbox, inbox) = inbox(wake);
    let (job_sender, jobs) = bounded(64);
    let (task_sender, tasks) = bounded(64);
    let posted = Posted::default();
    let driver = Driver {
        core: Core::new(1, storage.clone(), 1, None).unwrap(),
        storage,
        inbox,
        wake: woken,
        jobs: Jobs(job_sender),
        tasks: task_sender,
        outbox: Box::new(posted.clone()),
        persisted: Arc::default(),
        marks: Arc::new(Marks::new(1, 1)),
        fetch: Box::new(|_| {}),
        progress: Arc::new(Progress::new()),
        cut_entries: 100,
        state: State::new(LeaseTable::new(boot_clock(), false)),
    };
    Place { driver, letterbox, posted, jobs, tasks }
}

impl Place {
    fn arrive(&self, kind: MessageType, lane: Lane, change: impl FnOnce(&mut Message)) {
        let mut message = Message { from: 2, to: 1, term: 2, ..Message::default() };
        message.set_msg_type(kind);
        change(&mut message);
        let arrived = Arrived::Raft { lane, message: Box::new(message), held: Held::default() };
        assert!(self.letterbox.arrived(arrived, 100).is_ok());
    }

    /// What the loop does with what is there.
    fn turn(&mut self) {
        self.driver.take_arrived().unwrap();
        self.driver.marks();
        let output = self.driver.core.poll().unwrap();
        self.driver.carry_out(output).unwrap();
    }

    /// What the log's thread does.
    fn flush(&mut self) {
        for job in self.jobs.try_iter() {
            let Job::Persist(persist) = job else { continue };
            self.driver.persisted.store(persist.number, Ordering::Release);
            persist.messages.into_iter().for_each(|message| self.posted.send(message));
        }
    }
}

#[test]
fn a_leader_sends_its_entries_while_its_own_flush_is_under_way() {
    let mut place = place();
    place.driver.core.campaign();
    place.turn();
    place.flush();
    place.arrive(MessageType::MsgRequestPreVoteResponse, Lane::Control, |_| {});
    place.turn();
    let asked = place.posted.take();
    assert!(asked.iter().all(|(kind, ..)| *kind == MessageType::MsgRequestPreVote), "{asked:?}");
    // Its vote for itself is on the disk before anybody hears of it.
    place.flush();
    let asked = place.posted.take();
    assert!(asked.iter().all(|(kind, ..)| *kind == MessageType::MsgRequestVote), "{asked:?}");
    assert_eq!(asked.len(), 2);
    place.turn();
    place.arrive(MessageType::MsgRequestVoteResponse, Lane::Control, |_| {});
    place.turn();
    let mut sent = place.posted.take();
    sent.sort_by_key(|(_, to, _)| *to);
    assert_eq!(sent, [(MessageType::MsgAppend, 2, 2), (MessageType::MsgAppend, 3, 2)]);
    assert_eq!(place.jobs.len(), 1, "its own flush has yet to come");
}

/// One entry from the leader, which follows on what is there.
fn entry(message: &mut Message) {
    (message.index, message.log_term, message.commit) = (1, 1, 1);
    message.set_entries(vec![Entry { index: 2, term: 2, ..Entry::default() }].into());
}

#[test]
fn a_follower_answers_when_the_entry_is_on_its_disk() {
    let mut place = place();
    place.arrive(MessageType::MsgAppend, Lane::Append, entry);
    place.turn();
    assert_eq!(place.posted.take(), []);
    place.flush();
    assert_eq!(place.posted.take(), [(MessageType::MsgAppendResponse, 2, 0)]);
}

#[test]
fn entries_wait_while_too_much_is_to_be_applied_and_heartbeats_do_not() {
    let mut place = place();
    let data = Bytes::from(vec![0; 1 << 20]);
    let large = |index| Committed::Command { index, term: 1, data: data.clone() };
    place.driver.state.committed.extend((2..200).map(large).collect());
    place.arrive(MessageType::MsgAppend, Lane::Append, entry);
    place.arrive(MessageType::MsgHeartbeat, Lane::Control, |_| {});
    place.turn();
    let core = &place.driver.core;
    assert_eq!((core.leadership().leader, core.last_index()), (2, 1));
    let (answer, mut refused) = oneshot::channel();
    place.driver.propose(vec![(Bytes::from_static(b"command"), answer)]);
    assert_eq!(refused.try_recv().unwrap(), Err(NotProposed::Busy));
    // The applying thread gets on.
    let mut applied = 0;
    for _ in 0..100 {
        for task in place.tasks.try_iter() {
            let Task::Apply(batch) = task else { continue };
            applied += batch.len();
        }
        place.turn();
    }
    assert_eq!((applied, place.driver.core.last_index()), (198, 2));
}
