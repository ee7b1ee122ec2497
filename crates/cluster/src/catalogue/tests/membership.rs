//! Tickets, members, and requests that come twice.
use super::*;

fn request(node: RaftId, boot: u64, serial: u64) -> RequestId {
    RequestId { node, boot, serial }
}

#[test]
fn a_ticket_lets_one_node_in() {
    let mut log = Log::default();
    let issued = log.push(ticket(TICKET));
    let joined = log.push(join(2, TICKET));
    let again = log.push(join(2, TICKET));
    let second = log.push(join(3, TICKET));
    let unknown = log.push(join(3, [9; 32]));
    let late = log.push(ticket([8; 32]));
    let Op::Join(in_time) = join(3, [8; 32]) else { unreachable!() };
    let expired = log.push(Op::Join(Join { now_ms: NOW + 1000, ..in_time }));
    let twice = log.push(ticket([8; 32]));
    let (catalogue, applied) = log.replayed();
    let outcome = |at: usize| applied[at].outcome;
    assert_eq!((outcome(issued), outcome(late)), (Outcome::Done, Outcome::Done));
    assert_eq!(
        (outcome(joined), outcome(again)),
        (Outcome::Joined { id: 2 }, Outcome::Joined { id: 2 })
    );
    assert!(matches!(&applied[joined].events[..], [Event::Joined(member)] if member.id == 2));
    assert_eq!(applied[again].events, []);
    for (at, refusal) in [
        (second, Refusal::TicketUsed),
        (unknown, Refusal::TicketUnknown),
        (expired, Refusal::TicketExpired),
        (twice, Refusal::TicketUsed),
    ] {
        assert_eq!(outcome(at), Outcome::Refused(refusal));
    }
    assert_eq!(catalogue.ticket(&TICKET).expect("kept").used_by, Some(2));
    assert_eq!(catalogue.tickets().len(), 2);
    let member = catalogue.member_by_key(&NodeKey([2; 32])).expect("a member");
    assert_eq!((member.id, &*member.name, member.joined), (2, "node 2", 3));
    assert_eq!(catalogue.member(2), Some(member));
}

#[test]
fn numbers_are_never_given_twice() {
    let mut log = Log::of_three();
    let left = log.push(Op::Forget(Forget { id: 3 }));
    log.push(ticket(TICKET));
    let back = log.push(join(3, TICKET));
    let none = log.push(Op::Forget(Forget { id: 3 }));
    let (catalogue, applied) = log.replayed();
    assert_eq!(applied[left].outcome, Outcome::Done);
    assert!(matches!(&applied[left].events[..], [Event::Left(member)] if member.id == 3));
    assert_eq!(applied[back].outcome, Outcome::Joined { id: 4 });
    assert_eq!(applied[none].outcome, Outcome::Refused(Refusal::UnknownMember));
    let ids: Vec<_> = catalogue.members().iter().map(|member| member.id).collect();
    assert_eq!(ids, [1, 2, 4]);
}

#[test]
fn a_wiped_disk_and_a_copied_folder_are_told_apart() {
    let mut log = Log::of_three();
    log.push(ticket(TICKET));
    let Op::Join(two) = join(2, TICKET) else { unreachable!() };
    let wiped = log.push(Op::Join(Join { storage: StorageId([9; 16]), ..two.clone() }));
    let copied = log.push(Op::Join(Join { key: NodeKey([9; 32]), ..two.clone() }));
    // A member that was handed a fresh ticket is what it is.
    let fresh = log.push(Op::Join(two));
    let (catalogue, applied) = log.replayed();
    assert_eq!(applied[wiped].outcome, Outcome::Refused(Refusal::KeyInUse));
    assert_eq!(applied[copied].outcome, Outcome::Refused(Refusal::StorageInUse));
    assert_eq!(applied[fresh].outcome, Outcome::Joined { id: 2 });
    assert_eq!(catalogue.ticket(&TICKET).expect("kept").used_by, Some(2));
    assert_eq!(catalogue.members().len(), 3);
}

#[test]
fn tickets_are_bounded_and_dropped_when_they_have_expired() {
    let mut log = Log::default();
    let hash = |n: usize| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        hash
    };
    for n in 0..=limits::TICKETS {
        log.push(ticket(hash(n)));
    }
    let (_, applied) = log.replayed();
    assert_eq!(applied[limits::TICKETS - 1].outcome, Outcome::Done);
    assert_eq!(applied[limits::TICKETS].outcome, Outcome::Refused(Refusal::TooManyTickets));
    let later = TicketIssued {
        hash: TICKET,
        now_ms: NOW + 1000,
        expires_ms: NOW + 2000,
        uses: 2,
        role: Role::Learner,
    };
    log.push(Op::TicketIssued(later));
    let (catalogue, _) = log.replayed();
    let ticket = Ticket {
        hash: TICKET,
        expires_ms: NOW + 2000,
        role: Role::Learner,
        left: 2,
        used_by: None,
    };
    assert_eq!(catalogue.tickets(), [ticket]);
}

#[test]
fn members_are_bounded() {
    let mut log = Log::default();
    for node in 2..=65 {
        log.push(ticket([node; 32]));
        log.push(join(node, [node; 32]));
    }
    let (catalogue, applied) = log.replayed();
    let last = applied.last().expect("applied");
    assert_eq!(last.outcome, Outcome::Refused(Refusal::TooManyMembers));
    assert_eq!(catalogue.members().len(), limits::MEMBERS);
    // The ticket is good for when there is room.
    assert_eq!(catalogue.ticket(&[65; 32]).expect("kept").used_by, None);
}

#[test]
fn a_member_that_leaves_takes_what_only_it_held() {
    let mut log = Log::of_three();
    log.push(Op::Put(Put { holders: vec![2], ..put("only", 1) }));
    log.push(Op::Put(Put { holders: vec![1, 2], copies: 2, ..put("both", 2) }));
    // With enough holders that are left nothing is missing.
    log.push(Op::Put(Put { holders: vec![1, 2, 3], copies: 2, ..put("all", 4) }));
    log.push_as(request(2, 1, 1), Op::Noop);
    let left = log.push(Op::Forget(Forget { id: 2 }));
    let after = log.push_as(request(2, 1, 2), Op::Put(put("late", 3)));
    let (catalogue, applied) = log.replayed();
    assert_eq!(applied[left].forget, [object(1)]);
    let short = catalogue.short(.., 2);
    assert_eq!(short.len(), 1);
    assert_eq!((short[0].object, short[0].missing()), (object(2), 1), "it is to be copied anew");
    assert!(catalogue.short(short[0].index + 1.., 2).is_empty());
    assert!(
        matches!(&applied[left].events[..], [Event::Left(_), Event::Evicted(entry)] if &*entry.key == "only")
    );
    assert_eq!(catalogue.get("both").expect("held").holders[..], [1]);
    assert_eq!(applied[after].outcome, Outcome::Refused(Refusal::NotAMember));
    assert_eq!(applied[after].forget, [object(3)]);

    let alone = started(Catalogue::volatile().expect("a catalogue"));
    let last = apply_one(&alone, request(1, 1, 1), Op::Forget(Forget { id: 1 }));
    assert_eq!(last.outcome, Outcome::Refused(Refusal::LastMember));
}

#[test]
fn a_change_of_address_is_told_once() {
    let mut log = Log::of_three();
    let change = |id| {
        Op::MemberChanged(MemberChanged {
            id,
            name: "renamed".into(),
            addresses: vec!["198.51.100.1:1".into()],
            mesh: vec!["198.51.100.1:2".into()],
            http: "http://198.51.100.1".into(),
        })
    };
    let changed = log.push(change(2));
    let same = log.push(change(2));
    let unknown = log.push(change(7));
    let (catalogue, applied) = log.replayed();
    let member = catalogue.member(2).expect("a member");
    assert_eq!(
        (&*member.name, &*member.mesh[0], member.key),
        ("renamed", "198.51.100.1:2", NodeKey([2; 32]))
    );
    assert_eq!(applied[changed].events, [Event::Changed(member)]);
    assert_eq!((applied[same].outcome, applied[same].events.len()), (Outcome::Done, 0));
    assert_eq!(applied[unknown].outcome, Outcome::Refused(Refusal::UnknownMember));
}

#[test]
fn a_request_takes_effect_once() {
    let catalogue = started(Catalogue::volatile().expect("a catalogue"));
    let apply = |serial, boot, op| apply_one(&catalogue, request(1, boot, serial), op);
    let purge = Op::Purge(Purge { scope: Scope::All, value: String::new() });
    assert_eq!(apply(1, 5, Op::Put(put("a", 1))).outcome, Outcome::Put { replaced: false });
    let purged = apply(2, 5, purge.clone());
    assert_eq!((purged.outcome, purged.duplicate), (Outcome::Purged(1), false));
    assert_eq!(apply(3, 5, Op::Put(put("b", 2))).outcome, Outcome::Put { replaced: false });

    // Proposed again behind what came later: the same answer, and nothing happens.
    let again = apply(2, 5, purge);
    assert_eq!((again.outcome, again.duplicate), (Outcome::Purged(1), true));
    assert_eq!((again.events.len(), again.forget.len(), catalogue.len()), (0, 0, 1));
    let again = apply(1, 5, Op::Put(put("a", 1)));
    assert_eq!((again.outcome, again.forget.len()), (Outcome::Put { replaced: false }, 0));
    assert_eq!(catalogue.get("a"), None);
    // A failure is an answer too.
    let absent = Put { condition: Condition::Absent, ..put("b", 3) };
    assert_eq!(apply(4, 5, Op::Put(absent.clone())).outcome, Outcome::Failed);
    catalogue.get("b").expect("there");
    let removal = Remove { key: "b".into(), condition: Condition::Any, now_ms: NOW };
    assert_eq!(apply(5, 5, Op::Remove(removal)).outcome, Outcome::Removed(true));
    assert_eq!(apply(4, 5, Op::Put(absent)).outcome, Outcome::Failed);

    // Another start begins anew, and what the last one asked is refused from then on.
    assert_eq!(apply(1, 6, Op::Noop).outcome, Outcome::Done);
    let old = apply(9, 5, Op::Put(put("late", 9)));
    assert_eq!((old.outcome, old.forget), (Outcome::Refused(Refusal::OldBoot), vec![object(9)]));
}

#[test]
fn answers_are_bounded() {
    let window = limits::WINDOW as u64;
    let catalogue = started(Catalogue::volatile().expect("a catalogue"));
    let apply = |serials: std::ops::RangeInclusive<u64>| {
        let from = catalogue.applied().index + 1;
        let commands: Vec<_> = serials
            .map(|serial| {
                Command { request: request(1, 1, serial), op: Op::Noop }.encode().expect("sound")
            })
            .collect();
        let inputs: Vec<_> = commands
            .iter()
            .zip(from..)
            .map(|(bytes, index)| Input { index, term: 1, what: What::Command(bytes) })
            .collect();
        run(&catalogue, &inputs).expect("applied")
    };
    // In any order, as long as none is further behind than what may be in flight.
    apply(2..=window + 1);
    assert_eq!(apply(1..=1)[0].outcome, Outcome::Done);
    assert_eq!(apply(1..=1)[0].outcome, Outcome::Refused(Refusal::Forgotten));
    assert!(apply(2..=2)[0].duplicate);
    apply(window + 2..=2 * window + 1);
    assert_eq!(apply(window + 1..=window + 1)[0].outcome, Outcome::Refused(Refusal::Forgotten));
    assert!(apply(window + 2..=window + 2)[0].duplicate);
}

#[test]
fn a_ticket_for_two_lets_two_in_and_no_third() {
    let mut log = Log::default();
    log.push(Op::TicketIssued(TicketIssued {
        hash: TICKET,
        now_ms: NOW,
        expires_ms: NOW + 1000,
        uses: 2,
        role: Role::Voter,
    }));
    for node in [2, 3, 2, 4] {
        log.push(join(node, TICKET));
    }
    let (_, applied) = log.replayed();
    let outcomes: Vec<_> = applied[1..].iter().map(|applied| applied.outcome).collect();
    assert_eq!(outcomes[..2], [Outcome::Joined { id: 2 }, Outcome::Joined { id: 3 }]);
    // Asked again is answered again, and takes no place.
    assert_eq!(outcomes[2], Outcome::Joined { id: 2 });
    assert_eq!(outcomes[3], Outcome::Refused(Refusal::TicketUsed));
}
