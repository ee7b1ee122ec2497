//! Our codec against the library's, byte for byte, and against bytes that nobody should send.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod messages;

use std::path::Path;

use bytes::{Bytes, BytesMut};
use messages::{an_entry, append, conf_state, entry, heartbeat, message, number, of, snapshot};
use proptest::collection::vec;
use proptest::prelude::*;
use protobuf::Message as _;
use raft::prelude::*;
use straightway_wire::raft::*;
use straightway_wire::{Segments, WireError};

fn fast(bytes: impl IntoWireBytes) -> Result<Message, WireError> {
    deserialize_raft_message_fast(bytes)
}

/// Every form that we write.
fn forms(message: &Message) -> Vec<Vec<u8>> {
    let mut vector = b"before".to_vec();
    serialize_raft_message_into(message, &mut vector).expect("encoded");
    let mut buffer = BytesMut::new();
    serialize_raft_message_into(message, &mut buffer).expect("encoded");
    let mut forms = vec![
        serialize_raft_message_fast(message).expect("encoded").to_vec(),
        vector.split_off(6),
        buffer.to_vec(),
    ];
    for cut in [0, 1, 512] {
        let mut segments = Segments::new(cut);
        serialize_raft_message_vectored(message, &mut segments).expect("encoded");
        forms.push(segments.finish().concat());
    }
    forms
}

proptest! {
    #[test]
    fn the_library_writes_what_we_write_and_reads_it(message in message()) {
        let theirs = message.write_to_bytes().expect("encoded");
        prop_assert_eq!(encoded_len(&message), theirs.len());
        for ours in forms(&message) {
            prop_assert_eq!(&ours, &theirs);
        }
        let mut back = Message::default();
        back.merge_from_bytes(&theirs).expect("sound");
        prop_assert_eq!(&back, &message);
        let shared = Bytes::from(theirs);
        prop_assert_eq!(&fast(&shared).expect("sound"), &message);
        prop_assert_eq!(&fast(&shared[..]).expect("sound"), &message);
        prop_assert_eq!(&fast(shared).expect("sound"), &message);
    }

    #[test]
    fn so_with_every_other_record(
        entry in entry(), snapshot in snapshot(), state in conf_state(), numbers in prop::array::uniform3(number()),
        changes in vec((0..3_usize, number()), 0..17), transition in 0..3_usize, context in messages::bytes(20),
    ) {
        const TYPES: [ConfChangeType; 3] = [ConfChangeType::AddNode, ConfChangeType::RemoveNode, ConfChangeType::AddLearnerNode];
        const TRANSITIONS: [ConfChangeTransition; 3] = [ConfChangeTransition::Auto, ConfChangeTransition::Implicit, ConfChangeTransition::Explicit];
        let [term, vote, commit] = numbers;
        let hard = HardState { term, vote, commit, ..HardState::default() };
        let one = ConfChange { change_type: TYPES[transition], node_id: vote, id: term, context: context.clone(), ..ConfChange::default() };
        let changes: Vec<_> = changes.into_iter().map(|(kind, node_id)| ConfChangeSingle { change_type: TYPES[kind], node_id, ..ConfChangeSingle::default() }).collect();
        let several = ConfChangeV2 { transition: TRANSITIONS[transition], changes: changes.into(), context, ..ConfChangeV2::default() };
        macro_rules! same {
            ($value:ident, $encode:ident, $decode:ident) => {
                let bytes = $encode(&$value);
                prop_assert_eq!(&bytes[..], &$value.write_to_bytes().expect("encoded")[..]);
                prop_assert_eq!($decode(&bytes).expect("sound"), $value);
            };
        }
        same!(entry, encode_entry, decode_entry);
        same!(snapshot, encode_snapshot, decode_snapshot);
        same!(state, encode_conf_state, decode_conf_state);
        same!(hard, encode_hard_state, decode_hard_state);
        let older = decode_conf_change(EntryType::EntryConfChange, &encode_conf_change_v1(&one)).expect("sound");
        prop_assert_eq!(&older.changes[0].node_id, &one.node_id);
        prop_assert_eq!(older.changes[0].change_type, one.change_type);
        prop_assert_eq!(&older.context, &one.context);
        let newer = decode_conf_change(EntryType::EntryConfChangeV2, &encode_conf_change_v2(&several)).expect("sound");
        prop_assert_eq!(&newer, &several);
        same!(one, encode_conf_change_v1, decode_conf_change_v1);
        same!(several, encode_conf_change_v2, decode_conf_change_v2);
    }

    #[test]
    fn what_we_take_the_library_takes_for_the_same(noise in vec(any::<u8>(), 0..60), message in message(), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<prop::sample::Index>()) {
        let mut damaged = message.write_to_bytes().expect("encoded");
        for (at, byte) in flips {
            if !damaged.is_empty() {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
        }
        let cut = damaged[..cut.index(damaged.len() + 1)].to_vec();
        for bytes in [noise, damaged, cut] {
            if let Ok(ours) = fast(&bytes) {
                let mut theirs = Message::default();
                theirs.merge_from_bytes(&bytes).expect("what we take is sound");
                // They keep what they do not know; written by us it is gone.
                prop_assert_eq!(serialize_raft_message_fast(&ours).expect("encoded"), serialize_raft_message_fast(&theirs).expect("encoded"));
            }
        }
    }
}

fn golden() -> Vec<(&'static str, Message)> {
    let mut snapshot = of(MessageType::MsgSnapshot, 9);
    let metadata = snapshot.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (5000, 8);
    let state = metadata.mut_conf_state();
    (state.voters, state.voters_outgoing) = (vec![1, 2, 3], vec![1, 2, 300]);
    (state.learners, state.learners_next, state.auto_leave) = (vec![5], vec![300], true);
    snapshot.mut_snapshot().data = Bytes::from_static(b"where the state is");
    let vote = Message {
        log_term: 6,
        index: 1064,
        commit: 1000,
        commit_term: 6,
        context: Bytes::from_static(b"CampaignTransfer"),
        ..of(MessageType::MsgRequestVote, 8)
    };
    let reject = Message {
        index: 1064,
        log_term: 5,
        reject: true,
        reject_hint: 1003,
        commit: 990,
        ..of(MessageType::MsgAppendResponse, 8)
    };
    let change = ConfChangeSingle { node_id: 4, ..ConfChangeSingle::default() };
    let change = ConfChangeV2 { changes: vec![change].into(), ..ConfChangeV2::default() };
    let mut members = of(MessageType::MsgAppend, 8);
    members.mut_entries().push(Entry {
        entry_type: EntryType::EntryConfChangeV2,
        data: encode_conf_change_v2(&change),
        ..an_entry(1, 8)
    });
    let every = Message {
        msg_type: MessageType::MsgRequestPreVoteResponse,
        to: u64::MAX,
        from: 1 << 63,
        commit_term: 1,
        request_snapshot: 300,
        deprecated_priority: 127,
        priority: -1,
        ..reject.clone()
    };
    vec![
        ("heartbeat", heartbeat()),
        ("append-1x64", append(1, 64)),
        ("append-3x1024", append(3, 1024)),
        ("snapshot", snapshot),
        ("vote", vote),
        ("reject", reject),
        ("members", members),
        ("every-field", every),
    ]
}

/// `WRITE_GOLDEN=1` writes them anew, which is a change of the format.
#[test]
fn the_bytes_on_the_wire_stay_what_they_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (name, message) in golden() {
        let path = folder.join(format!("raft-{name}.bin"));
        if std::env::var_os("WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(&folder).expect("made");
            std::fs::write(&path, message.write_to_bytes().expect("encoded")).expect("written");
        }
        let bytes = Bytes::from(std::fs::read(&path).expect("a golden file"));
        assert_eq!(serialize_raft_message_fast(&message).expect("encoded"), bytes, "{name}");
        assert_eq!(fast(bytes).expect("sound"), message, "{name}");
    }
}

fn refused(bytes: &[u8]) -> String {
    match fast(bytes) {
        Err(WireError::Invalid { what: "a Raft message", reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_fields_are_skipped_and_nothing_that_nests() {
    let known = heartbeat().write_to_bytes().expect("encoded");
    let unknown: [&[u8]; 5] = [
        &[0x88, 0x01, 0x05],                               // 17: a number
        &[0x91, 0x01, 1, 2, 3, 4, 5, 6, 7, 8],             // 18: 64 bits
        &[0x9a, 0x01, 3, 0x7b, 0x7b, 0x7b],                // 19: bytes, whatever they say
        &[0xa5, 0x01, 1, 2, 3, 4],                         // 20: 32 bits
        &[0xf8, 0xff, 0xff, 0xff, 0x0f, 0x80, 0x80, 0x01], // the last number there is
    ];
    for field in unknown {
        assert_eq!(fast(&[field, &known].concat()).expect("sound"), heartbeat());
        assert_eq!(fast(&[&known, field].concat()).expect("sound"), heartbeat());
    }
    // A million groups within one another.
    assert!(refused(&[0x8b, 0x01].repeat(1_000_000)).contains("group"));
    assert!(refused(&[0x8c, 0x01]).contains("group"));
    assert!(refused(&[0x8e, 0x01]).contains("no number"));
    assert!(refused(&[0x00, 0x01]).contains("no number"));
    assert!(refused(&[0x80, 0x80, 0x80, 0x80, 0x10, 0]).contains("no number"), "a tag of 33 bits");
}

#[test]
fn what_is_not_of_its_type_is_refused() {
    assert!(refused(&[0x08, 99]).contains("enumeration"));
    assert!(
        refused(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])
            .contains("enumeration")
    );
    assert!(refused(&[0x3a, 2, 0x08, 3]).contains("enumeration"), "type of an entry");
    assert!(refused(&[0x0d, 1, 2, 3, 4]).contains("another type"));
    assert!(refused(&[0x38, 1]).contains("another type"), "an entry that is a number");
    assert!(refused(&[0x4a, 4, 0x12, 2, 0x10]).contains("within"));
    assert!(refused(&[0x4a, 0, 0x4a, 0]).contains("twice"));
    assert!(refused(&[0x4a, 4, 0x12, 0, 0x12, 0]).contains("twice"));
    assert!(refused(&[0x18]).contains("within"));
    assert!(refused(&[[0x18].as_slice(), &[0x80; 10], &[1]].concat()).contains("64 bits"));
}

#[test]
fn counts_are_limited() {
    let entry = [0x3a, 2, 0x18, 1];
    let most = [&[0x08, 3], entry.repeat(MAX_ENTRIES).as_slice()].concat();
    assert_eq!(fast(&most).expect("sound").entries.len(), MAX_ENTRIES);
    assert!(refused(&[most.as_slice(), &entry].concat()).contains("more entries"));
    // The same apart from one another.
    let apart = [0x08, 3, 0x3a, 2, 0x18, 1].repeat(MAX_ENTRIES + 1);
    assert!(refused(&apart).contains("more entries"));
    // What takes more memory than it has bytes.
    assert_eq!(memory_of(&most), most.len() + MAX_ENTRIES * size_of::<Entry>());
    assert_eq!(memory_of(&most[..9]), 9 + size_of::<Entry>(), "as far as it goes");
    assert!(refused(&[0x08, 3, 0x3a, 0]).contains("says nothing"));
    assert!(refused(&[0x08, 3, 0x3a, 2, 0x28, 1]).contains("says nothing"));
    let read = [&[0x08, 15], entry.repeat(2).as_slice()].concat();
    assert!(fast(&read[..6]).is_ok());
    assert!(refused(&read).contains("more than one"));
    let members = |count| {
        encode_conf_state(&ConfState { voters: (1..=count).collect(), ..ConfState::default() })
    };
    assert!(decode_conf_state(members(64)).is_ok());
    assert!(decode_conf_state(members(65)).is_err());
    let packed: Vec<u8> = [0x0a, 65].into_iter().chain(1..=65).collect();
    assert!(decode_conf_state(&packed).is_err());
    assert_eq!(
        decode_conf_state(&[0x0a, 3, 1, 2, 3, 0x22, 1, 9]).expect("packed").voters,
        [1, 2, 3]
    );
    let changes = |count| [0x12, 0].repeat(count);
    assert!(decode_conf_change_v2(&changes(16)).is_ok());
    assert!(decode_conf_change_v2(&changes(17)).is_err());
    assert!(decode_conf_change(EntryType::EntryNormal, &Bytes::new()).is_err());
}
