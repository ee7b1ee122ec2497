//! A log that is written by hand, and what all tests of the catalogue need of it.
mod crash;
mod damage;
mod hostile;
mod many;
mod membership;
mod model;
mod objects;
mod snapshots;

use bytes::Bytes;

use super::*;

pub(super) const TICKET: [u8; 32] = [0x71; 32];
pub(super) const NOW: u64 = 1_000_000;

pub(super) fn first() -> Bootstrap {
    Bootstrap {
        cluster: ClusterId([0xc1; 16]),
        conf_state: Bytes::from_static(b"voters: 1"),
        key: NodeKey([1; 32]),
        storage: StorageId([1; 16]),
        name: "one".into(),
        addresses: vec!["192.0.2.1:1".into()],
        mesh: vec!["192.0.2.1:2".into()],
        http: "http://192.0.2.1".into(),
    }
}

pub(super) fn join(node: u8, ticket: [u8; 32]) -> Op {
    Op::Join(Join {
        ticket,
        key: NodeKey([node; 32]),
        storage: StorageId([node; 16]),
        name: format!("node {node}"),
        addresses: vec![format!("192.0.2.{node}:1")],
        mesh: vec![],
        http: String::new(),
        now_ms: NOW,
    })
}

pub(super) fn ticket(hash: [u8; 32]) -> Op {
    Op::TicketIssued(TicketIssued {
        hash,
        now_ms: NOW,
        expires_ms: NOW + 1000,
        uses: 1,
        role: Role::Voter,
    })
}

pub(super) fn object(serial: u64) -> ObjectId {
    ObjectId { node: 1, serial }
}

pub(super) fn put(key: &str, serial: u64) -> Put {
    Put {
        key: key.into(),
        object: object(serial),
        len: 10,
        digest: [serial.to_le_bytes()[0]; 32],
        content_type: "text/plain".into(),
        content_encoding: String::new(),
        tags: vec![],
        expires_ms: 0,
        last_modified_ms: 5,
        now_ms: NOW,
        condition: Condition::Any,
        holders: vec![1],
        copies: 1,
    }
}

/// A log as its leader would have written it.
#[derive(Debug, Default)]
pub(super) struct Log {
    serial: u64,
    /// Entries from index 2 on.
    pub(super) entries: Vec<Bytes>,
}

impl Log {
    /// A log whose cluster has members 1, 2 and 3.
    pub(super) fn of_three() -> Self {
        let mut log = Self::default();
        for node in [2, 3] {
            log.push(ticket([node; 32]));
            log.push(join(node, [node; 32]));
        }
        log
    }

    /// Appends a command with a request of its own; answers with its place.
    pub(super) fn push(&mut self, op: Op) -> usize {
        self.serial += 1;
        let serial = self.serial;
        self.push_as(RequestId { node: 1, boot: 1, serial }, op)
    }

    pub(super) fn push_as(&mut self, request: RequestId, op: Op) -> usize {
        self.entries.push(Command { request, op }.encode().expect("within limits"));
        self.entries.len() - 1
    }

    /// Applies what `catalogue` has not yet, `batch` entries at a time.
    pub(super) fn feed(&self, catalogue: &Catalogue, batch: usize) -> Vec<Applied> {
        let inputs: Vec<_> = self
            .entries
            .iter()
            .zip(2..)
            .map(|(bytes, index)| Input { index, term: 1, what: What::Command(bytes) })
            .collect();
        inputs.chunks(batch).flat_map(|batch| run(catalogue, batch).expect("applied")).collect()
    }

    /// A catalogue in memory that has applied all of it.
    pub(super) fn replayed(&self) -> (Catalogue, Vec<Applied>) {
        let catalogue = started(Catalogue::volatile().expect("a catalogue"));
        let applied = self.feed(&catalogue, usize::MAX);
        (catalogue, applied)
    }
}

/// Applies, and writes.
pub(super) fn run(
    catalogue: &Catalogue,
    batch: &[Input<'_>],
) -> Result<Vec<Applied>, ClusterError> {
    let (applied, went_on) = catalogue.apply(batch);
    went_on.and_then(|()| catalogue.write(0)).map(|()| applied)
}

/// Begins the cluster.
pub(super) fn started(catalogue: Catalogue) -> Catalogue {
    assert_eq!(catalogue.bootstrap(&first()).expect("begun"), 1);
    catalogue
}

/// Applies one command to a catalogue, behind what it has.
pub(super) fn apply_one(catalogue: &Catalogue, request: RequestId, op: Op) -> Applied {
    let bytes = Command { request, op }.encode().expect("within limits");
    let index = catalogue.applied().index + 1;
    let input = Input { index, term: 1, what: What::Command(&bytes) };
    run(catalogue, &[input]).expect("applied").remove(0)
}

/// All bytes of a snapshot.
pub(super) fn bytes_of(mut snapshot: SnapshotWriter) -> (Vec<u8>, Manifest) {
    let mut bytes = Vec::new();
    while let Some(chunk) = snapshot.next_chunk().expect("a chunk") {
        assert!(chunk.len() <= CHUNK);
        bytes.extend_from_slice(&chunk);
    }
    (bytes, snapshot.manifest().expect("the end").clone())
}

/// Takes a snapshot in, in chunks of that length.
pub(super) fn install(
    catalogue: &Catalogue,
    bytes: &[u8],
    chunk: usize,
) -> Result<Installed, ClusterError> {
    let mut reader = catalogue.receive()?;
    for chunk in bytes.chunks(chunk) {
        reader.write(chunk)?;
    }
    catalogue.install(reader.finish()?)
}

#[test]
fn whoever_waits_hears_what_has_been_applied() {
    let catalogue = started(Catalogue::volatile().expect("a catalogue"));
    let mut watch = catalogue.applied_watch();
    assert_eq!(*watch.borrow_and_update(), 1);
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        *runtime.block_on(watch.wait_for(|index| *index >= 4)).expect("open")
    });
    let input = |index, what| Input { index, term: 2, what };
    let conf = What::Conf(b"voters: 1 2");
    assert_eq!(run(&catalogue, &[input(2, What::Empty), input(3, conf)]).expect("applied"), []);
    assert_eq!(run(&catalogue, &[input(4, What::Empty)]).expect("applied"), []);
    assert_eq!(waiting.join().expect("woken"), 4);
    assert_eq!(catalogue.applied(), Mark { index: 4, term: 2 });
    assert_eq!(catalogue.conf_state(), &b"voters: 1 2"[..]);

    // What was applied is skipped; what does not follow is refused.
    assert_eq!(run(&catalogue, &[input(4, What::Conf(b"other"))]).expect("skipped"), []);
    assert_eq!(catalogue.conf_state(), &b"voters: 1 2"[..]);
    assert!(matches!(run(&catalogue, &[input(6, What::Empty)]), Err(ClusterError::Invalid { .. })));
    assert_eq!(catalogue.applied().index, 4);
}

#[test]
fn a_cluster_begins_once() {
    let catalogue = Catalogue::volatile().expect("a catalogue");
    assert_eq!((catalogue.cluster(), catalogue.applied()), (None, Mark::default()));
    let long = Bootstrap { name: "n".repeat(limits::TEXT + 1), ..first() };
    assert!(matches!(catalogue.bootstrap(&long), Err(ClusterError::Invalid { .. })));
    let catalogue = started(catalogue);
    assert!(matches!(catalogue.bootstrap(&first()), Err(ClusterError::Config { .. })));
    assert_eq!(catalogue.cluster(), Some(first().cluster));
    assert_eq!(catalogue.applied(), Mark { index: 1, term: 1 });
    assert_eq!(catalogue.members()[0].key, first().key);
}

#[test]
fn after_a_failed_write_nothing_is_written_and_all_is_read() {
    let mut log = Log::default();
    log.push(Op::Put(put("k", 1)));
    let (catalogue, _) = log.replayed();
    let lost = ClusterError::Catalogue { act: "written", reason: "the disk is gone".into() };
    catalogue.shared.disk.lock().fail(&lost);
    let input = Input { index: 3, term: 1, what: What::Empty };
    for error in [run(&catalogue, &[input]).map(drop), catalogue.sync().map(drop)] {
        let error = error.expect_err("poisoned").to_string();
        assert!(
            error.contains("start the node again") && error.contains("the disk is gone"),
            "{error}"
        );
    }
    assert_eq!((catalogue.applied().index, catalogue.len()), (2, 1));
}
