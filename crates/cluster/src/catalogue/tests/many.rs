//! Many entries at once.
use super::*;

const MANY: u64 = 100_000;
const BATCH: usize = 20_000;

fn filled(catalogue: &Catalogue) {
    let mut serial = 0;
    for from in (0..MANY).step_by(BATCH) {
        let commands: Vec<Bytes> = (from..from + BATCH as u64)
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
        run(catalogue, &inputs).expect("applied");
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

#[test]
fn a_purge_is_whole_once_it_counts_as_applied() {
    let catalogue = started(Catalogue::volatile().expect("a catalogue"));
    let mut log = Log::default();
    for n in 0..3000 {
        let tags = vec!["red".into()];
        log.push(Op::Put(Put { tags, ..put(&format!("{}/{n}", n % 2), n) }));
    }
    let mut purge = |scope, value: &str| {
        log.push(Op::Purge(Purge { scope, value: value.into() }));
        log.entries.len() as u64 + 1
    };
    let (half, rest) = (purge(Scope::Prefix, "1/"), purge(Scope::Tag, "red"));
    let seen = |until: u64, prefix: &str| {
        // Whatever is seen on the way is an entry of that key; at the end there is none.
        while catalogue.applied().index < until {
            let listed = catalogue.list(prefix, None, 16);
            assert!(listed.iter().all(|entry| entry.key.starts_with(prefix)));
        }
        catalogue.list(prefix, None, 1).len() + usize::from(catalogue.get("1/2999").is_some())
    };
    std::thread::scope(|scope| {
        let readers = [(half, "1/"), (rest, "")]
            .map(|(until, prefix)| scope.spawn(move || seen(until, prefix)));
        log.feed(&catalogue, 500);
        assert_eq!(readers.map(|reader| reader.join().expect("read")), [0, 0]);
    });
}

/// CPU time of this thread so far: other processes do not count.
fn cpu() -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let first = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    std::time::Duration::from_nanos(first.expect("a number"))
}

fn cost<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let begun = cpu();
    let done = work();
    let took = cpu().saturating_sub(begun);
    println!(
        "{what}: {count} in {took:?} of CPU, {:.2} us each",
        took.as_secs_f64() * 1e6 / count as f64
    );
    done
}

/// `cargo test -p straightway-cluster --config 'profile.dev.package.straightway-cluster.opt-level=3' --lib \
/// catalogue::tests::many::figures -- --ignored --nocapture`
#[test]
#[ignore = "prints what things cost, decides nothing"]
fn figures() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = started(Catalogue::open(folder.path()).expect("a catalogue"));
    cost("puts, encoded and applied, 20000 a batch", MANY, || filled(&catalogue));
    cost("sync", 1, || catalogue.sync().expect("synced"));
    cost("puts, one a batch", 5000, || {
        for n in 0..5000 {
            let request = RequestId { node: 1, boot: 1, serial: MANY + 1 + n };
            apply_one(&catalogue, request, Op::Put(put(&format!("{}/{n:08}", n % 2), MANY + n)));
        }
    });
    let names = (0..MANY).map(|n| n * 7919 % MANY);
    let keys: Vec<String> = names.map(|n| format!("{}/{n:08}", n % 2)).collect();
    let get = || keys.iter().filter(|key| catalogue.get(key).is_some()).count();
    cost("gets", MANY, get);
    std::thread::scope(|scope| {
        for thread in ["gets, first of two threads", "gets, second of two threads"] {
            scope.spawn(move || cost(thread, MANY, get));
        }
    });
    let send = || bytes_of(catalogue.snapshot().expect("a snapshot"));
    let (bytes, _) = cost("entries sent", MANY, send);
    let other = tempfile::tempdir().expect("a folder");
    let receiving = Catalogue::open(other.path()).expect("a catalogue");
    cost("entries received and installed", MANY, || {
        install(&receiving, &bytes, CHUNK).expect("installed");
    });
    drop(receiving);
    let open = || Catalogue::open(other.path()).expect("opened");
    let other = cost("entries loaded", MANY, open);
    for (scope, value, count) in [
        (Scope::Tag, "quarter", MANY / 4),
        (Scope::Prefix, "1/", MANY / 2),
        (Scope::All, "", MANY / 4),
    ] {
        let request = RequestId { node: 1, boot: 2, serial: scope as u64 };
        let op = Op::Purge(Purge { scope, value: value.into() });
        cost(&format!("purged by {scope:?}"), count, || apply_one(&other, request, op));
    }
}
