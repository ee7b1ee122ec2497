//! Bytes that nobody meant as commands.
use proptest::prelude::*;

use super::super::command::{self, HEADER_BYTES, VERSION};
use super::super::op::examples;
use super::super::rows;
use super::*;

/// A published layout never changes. If this fails, make a new version.
#[test]
fn layouts_are_frozen() {
    assert_eq!(command::fingerprint(), 0x050e_5f04, "{:#010x}", command::fingerprint());
    assert_eq!(rows::format(), *b"SWCT\x01\0\xc0\x60\x3b\xb6", "{:02x?}", rows::format());
    let noop = Command { request: RequestId { node: 1, boot: 2, serial: 3 }, op: Op::Noop };
    let bytes = noop.encode().expect("sound");
    assert_eq!(bytes[..8], [0xC7, 1, 0, 0x0b, 0x04, 0x5f, 0x0e, 0x05]);
    assert_eq!(
        bytes[8..32],
        [[1, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0]].concat()
    );
    assert!(bytes[32..].iter().all(|byte| *byte == 0));
}

#[test]
fn commands_come_back() {
    for op in examples() {
        let command = Command { request: RequestId { node: 1, boot: 2, serial: 3 }, op };
        let bytes = command.encode().expect("within limits");
        let seen = Command::view(&bytes).expect("sound");
        let back = rkyv::api::low::deserialize::<Command, rkyv::rancor::Failure>(seen);
        assert_eq!(back, Ok(command));
        assert_eq!(Command::request_of(&bytes), Some(RequestId { node: 1, boot: 2, serial: 3 }));
    }
}

#[test]
fn what_is_over_a_limit_is_refused_where_it_is_made_and_where_it_is_applied() {
    let text = |len| "x".repeat(len);
    let many = || vec![object(1); limits::IDS + 1];
    let none = || Holders { node: 1, gained: vec![], lost: vec![], damaged: vec![] };
    let over: Vec<Op> = vec![
        Op::Put(put("", 1)),
        Op::Put(put(&text(limits::KEY + 1), 1)),
        Op::Put(Put { content_type: text(limits::TEXT + 1), ..put("k", 1) }),
        Op::Put(Put { content_encoding: text(limits::TEXT + 1), ..put("k", 1) }),
        Op::Put(Put { tags: vec![text(1); limits::TAGS + 1], ..put("k", 1) }),
        Op::Put(Put { tags: vec![text(limits::TAG + 1)], ..put("k", 1) }),
        Op::Put(Put { tags: vec![String::new()], ..put("k", 1) }),
        Op::Put(Put { holders: vec![1; limits::HOLDERS + 1], ..put("k", 1) }),
        Op::Put(Put { copies: 65, ..put("k", 1) }),
        Op::Remove(Remove { key: String::new(), condition: Condition::Any, now_ms: 0 }),
        Op::Purge(Purge { scope: Scope::Key, value: String::new() }),
        Op::Purge(Purge { scope: Scope::Tag, value: String::new() }),
        Op::Purge(Purge { scope: Scope::Tag, value: text(limits::TAG + 1) }),
        Op::Purge(Purge { scope: Scope::Prefix, value: text(limits::KEY + 1) }),
        Op::Purge(Purge { scope: Scope::All, value: text(1) }),
        Op::Holders(Holders { gained: many(), ..none() }),
        Op::Holders(Holders { lost: many(), ..none() }),
        Op::Holders(Holders { damaged: many(), ..none() }),
        Op::Expire(Expire { now_ms: 0, objects: vec![object(1); limits::IDS + 1] }),
        Op::MemberChanged(MemberChanged {
            id: 1,
            name: text(limits::TEXT + 1),
            addresses: vec![],
            mesh: vec![],
            http: String::new(),
        }),
        Op::MemberChanged(MemberChanged {
            id: 1,
            name: String::new(),
            addresses: vec![],
            mesh: vec![text(1); limits::ADDRESSES + 1],
            http: String::new(),
        }),
    ];
    let catalogue = started(Catalogue::volatile().expect("a catalogue"));
    for (op, serial) in over.into_iter().zip(1..) {
        let command = Command { request: RequestId { node: 1, boot: 1, serial }, op };
        assert!(matches!(command.encode(), Err(ClusterError::Invalid { .. })), "{command:?}");
        let bytes = command.encode_unchecked();
        assert!(Command::view(&bytes).is_err());
        let index = catalogue.applied().index + 1;
        let input = Input { index, term: 1, what: What::Command(&bytes) };
        let applied = run(&catalogue, &[input]).expect("applied").remove(0);
        assert_eq!(applied.outcome, Outcome::Refused(Refusal::Limit), "{command:?}");
    }
    // At the limits all is well.
    let request = RequestId { node: 1, boot: 1, serial: 100 };
    let op = Op::Put(Put {
        tags: vec![text(limits::TAG); limits::TAGS],
        content_type: text(limits::TEXT),
        ..put(&text(limits::KEY), 1)
    });
    assert_eq!(apply_one(&catalogue, request, op).outcome, Outcome::Put { replaced: false });
    let ids = vec![object(1); limits::IDS];
    let op = Op::Holders(Holders { node: 1, gained: ids.clone(), lost: ids, damaged: vec![] });
    assert_eq!(
        apply_one(&catalogue, RequestId { serial: 101, ..request }, op).outcome,
        Outcome::Done
    );
}

#[test]
fn commands_of_another_release_stop_the_node_and_keep_what_came_before() {
    let mut log = Log::default();
    log.push(Op::Put(put("k", 1)));
    log.push(Op::Put(put("l", 2)));
    for (at, byte) in [(1, VERSION + 1), (3, 0x07), (5, 0xEE)] {
        let catalogue = started(Catalogue::volatile().expect("a catalogue"));
        let mut foreign = log.entries[1].to_vec();
        foreign[at] = byte;
        let input = |index, bytes| Input { index, term: 1, what: What::Command(bytes) };
        let (applied, went_on) = catalogue.apply(&[input(2, &log.entries[0]), input(3, &foreign)]);
        // What came before can be told.
        assert_eq!((applied.len(), applied[0].index), (1, 2));
        assert_eq!(applied[0].outcome, Outcome::Put { replaced: false });
        let error = went_on.expect_err("foreign");
        assert!(error.to_string().contains("same release"), "{error}");
        assert_eq!((catalogue.applied().index, catalogue.len()), (2, 1));
        // An update of the build lets it go on.
        run(&catalogue, &[input(3, &log.entries[1])]).expect("applied");
        assert_eq!(catalogue.state_digest(), log.replayed().0.state_digest());
    }
}

fn state() -> Log {
    let mut log = Log::of_three();
    log.push(ticket(TICKET));
    for serial in 1..9 {
        let tags = vec!["t".into(), "a tag that is longer than what is kept in place".into()];
        log.push(Op::Put(Put {
            tags,
            expires_ms: serial,
            ..put(&format!("key {serial}"), serial)
        }));
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn damaged_commands_are_refused_alike(
        which in 0..10_usize,
        node in 0..3_u64,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 0..5),
        cut in any::<prop::sample::Index>(),
        whole: bool,
    ) {
        let op = examples()[which].clone();
        let request = RequestId { node, boot: 2, serial: 3 };
        let mut bytes = Command { request, op }.encode().expect("sound").to_vec();
        for (at, bit) in flips {
            // The version and what stands for it are another test's.
            let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
            bytes[at] ^= 1 << bit;
        }
        if !whole {
            let len = cut.index(bytes.len());
            bytes.truncate(len);
        }
        let (one, _) = state().replayed();
        let (two, _) = state().replayed();
        let index = one.applied().index + 1;
        let input = Input { index, term: 1, what: What::Command(&bytes) };
        let applied = run(&one, &[input]).expect("applied");
        prop_assert_eq!(&applied, &run(&two, &[input]).expect("applied"));
        prop_assert_eq!(applied[0].request, Command::request_of(&bytes));
        prop_assert_eq!(one.state_digest(), two.state_digest());
        // What was applied can be kept and read back.
        let (snapshot, _) = bytes_of(one.snapshot().expect("a snapshot"));
        let other = Catalogue::volatile().expect("a catalogue");
        install(&other, &snapshot, usize::MAX).expect("installed");
        prop_assert_eq!(other.state_digest(), one.state_digest());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), genuine: bool) {
        let mut bytes = bytes;
        if genuine && bytes.len() > HEADER_BYTES {
            let noop = Command { request: RequestId::default(), op: Op::Noop }.encode().expect("sound");
            bytes[..HEADER_BYTES].copy_from_slice(&noop[..HEADER_BYTES]);
            bytes[2] %= 10;
        }
        let _ = Command::view(&bytes);
        let _ = Command::request_of(&bytes);
    }
}
