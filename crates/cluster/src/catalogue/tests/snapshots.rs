//! Snapshots: whole or not at all.
use proptest::prelude::*;

use super::*;

fn log() -> Log {
    let mut log = Log::of_three();
    for serial in 1..600 {
        let key = format!("some/path/that/is/not/short/{serial}");
        log.push(Op::Put(Put { tags: vec!["tag".into()], ..put(&key, serial) }));
    }
    log
}

#[test]
fn a_snapshot_is_of_one_moment() {
    let log = log();
    let (catalogue, _) = log.replayed();
    let digest = catalogue.state_digest();
    let mut snapshot = catalogue.snapshot().expect("a snapshot");
    let index = log.entries.len() as u64 + 1;
    assert_eq!((snapshot.mark().index, snapshot.mark().term), (index, 1));
    assert_eq!(snapshot.mark().conf_state, first().conf_state);
    let mut bytes = snapshot.next_chunk().expect("read").expect("a chunk").to_vec();
    assert_eq!((bytes.len(), snapshot.manifest()), (CHUNK, None));

    // What is applied meanwhile is not in it.
    let request = RequestId { node: 1, boot: 1, serial: 9000 };
    let all = Op::Purge(Purge { scope: Scope::All, value: String::new() });
    assert_eq!(apply_one(&catalogue, request, all).outcome, Outcome::Purged(599));
    while let Some(chunk) = snapshot.next_chunk().expect("read") {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(snapshot.next_chunk().expect("read"), None);
    let manifest = snapshot.manifest().expect("the end").clone();
    assert_eq!(manifest.len, bytes.len() as u64);
    assert_eq!(manifest.blake3, *blake3::hash(&bytes[..bytes.len() - 32]).as_bytes());

    let other = Catalogue::volatile().expect("a catalogue");
    let mut reader = other.receive().expect("room");
    bytes.chunks(1000).for_each(|chunk| reader.write(chunk).expect("sound"));
    let verified = reader.finish().expect("whole");
    assert_eq!(verified.manifest(), &manifest);
    assert_eq!(other.cluster(), None);
    let installed = other.install(verified).expect("installed");
    assert_eq!((installed.mark, installed.forget), (manifest.mark, vec![]));
    assert_eq!((other.state_digest(), other.durable()), (digest, index));
    assert_eq!(*other.applied_watch().borrow(), index);
}

#[test]
fn one_is_received_at_a_time_and_leaves_nothing_when_it_is_given_up() {
    let (source, _) = log().replayed();
    let (bytes, _) = bytes_of(source.snapshot().expect("a snapshot"));
    let folder = tempfile::tempdir().expect("a folder");
    let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
    let catalogue = started(Catalogue::open(folder.path()).expect("a catalogue"));
    let mut reader = catalogue.receive().expect("room");
    reader.write(&bytes[..100_000]).expect("sound");
    assert!(matches!(catalogue.receive(), Err(ClusterError::Busy { .. })));
    assert_eq!(files(), 2);
    drop(reader);
    assert_eq!(files(), 1);
    // Received, but not put in place.
    let mut reader = catalogue.receive().expect("room");
    reader.write(&bytes).expect("sound");
    let verified = reader.finish().expect("whole");
    assert_eq!((files(), catalogue.len()), (2, 0));
    drop(verified);
    assert_eq!(files(), 1);

    install(&catalogue, &bytes, 10_000).expect("installed");
    assert_eq!(files(), 1);
    // It is what is opened from now on, and goes on from there.
    let request = RequestId { node: 1, boot: 1, serial: 9000 };
    let stored = apply_one(&catalogue, request, Op::Put(put("later", 9000)));
    assert_eq!(stored.outcome, Outcome::Put { replaced: false });
    let digest = catalogue.state_digest();
    drop(catalogue);
    let catalogue = Catalogue::open(folder.path()).expect("opened again");
    assert_eq!((catalogue.len(), catalogue.state_digest()), (600, digest));
}

#[test]
fn a_crash_leaves_the_old_state_until_the_new_one_is_in_its_place() {
    let (source, _) = log().replayed();
    let (bytes, _) = bytes_of(source.snapshot().expect("a snapshot"));
    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = started(Catalogue::open(folder.path()).expect("a catalogue"));
    let mut reader = catalogue.receive().expect("room");
    reader.write(&bytes).expect("sound");
    let verified = reader.finish().expect("whole");
    // What the folder is like if the power goes now, and whenever before.
    let copy = |name: &str| std::fs::read(folder.path().join(name)).expect("a file");
    let (old, new) = (copy(FILE), copy("catalogue.redb.new"));
    for beside in [&new[..], &new[..new.len() / 2], b"", b"junk"] {
        let crashed = tempfile::tempdir().expect("a folder");
        std::fs::write(crashed.path().join(FILE), &old).expect("written");
        std::fs::write(crashed.path().join("catalogue.redb.new"), beside).expect("written");
        let opened = Catalogue::open(crashed.path()).expect("opened");
        assert_eq!((opened.applied().index, opened.len()), (1, 0));
        assert_eq!(std::fs::read_dir(crashed.path()).expect("a folder").count(), 1);
        install(&opened, &bytes, usize::MAX).expect("a snapshot is taken again");
    }
    catalogue.install(verified).expect("installed");
    let crashed = tempfile::tempdir().expect("a folder");
    std::fs::write(crashed.path().join(FILE), copy(FILE)).expect("written");
    let opened = Catalogue::open(crashed.path()).expect("opened");
    assert_eq!((opened.len(), opened.state_digest()), (599, source.state_digest()));
}

#[test]
fn what_is_being_sent_survives_what_takes_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = started(Catalogue::open(folder.path()).expect("a catalogue"));
    let short = Log { serial: 0, entries: log().entries[..300].to_vec() };
    short.feed(&catalogue, 50);
    let digest = catalogue.state_digest();
    let sending = catalogue.snapshot().expect("a snapshot");
    let (source, _) = log().replayed();
    let (newer, _) = bytes_of(source.snapshot().expect("a snapshot"));
    install(&catalogue, &newer, usize::MAX).expect("installed");
    let (bytes, _) = bytes_of(sending);
    let other = Catalogue::volatile().expect("a catalogue");
    install(&other, &bytes, usize::MAX).expect("installed");
    assert_eq!(other.state_digest(), digest);
}

#[test]
fn snapshots_that_do_not_belong_here_are_refused() {
    let (source, _) = log().replayed();
    let (bytes, _) = bytes_of(source.snapshot().expect("a snapshot"));
    let refused = |catalogue: &Catalogue, reason: &str| {
        let digest = catalogue.state_digest();
        let error = install(catalogue, &bytes, usize::MAX).expect_err("refused");
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(catalogue.state_digest(), digest);
    };
    refused(&source, "has been applied here");
    let other = Catalogue::volatile().expect("a catalogue");
    other.bootstrap(&Bootstrap { cluster: ClusterId([0xc2; 16]), ..first() }).expect("begun");
    refused(&other, "another cluster");
    let of_nothing =
        bytes_of(Catalogue::volatile().expect("a catalogue").snapshot().expect("a snapshot")).0;
    assert!(install(&other, &of_nothing, usize::MAX).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn damaged_snapshots_are_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut: bool, longer: bool, chunk in 1..70_000_usize) {
        let mut log = Log::of_three();
        for serial in 1..40 {
            log.push(Op::Put(put(&format!("key {serial}"), serial)));
        }
        let (source, _) = log.replayed();
        let (mut bytes, _) = bytes_of(source.snapshot().expect("a snapshot"));
        let at = at.index(bytes.len());
        match (cut, longer) {
            (true, _) => bytes.truncate(at),
            (false, true) => bytes.push(bit),
            (false, false) => bytes[at] ^= 1 << bit,
        }
        let catalogue = started(Catalogue::volatile().expect("a catalogue"));
        let digest = catalogue.state_digest();
        let error = install(&catalogue, &bytes, chunk).expect_err("refused");
        prop_assert!(matches!(error, ClusterError::Invalid { what: "a snapshot", .. }), "{}", error);
        prop_assert_eq!(catalogue.state_digest(), digest);
        // And the next one is taken.
        let (bytes, _) = bytes_of(source.snapshot().expect("a snapshot"));
        install(&catalogue, &bytes, chunk).expect("installed");
    }
}
