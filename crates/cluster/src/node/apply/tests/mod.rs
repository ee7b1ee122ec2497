//! What the applying thread does, in which order.
use bytes::Bytes;
use crossbeam_channel::unbounded;
use parking_lot::Mutex;
use raft::prelude::ConfState;

use super::*;
use crate::catalogue::{Bootstrap, Command, Op, Purge, RequestId, Scope};
use crate::ids::{ClusterId, NodeKey, StorageId};
use crate::node::inbox::{Inbox, inbox};

/// What was told, in order: the events' places, and 0 for a snapshot.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<u64>>);

impl Observer for Told {
    fn event(&self, index: u64, _event: &Event) {
        self.0.lock().push(index);
    }

    fn skipped(&self) {
        self.0.lock().push(0);
    }

    fn leader(&self, _term: u64, _leader: RaftId) {}

    fn forget(&self, _objects: Vec<ObjectId>) {}
}

struct Parts {
    folder: tempfile::TempDir,
    catalogue: Catalogue,
    told: Arc<Told>,
    marks: Arc<Marks>,
    pending: Arc<Pending>,
    inbox: Inbox,
    applier: Applier,
}

fn catalogue_in(folder: &std::path::Path) -> Catalogue {
    let catalogue = Catalogue::open(folder).unwrap();
    let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
    let first = Bootstrap {
        cluster: ClusterId([1; 16]),
        conf_state: straightway_wire::raft::encode_conf_state(&conf_state),
        key: NodeKey([1; 32]),
        storage: StorageId([1; 16]),
        name: "one".into(),
        addresses: vec![],
        mesh: vec![],
        http: String::new(),
    };
    catalogue.bootstrap(&first).unwrap();
    catalogue
}

fn parts() -> Parts {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = catalogue_in(folder.path());
    let (wake, _) = Wake::new();
    let (letterbox, inbox) = inbox(wake.clone());
    let told = Arc::new(Told::default());
    let marks = Arc::new(Marks::new(1, 1));
    let pending = Arc::new(Pending::new(1, 1));
    let applier = Applier {
        data_dir: folder.path().to_owned(),
        catalogue: catalogue.clone(),
        pending: pending.clone(),
        observer: told.clone(),
        marks: marks.clone(),
        leases: Arc::new(Leases::new(1)),
        later: Later::default(),
        letterbox,
        wake,
    };
    Parts { folder, catalogue, told, marks, pending, inbox, applier }
}

/// A command that tells of itself.
fn purge(index: u64, request: RequestId) -> Committed {
    let op = Op::Purge(Purge { scope: Scope::Key, value: "k".into() });
    let data = Command { request, op }.encode().unwrap();
    Committed::Command { index, term: 1, data }
}

fn request(serial: u64) -> RequestId {
    RequestId { node: 1, boot: 1, serial }
}

fn purges(indices: std::ops::RangeInclusive<u64>) -> Vec<Committed> {
    indices.map(|index| purge(index, request(index))).collect()
}

/// A snapshot through `index`, as it arrives.
fn snapshot_through(index: u64, to: &Catalogue) -> Box<Verified> {
    let folder = tempfile::tempdir().unwrap();
    let source = catalogue_in(folder.path());
    let batch = purges(2..=index);
    let inputs: Vec<_> = batch.iter().map(|committed| input(committed, &[])).collect();
    source.apply(&inputs).1.unwrap();
    let (mut writer, mut reader) = (source.snapshot().unwrap(), to.receive().unwrap());
    while let Some(chunk) = writer.next_chunk().unwrap() {
        reader.write(&chunk).unwrap();
    }
    Box::new(reader.finish().unwrap())
}

#[test]
fn tasks_are_done_in_order_and_what_was_applied_survives_the_end() {
    let Parts { folder, catalogue, told, marks, inbox, applier, .. } = parts();
    let snapshot = snapshot_through(10, &catalogue);
    let (sender, tasks) = unbounded();
    let (freeze, frozen) = crossbeam_channel::bounded(1);
    let (done, installed) = crossbeam_channel::bounded(1);
    for task in [
        Task::Apply(purges(2..=4)),
        Task::Freeze(freeze),
        Task::Apply(purges(5..=5)),
        Task::Install(snapshot, done),
        Task::Apply(purges(11..=12)),
        Task::Mark,
        Task::Stop,
    ] {
        sender.send(task).unwrap();
    }
    applier.run(&tasks).unwrap();
    assert_eq!(frozen.recv().unwrap().unwrap().mark().index, 4);
    installed.recv().unwrap().unwrap();
    assert_eq!(*told.0.lock(), [2, 3, 4, 5, 0, 11, 12]);
    let made = inbox.inputs.try_recv().unwrap();
    assert!(matches!(made, drive::Input::SnapshotMade(mark) if mark.index == 12));
    let ends = (marks.applied.load(Ordering::Acquire), marks.durable.load(Ordering::Acquire));
    assert_eq!(ends, (12, 12));
    drop(catalogue);
    assert_eq!(Catalogue::open(folder.path()).unwrap().applied().index, 12);
}

#[test]
fn a_frozen_snapshot_lets_the_log_be_cut() {
    let Parts { marks, applier, .. } = parts();
    let (sender, tasks) = unbounded();
    let (freeze, frozen) = crossbeam_channel::bounded(1);
    sender.send(Task::Apply(purges(2..=4))).unwrap();
    sender.send(Task::Freeze(freeze)).unwrap();
    let thread = std::thread::spawn(move || applier.run(&tasks));
    frozen.recv().unwrap().unwrap();
    assert_eq!(marks.durable.load(Ordering::Acquire), 4);
    sender.send(Task::Stop).unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn who_waits_hears_of_what_was_applied_before_an_entry_that_cannot_be() {
    let Parts { told, pending, applier, .. } = parts();
    let (request, mut settled) = pending.begin().unwrap();
    let foreign = Committed::Command {
        index: 3,
        term: 1,
        data: Bytes::from_static(&[0xC7, 99, 0, 0, 0, 0, 0, 0]),
    };
    let (sender, tasks) = unbounded();
    sender.send(Task::Apply(vec![purge(2, request), foreign])).unwrap();
    let error = applier.run(&tasks).unwrap_err().to_string();
    assert!(error.contains("same release"), "{error}");
    assert_eq!(settled.try_recv().unwrap().index, 2);
    assert_eq!(*told.0.lock(), [2]);
}
