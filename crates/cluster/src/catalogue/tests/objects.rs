//! What happens to entries, one rule at a time.
use super::*;

fn events(applied: &Applied) -> Vec<(&'static str, &str)> {
    applied
        .events
        .iter()
        .map(|event| match event {
            Event::Stored(entry) => ("stored", &*entry.key),
            Event::Removed(entry) => ("removed", &*entry.key),
            Event::Expired(entry) => ("expired", &*entry.key),
            Event::Evicted(entry) => ("evicted", &*entry.key),
            Event::Purged { value, .. } => ("purged", &**value),
            Event::Joined(_) | Event::Changed(_) | Event::Left(_) => ("member", ""),
        })
        .collect()
}

#[test]
fn conditions_are_those_of_what_can_be_served() {
    use Condition::{Absent, Any, Digest, Present, Version};
    let of_nothing = [
        (Any, true),
        (Absent, true),
        (Present, false),
        (Digest([1; 32]), false),
        (Version(2), false),
    ];
    let of_one = [
        (Any, true),
        (Absent, false),
        (Present, true),
        (Digest([1; 32]), true),
        (Digest([2; 32]), false),
        (Version(2), true),
        (Version(3), false),
    ];
    // The object under the key: none; one of digest 1 at index 2; the same, expired.
    let cases = [(None, &of_nothing[..]), (Some(0), &of_one), (Some(NOW), &of_nothing)];
    for (before, conditions) in cases {
        let live = before == Some(0);
        for (condition, met) in conditions {
            let mut log = Log::default();
            match before {
                Some(expires_ms) => log.push(Op::Put(Put { expires_ms, ..put("k", 1) })),
                None => log.push(Op::Noop),
            };
            let condition = *condition;
            let removal = Op::Remove(Remove { key: "k".into(), condition, now_ms: NOW });
            let mut removing = Log { serial: log.serial, entries: log.entries.clone() };
            removing.push(removal);
            let (catalogue, applied) = removing.replayed();
            let wanted = if *met { Outcome::Removed(live) } else { Outcome::Failed };
            assert_eq!(applied[1].outcome, wanted, "{before:?} {condition:?}");
            assert_eq!(catalogue.is_empty(), *met || before.is_none());

            log.push(Op::Put(Put { condition, ..put("k", 2) }));
            let (catalogue, applied) = log.replayed();
            let wanted = if *met { Outcome::Put { replaced: live } } else { Outcome::Failed };
            assert_eq!(applied[1].outcome, wanted, "{before:?} {condition:?}");
            // Either what was there is forgotten, or what was stored for nothing.
            let forgotten = match (met, before) {
                (true, None) => vec![],
                (true, Some(_)) => vec![object(1)],
                (false, _) => vec![object(2)],
            };
            assert_eq!(applied[1].forget, forgotten);
            let there = catalogue.get("k").map(|entry| entry.object.serial);
            assert_eq!(there, if *met { Some(2) } else { before.map(|_| 1) });
        }
    }
}

#[test]
fn an_entry_is_found_by_key_object_and_prefix() {
    let mut log = Log::of_three();
    for (serial, key) in (1..).zip(["b/2", "a", "b/1", "b", "b/3", "c"]) {
        log.push(Op::Put(Put { holders: vec![3, 9, 1, 3], ..put(key, serial) }));
    }
    let (catalogue, applied) = log.replayed();
    assert_eq!(events(&applied[4]), [("stored", "b/2")]);
    assert_eq!((catalogue.len(), catalogue.bytes()), (6, 60));
    let entry = catalogue.get("b/1").expect("there");
    assert_eq!(
        (&*entry.content_type, &entry.holders[..], entry.index),
        ("text/plain", &[1, 3][..], 8)
    );
    assert_eq!(catalogue.by_object(object(3)), Some(entry));
    let keys = |prefix, after, limit| -> Vec<String> {
        let listed = catalogue.list(prefix, after, limit);
        listed.iter().map(|entry| entry.key.to_string()).collect()
    };
    assert_eq!(keys("", None, 9), ["a", "b", "b/1", "b/2", "b/3", "c"]);
    assert_eq!(keys("b/", None, 2), ["b/1", "b/2"]);
    assert_eq!(keys("b/", Some("b/2"), 9), ["b/3"]);
    assert_eq!(keys("b/", Some("a"), 1), ["b/1"]);
    assert_eq!(keys("b/", Some("c"), 9), [""; 0]);
}

#[test]
fn purges_take_what_they_name() {
    let cases = [
        (Scope::Key, "b", vec!["a", "b/1", "b/2", "c"]),
        (Scope::Key, "nothing", vec!["a", "b", "b/1", "b/2", "c"]),
        (Scope::Prefix, "b", vec!["a", "c"]),
        (Scope::Prefix, "b/", vec!["a", "b", "c"]),
        (Scope::Prefix, "", vec![]),
        (Scope::Tag, "red", vec!["a", "b/2", "c"]),
        (Scope::All, "", vec![]),
    ];
    for (scope, value, left) in cases {
        let mut log = Log::default();
        for (serial, key) in (1..).zip(["a", "b", "b/1", "b/2", "c"]) {
            let tags =
                if serial % 4 == 2 || serial == 3 { vec!["red", "blue"] } else { vec!["blue"] };
            let tags = tags.into_iter().map(String::from).collect();
            log.push(Op::Put(Put { tags, ..put(key, serial) }));
        }
        log.push(Op::Purge(Purge { scope, value: value.into() }));
        // A purged key can be put again in the same batch.
        log.push(Op::Put(put("later", 9)));
        let (catalogue, mut applied) = log.replayed();
        let purge = applied.remove(5);
        let gone = 5 - left.len();
        assert_eq!(purge.outcome, Outcome::Purged(gone as u64), "{scope:?} {value}");
        assert_eq!(events(&purge), [("purged", value)]);
        assert_eq!(purge.forget.len(), gone);
        assert!(purge.forget.iter().all(|id| catalogue.by_object(*id).is_none()));
        let keys: Vec<_> = catalogue.list("", None, 9).iter().map(|e| e.key.to_string()).collect();
        assert_eq!(keys, [left, vec!["later"]].concat());
    }
}

#[test]
fn an_object_that_nobody_holds_is_gone() {
    let mut log = Log::of_three();
    log.push(Op::Put(put("k", 1)));
    let change = |node, gained: &[u64], lost: &[u64]| {
        let ids = |serials: &[u64]| serials.iter().copied().map(object).collect();
        Op::Holders(Holders { node, gained: ids(gained), lost: ids(lost), damaged: vec![] })
    };
    let holders = |log: &Log| {
        let (catalogue, mut applied) = log.replayed();
        let holders = catalogue.get("k").map(|entry| entry.holders.to_vec());
        (holders, applied.pop().expect("applied"))
    };
    log.push(change(3, &[1, 7], &[]));
    log.push(change(2, &[1], &[]));
    let (held, last) = holders(&log);
    assert_eq!((held, last.outcome), (Some(vec![1, 2, 3]), Outcome::Done));
    // What is not in the catalogue need not be kept by whoever holds it.
    log.entries.pop();
    assert_eq!(holders(&log).1.forget, [object(7)]);
    log.push(change(1, &[], &[1, 8]));
    assert_eq!(holders(&log).0, Some(vec![3]));
    log.push(change(1, &[], &[1]));
    assert_eq!(holders(&log).0, Some(vec![3]));
    log.push(change(9, &[1], &[]));
    assert_eq!(holders(&log).1.outcome, Outcome::Refused(Refusal::UnknownMember));
    log.push(change(3, &[], &[1]));
    let (held, last) = holders(&log);
    assert_eq!(
        (held, events(&last), last.forget.clone()),
        (None, vec![("evicted", "k")], vec![object(1)])
    );
}

#[test]
fn what_has_expired_is_found_and_removed() {
    let mut log = Log::default();
    for (key, serial, expires_ms) in [("a", 1, 300), ("b", 2, 100), ("c", 3, 0), ("d", 4, 200)] {
        log.push(Op::Put(Put { expires_ms, ..put(key, serial) }));
    }
    let (catalogue, _) = log.replayed();
    assert_eq!(catalogue.expired(99, 9), []);
    assert_eq!(catalogue.expired(200, 9), [object(2), object(4)]);
    assert_eq!(catalogue.expired(900, 1), [object(2)]);
    let entry = catalogue.get("b").expect("there");
    assert!(entry.live(99) && !entry.live(100));

    // Only what has expired by the command's own clock, and is still there.
    let objects = vec![object(4), object(1), object(2), object(2), object(9), object(3)];
    let last = log.push(Op::Expire(Expire { now_ms: 200, objects }));
    let (catalogue, applied) = log.replayed();
    assert_eq!(applied[last].outcome, Outcome::Expired(2));
    assert_eq!(events(&applied[last]), [("expired", "d"), ("expired", "b")]);
    assert_eq!(applied[last].forget, [object(4), object(2)]);
    assert_eq!(catalogue.expired(900, 9), [object(1)]);
}

#[test]
fn objects_belong_to_one_key_and_have_a_holder() {
    let mut log = Log::default();
    log.push(Op::Put(put("k", 1)));
    let stolen = log.push(Op::Put(put("other", 1)));
    let again = log.push(Op::Put(Put { len: 11, ..put("k", 1) }));
    let unheld = log.push(Op::Put(Put { holders: vec![7], ..put("k", 2) }));
    let (catalogue, applied) = log.replayed();
    assert_eq!(applied[stolen].outcome, Outcome::Refused(Refusal::ObjectInUse));
    assert_eq!(applied[stolen].forget, []);
    assert_eq!(applied[again].outcome, Outcome::Put { replaced: true });
    assert_eq!(applied[again].forget, []);
    assert_eq!(applied[unheld].outcome, Outcome::Refused(Refusal::UnknownMember));
    assert_eq!(applied[unheld].forget, [object(2)]);
    assert_eq!((catalogue.len(), catalogue.bytes()), (1, 11));
}
