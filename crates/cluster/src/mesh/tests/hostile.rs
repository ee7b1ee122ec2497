//! Datagrams that no honest peer sends, or that come when they should not.
use proptest::prelude::*;
use straightway_packet::overlay::{Control, Heartbeat, Message, PacketType};

use super::super::seal::Keys;
use super::super::{Datagram, MAX_PEERS, Mesh, MeshConfig, Reject, mac_address};
use super::network::{Kept, addr, key, mesh, secret};
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::lease::BootTime;

const NOW: BootTime = BootTime(1_000_000_000);

/// The heartbeats that a mesh sends.
fn heartbeats(mesh: &mut Mesh, now: BootTime) -> Vec<Vec<u8>> {
    let mut kept = Kept::default();
    mesh.tick(now, &mut kept);
    kept.datagrams.into_iter().map(|(_, bytes)| bytes).collect()
}

/// What becomes of a datagram, and what is sent because of it.
fn give(mesh: &mut Mesh, bytes: &[u8], from: RaftId) -> (Result<(), Reject>, Kept) {
    let mut kept = Kept::default();
    (mesh.received(bytes, addr(from), NOW, &mut kept), kept)
}

/// A message of `from` to `to`, sealed as `from` seals.
fn sealed(
    from: RaftId,
    to: RaftId,
    change: impl FnOnce(&mut Heartbeat, &mut Message<'_>),
) -> Vec<u8> {
    let (me, you) = (mac_address(&key(from)), mac_address(&key(to)));
    let mut heartbeat = Heartbeat { duration_ms: 5, id: 1, hops: 0, source: me };
    let mut message = Message::new(me, you, PacketType::Control(Control::Heartbeat(heartbeat)));
    change(&mut heartbeat, &mut message);
    if let PacketType::Control(Control::Heartbeat(inner)) = &mut message.packet {
        *inner = heartbeat;
    }
    let mut datagram = Datagram::new();
    datagram.fill_with(|room| message.write_to(room)).unwrap();
    let mut keys = Keys::new(secret(from, to), from, to);
    keys.seal(&mut datagram, from).unwrap();
    datagram.to_vec()
}

#[test]
fn heartbeats_have_79_bytes_and_answers_85() {
    let (mut a, mut b) = (mesh(1, 2), mesh(2, 2));
    let sent = heartbeats(&mut a, NOW);
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [79]);
    let (taken, kept) = give(&mut b, &sent[0], 1);
    assert_eq!((taken, kept.datagrams.len(), kept.datagrams[0].0), (Ok(()), 1, addr(1)));
    assert_eq!(kept.datagrams[0].1.len(), 85);
    assert_eq!(give(&mut a, &kept.datagrams[0].1, 2).0, Ok(()));
    assert_eq!(a.status(2).unwrap().answered, 1);
}

#[test]
fn each_refusal_has_its_reason_and_changes_nothing() {
    let (mut a, mut b) = (mesh(1, 3), mesh(2, 3));
    let first = heartbeats(&mut a, NOW).remove(0);
    assert_eq!(give(&mut b, &first, 1).0, Ok(()));
    let before = b.status(1);
    let mut refused = |bytes: &[u8], from, why| {
        let (taken, kept) = give(&mut b, bytes, from);
        assert_eq!((taken, kept.datagrams.len()), (Err(why), 0));
        assert_eq!(b.rejected().of(why), 1);
        assert_eq!(b.status(1), before);
    };
    refused(&first, 1, Reject::Replayed);
    refused(&first[..78], 1, Reject::Length);
    let mut bytes = sealed(1, 2, |_, _| {});
    bytes[46] = 2;
    refused(&bytes, 1, Reject::Version);
    // What 2 itself sent to 1 comes back.
    refused(&sealed(2, 1, |_, _| {}), 1, Reject::Reflected);
    refused(&sealed(9, 2, |_, _| {}), 9, Reject::Unknown);
    // Of 1 for 3, and 2 for 1 with the sender changed: made under keys that 2 does not take from 1.
    refused(&sealed(1, 3, |_, _| {}), 1, Reject::Forged);
}

#[test]
fn a_reflected_datagram_is_refused_whatever_it_says_of_its_sender() {
    let (mut a, mut b) = (mesh(1, 2), mesh(2, 2));
    let mut own = heartbeats(&mut a, NOW).remove(0);
    assert_eq!(give(&mut a, &own, 2).0, Err(Reject::Reflected));
    own[46 + 9..46 + 17].copy_from_slice(&2u64.to_be_bytes());
    assert_eq!(give(&mut a, &own, 2).0, Err(Reject::Forged));
    assert_eq!(give(&mut b, &own, 1).0, Err(Reject::Reflected));
}

#[test]
fn members_that_lie_are_refused() {
    // Each under a counter of its own: the first of a fresh pair.
    let lie = |from: RaftId, change: fn(&mut Heartbeat, &mut Message<'_>)| {
        let mut mesh = mesh(2, 4);
        let (taken, kept) = give(&mut mesh, &sealed(from, 2, change), from);
        assert!(kept.datagrams.is_empty());
        taken.unwrap_err()
    };
    let other = mac_address(&key(3));
    assert_eq!(other.0[0] & 3, 2, "locally administered, of one host");
    assert_eq!(lie(1, |_, message| message.from = mac_address(&key(3))), Reject::Misaddressed);
    assert_eq!(
        lie(1, |heartbeat, _| heartbeat.source = mac_address(&key(3))),
        Reject::Misaddressed
    );
    assert_eq!(
        lie(1, |heartbeat, _| heartbeat.source = mac_address(&key(9))),
        Reject::Misaddressed
    );
    assert_eq!(lie(1, |heartbeat, _| heartbeat.hops = 1), Reject::Misaddressed);
    assert_eq!(lie(1, |_, message| message.to = mac_address(&key(9))), Reject::Misaddressed);
    assert_eq!(lie(1, |_, message| message.to = mac_address(&key(3))), Reject::NoWay);
    let far = |heartbeat: &mut Heartbeat, message: &mut Message<'_>| {
        (heartbeat.hops, message.to) = (3, mac_address(&key(3)));
    };
    assert_eq!(lie(1, far), Reject::TooFar);
    let reply = |heartbeat: &mut Heartbeat, message: &mut Message<'_>| {
        let reply = heartbeat.reply(message.from);
        message.packet = PacketType::Control(Control::HeartbeatReply(reply));
    };
    assert_eq!(lie(1, reply), Reject::Misaddressed, "an answer to its own heartbeat");
    let unasked = |heartbeat: &mut Heartbeat, message: &mut Message<'_>| {
        heartbeat.source = mac_address(&key(2));
        let reply = heartbeat.reply(message.from);
        message.packet = PacketType::Control(Control::HeartbeatReply(reply));
    };
    assert_eq!(lie(1, unasked), Reject::Unasked);
}

#[test]
fn secrets_change_without_a_gap_and_old_ones_end() {
    let (mut a, mut b) = (mesh(1, 2), mesh(2, 2));
    let late = heartbeats(&mut a, NOW).remove(0);
    for n in 1..=3u8 {
        b.secret(1, [n; 32]);
        let sent = heartbeats(&mut a, NOW).remove(0);
        assert_eq!(give(&mut b, &sent, 1).0, Ok(()), "the other end has not changed over");
        a.secret(2, [n; 32]);
        a.secret(2, [n; 32]);
        let sent = heartbeats(&mut a, NOW).remove(0);
        assert_eq!(give(&mut b, &sent, 1).0, Ok(()));
        assert_eq!(give(&mut b, &sent, 1).0, Err(Reject::Replayed));
    }
    assert_eq!(give(&mut b, &late, 1).0, Ok(()), "late, of a secret that is still held");
    b.secret(1, [4; 32]);
    assert_eq!(give(&mut b, &late, 1).0, Err(Reject::Forged));
    b.forget(1);
    assert_eq!(give(&mut b, &late, 1).0, Err(Reject::Unknown));
    b.peer(1, &key(1), None).unwrap();
    assert_eq!(give(&mut b, &late, 1).0, Err(Reject::Unkeyed));
}

#[test]
fn a_peer_without_an_address_is_found_where_it_is_heard() {
    let (mut a, mut b) = (mesh(1, 2), Mesh::new(MeshConfig::new(2, key(2))));
    b.peer(1, &key(1), None).unwrap();
    b.secret(1, secret(1, 2));
    assert!(heartbeats(&mut b, NOW).is_empty());
    let sent = heartbeats(&mut a, NOW).remove(0);
    let mut forged = sent.clone();
    forged[0] ^= 1;
    assert_eq!(give(&mut b, &forged, 9).0, Err(Reject::Forged));
    assert_eq!(give(&mut b, &sent, 1).0, Ok(()));
    let mut kept = Kept::default();
    b.tick(NOW, &mut kept);
    assert_eq!(kept.datagrams[0].0, addr(1));
}

#[test]
fn peers_are_bounded_and_nobody_is_its_own_peer() {
    let mut mesh = Mesh::new(MeshConfig::new(1, key(1)));
    assert!(matches!(mesh.peer(1, &key(2), None), Err(ClusterError::Config { .. })));
    assert!(matches!(mesh.peer(2, &key(1), None), Err(ClusterError::Config { .. })));
    for id in 2..MAX_PEERS as u64 + 2 {
        mesh.peer(id, &key(id), None).unwrap();
    }
    assert!(matches!(mesh.peer(200, &key(200), None), Err(ClusterError::Busy { .. })));
    mesh.peer(2, &key(2), Some(addr(2))).unwrap();
}

proptest! {
    /// Nothing from outside panics, is answered, or costs an honest peer anything.
    #[test]
    fn noise_changes_nothing(
        noise in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..120), 0..4usize, 0..85usize), 1..40),
    ) {
        let (mut a, mut b) = (mesh(1, 2), mesh(2, 2));
        let sent = heartbeats(&mut a, NOW).remove(0);
        let mut refused = 0;
        for (bytes, kind, at) in noise {
            let bytes = match kind {
                0 => bytes,
                // The right length, and the right version and sender.
                1 | 2 => {
                    let mut whole = vec![0; if kind == 1 { 79 } else { 85 }];
                    whole.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
                    let trailer = whole.len() - 33;
                    whole[trailer] = 1;
                    whole[trailer + 9..trailer + 17].copy_from_slice(&1u64.to_be_bytes());
                    whole
                }
                _ => {
                    let mut bent = sent.clone();
                    bent[at % 79] ^= bytes.first().copied().unwrap_or(1) | 1;
                    bent
                }
            };
            let (taken, kept) = give(&mut b, &bytes, 9);
            prop_assert!(taken.is_err() && kept.datagrams.is_empty() && kept.events.is_empty());
            refused += 1;
        }
        prop_assert_eq!(b.rejected().total(), refused);
        prop_assert_eq!(give(&mut b, &sent, 1).0, Ok(()));
        prop_assert!(!matches!(b.status(1).unwrap().reach, super::super::Reach::Suspect));
    }
}
