//! Many entries at once.
use super::*;

const MANY: u64 = 100_000;

fn filled(catalogue: &Catalogue) {
    let mut serial = 0;
    for from in (0..MANY).step_by(5000) {
        let commands: Vec<Bytes> = (from..from + 5000)
            .map(|n| {
                serial += 1;
                let request = RequestId { node: 1, boot: 1, serial };
                let tags = if n % 4 == 0 { vec!["quarter".into()] } else { vec![] };
                let op = Op::Put(Put { tags, ..put(&format!("{}/{n:08}", n % 2), n) });
                Command { request, op }.encode().expect("sound")
            })
            .collect();
        let next = catalogue.applied().index + 1;
        let inputs: Vec<_> = commands
            .iter()
            .zip(next..)
            .map(|(bytes, index)| Input { index, term: 1, what: What::Command(bytes) })
            .collect();
        catalogue.apply(&inputs).expect("applied");
    }
}

#[test]
fn a_hundred_thousand_entries_are_purged_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = started(Catalogue::open(folder.path()).expect("a catalogue"));
    filled(&catalogue);
    assert_eq!(catalogue.len() as u64, MANY);
    let mut serial = MANY;
    let mut purge = |scope, value: &str| {
        serial += 1;
        let request = RequestId { node: 1, boot: 1, serial };
        let applied =
            apply_one(&catalogue, request, Op::Purge(Purge { scope, value: value.into() }));
        (applied.outcome, applied.forget.len() as u64, catalogue.len() as u64)
    };
    assert_eq!(purge(Scope::Tag, "quarter"), (Outcome::Purged(MANY / 4), MANY / 4, MANY * 3 / 4));
    assert_eq!(purge(Scope::Prefix, "1/"), (Outcome::Purged(MANY / 2), MANY / 2, MANY / 4));
    assert_eq!(purge(Scope::All, ""), (Outcome::Purged(MANY / 4), MANY / 4, 0));
    assert_eq!(purge(Scope::All, ""), (Outcome::Purged(0), 0, 0));
    assert_eq!((catalogue.by_object(object(1)), catalogue.bytes()), (None, 0));
    let digest = catalogue.state_digest();
    drop(catalogue);
    let catalogue = Catalogue::open(folder.path()).expect("opened again");
    assert_eq!((catalogue.len(), catalogue.state_digest()), (0, digest));
}

/// `cargo test --release -p straightway-cluster catalogue::tests::many::figures -- --ignored --nocapture`
#[test]
#[ignore = "prints rates, decides nothing"]
fn figures() {
    use std::time::Instant;

    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = started(Catalogue::open(folder.path()).expect("a catalogue"));
    let rate = |what: &str, count: u64, started: Instant| {
        let took = started.elapsed();
        println!("{what}: {count} in {took:?}, {:.0} a second", count as f64 / took.as_secs_f64());
    };
    let begun = Instant::now();
    filled(&catalogue);
    rate("puts, batches of 5000, encoding included", MANY, begun);
    let begun = Instant::now();
    catalogue.sync().expect("synced");
    rate("sync", 1, begun);
    let begun = Instant::now();
    for n in 0..5000 {
        let request = RequestId { node: 1, boot: 1, serial: MANY + 1 + n };
        apply_one(&catalogue, request, Op::Put(put(&format!("{}/{n:08}", n % 2), MANY + n)));
    }
    rate("puts, one by one", 5000, begun);
    let keys: Vec<String> =
        (0..MANY).map(|n| n * 7919 % MANY).map(|n| format!("{}/{n:08}", n % 2)).collect();
    let begun = Instant::now();
    let found = keys.iter().filter(|key| catalogue.get(key).is_some()).count() as u64;
    rate("gets, one thread", found, begun);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| keys.iter().filter(|key| catalogue.get(key).is_some()).count());
        }
    });
    rate("gets, two threads", 2 * MANY, begun);
    let begun = Instant::now();
    let (bytes, _) = bytes_of(catalogue.snapshot().expect("a snapshot"));
    rate("bytes of a snapshot sent", bytes.len() as u64, begun);
    let other_folder = tempfile::tempdir().expect("a folder");
    let other = Catalogue::open(other_folder.path()).expect("a catalogue");
    let begun = Instant::now();
    install(&other, &bytes, CHUNK).expect("installed");
    rate("bytes of a snapshot received and installed", bytes.len() as u64, begun);
    drop(other);
    let begun = Instant::now();
    let other = Catalogue::open(other_folder.path()).expect("opened");
    rate("entries loaded", other.len() as u64, begun);
    for (scope, value) in [(Scope::Tag, "quarter"), (Scope::Prefix, "1/"), (Scope::All, "")] {
        let request = RequestId { node: 1, boot: 2, serial: scope as u64 };
        let begun = Instant::now();
        let applied = apply_one(&other, request, Op::Purge(Purge { scope, value: value.into() }));
        rate(&format!("purged by {scope:?}"), applied.forget.len() as u64, begun);
    }
}
