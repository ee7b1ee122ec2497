//! Files that are not what was written.
use proptest::prelude::*;

use super::*;

fn written(folder: &Path) -> [u8; 32] {
    let mut log = Log::of_three();
    for serial in 1..200 {
        log.push(Op::Put(put(&format!("key {serial}"), serial)));
    }
    let catalogue = started(Catalogue::open(folder).expect("a catalogue"));
    log.feed(&catalogue, 64);
    catalogue.sync().expect("synced");
    catalogue.state_digest()
}

#[test]
fn a_file_that_is_no_catalogue_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(FILE), b"something else altogether").expect("written");
    let error = Catalogue::open(folder.path()).expect_err("refused");
    assert!(matches!(error, ClusterError::Corrupt { .. }), "{error}");

    let folder = tempfile::tempdir().expect("a folder");
    let db = redb::Database::create(folder.path().join(FILE)).expect("made");
    let txn = db.begin_write().expect("begun");
    txn.open_table(redb::TableDefinition::<u64, u64>::new("meta")).expect("opened");
    txn.commit().expect("committed");
    drop(db);
    let error = Catalogue::open(folder.path()).expect_err("refused");
    assert!(matches!(error, ClusterError::Corrupt { .. }), "{error}");
}

#[test]
fn another_version_and_another_process_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    written(folder.path());
    let open = Catalogue::open(folder.path()).expect("opened");
    let error = Catalogue::open(folder.path()).expect_err("in use");
    assert!(matches!(error, ClusterError::Locked { .. }), "{error}");
    drop(open);

    let db = redb::Database::open(folder.path().join(FILE)).expect("opened");
    let txn = db.begin_write().expect("begun");
    let mut format = super::super::rows::format();
    format[4] += 1;
    let row = super::super::rows::sealed(super::super::rows::FORMAT_KEY, &format);
    let table = redb::TableDefinition::<&[u8], &[u8]>::new("meta");
    txn.open_table(table).expect("opened").insert(&b"format"[..], &row[..]).expect("written");
    txn.commit().expect("committed");
    drop(db);
    let error = Catalogue::open(folder.path()).expect_err("refused");
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn rows_that_are_missing_are_missed() {
    for table in ["entries", "members", "tickets", "windows", "answers", "meta"] {
        let folder = tempfile::tempdir().expect("a folder");
        written(folder.path());
        let db = redb::Database::open(folder.path().join(FILE)).expect("opened");
        let txn = db.begin_write().expect("begun");
        let definition = redb::TableDefinition::<&[u8], &[u8]>::new(table);
        drop(txn.open_table(definition).expect("opened").pop_last().expect("taken"));
        txn.commit().expect("committed");
        drop(db);
        let error = Catalogue::open(folder.path()).expect_err("refused");
        assert!(matches!(error, ClusterError::Corrupt { .. }), "{table}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Either nothing that counts was hit, or it is said.
    #[test]
    fn flipped_bits_are_found_or_do_not_matter(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in prop::bool::weighted(0.1)) {
        static WRITTEN: std::sync::OnceLock<(Vec<u8>, [u8; 32])> = std::sync::OnceLock::new();
        let (bytes, digest) = WRITTEN.get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let digest = written(folder.path());
            (std::fs::read(folder.path().join(FILE)).expect("read"), digest)
        });
        let mut bytes = bytes.clone();
        let used = bytes.len().min(160 * 1024);
        let at = at.index(used);
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(FILE), &bytes).expect("written");
        match Catalogue::open(folder.path()) {
            Ok(catalogue) => prop_assert!(catalogue.state_digest() == *digest || bytes.is_empty()),
            Err(ClusterError::Corrupt { .. } | ClusterError::Catalogue { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
