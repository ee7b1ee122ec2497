//! When the leader grants, and when it lets a purge be acknowledged.
use super::super::{Ask, BootTime, Grant, LENGTH, LeaseTable, Wait, recorded};

fn at(ms: u64) -> BootTime {
    BootTime(ms * 1_000_000)
}

fn ask(seq: u64, applied: u64) -> Ask {
    Ask { seq, applied }
}

/// A leader of three since moment 0, whose predecessors' grants are over.
fn leader() -> LeaseTable {
    let mut table = LeaseTable::new(at(0), false);
    table.members(&[1, 2, 3], 5, at(0));
    table.became_leader(4, at(0));
    table
}

#[test]
fn a_lease_is_recorded_a_tenth_longer() {
    assert_eq!(recorded(LENGTH).as_millis(), 2200);
    assert_eq!(recorded(std::time::Duration::MAX), std::time::Duration::MAX);
}

#[test]
fn asks_are_granted_by_the_round_that_began_after_them() {
    let mut table = leader();
    assert_eq!(table.confirm_wanted(at(10)), None, "nobody asks");
    assert!(
        table.asked(2, &ask(20, 3)) && table.asked(3, &ask(30, 3)) && table.asked(2, &ask(21, 3))
    );
    assert!(!table.asked(9, &ask(90, 0)), "no member");
    let first = table.confirm_wanted(at(10)).unwrap();
    assert!(table.asked(1, &ask(10, 3)));
    let grant = |seq| Grant { seq, length_ms: 2000, min_applied: 8, term: 4 };
    assert_eq!(table.confirmed(first, 5, 8, at(12)), [(2, grant(21)), (3, grant(30))]);
    assert_eq!(table.confirmed(first, 5, 8, at(12)), [], "once only");
    assert_eq!(table.lease_of(2), Some(at(2212)));
    let second = table.confirm_wanted(at(13)).unwrap();
    assert_eq!(table.confirmed(second, 5, 8, at(14)), [(1, grant(10))]);
}

#[test]
fn rounds_that_fail_or_are_never_answered_cost_nothing_but_time() {
    let mut table = leader();
    table.asked(2, &ask(1, 0));
    let failed = table.confirm_wanted(at(0)).unwrap();
    table.failed(failed);
    let again = table.confirm_wanted(at(1)).unwrap();
    assert_eq!(table.confirmed(again, 0, 0, at(1)).len(), 1);
    for n in 0..4 {
        table.asked(3, &ask(n, 0));
        assert!(table.confirm_wanted(at(2)).is_some());
    }
    table.asked(3, &ask(9, 0));
    assert_eq!(table.confirm_wanted(at(1001)), None, "four are under way");
    let late = table.confirm_wanted(at(1002)).unwrap();
    assert_eq!(table.confirmed(late, 0, 0, at(1003)).len(), 1);
}

#[test]
fn a_purge_waits_for_reports_or_the_end_of_what_was_recorded() {
    let mut table = leader();
    table.asked(2, &ask(1, 5));
    let round = table.confirm_wanted(at(3000)).unwrap();
    assert_eq!(table.confirmed(round, 5, 5, at(3000)).len(), 1);
    assert_eq!(table.wait_for(6, at(3001)), Wait::Until(at(5200)));
    table.applied(2, 5);
    assert_eq!(table.wait_for(6, at(5199)), Wait::Until(at(5200)));
    assert_eq!(table.wait_for(6, at(5200)), Wait::Released);
    table.applied(2, 6);
    assert_eq!(table.wait_for(6, at(3001)), Wait::Released, "the others never had a lease");
    assert_eq!(table.wait_for(7, at(3001)), Wait::Until(at(5200)));
}

#[test]
fn a_removed_member_counts_until_its_lease_is_over() {
    let mut table = leader();
    table.asked(3, &ask(1, 5));
    let round = table.confirm_wanted(at(3000)).unwrap();
    table.asked(3, &ask(2, 5));
    let later = table.confirm_wanted(at(3000)).unwrap();
    assert_eq!(table.confirmed(round, 5, 5, at(3000)).len(), 1);
    table.members(&[1, 2], 6, at(3100));
    assert_eq!(table.confirmed(later, 6, 6, at(3100)), [], "no longer a member");
    assert!(!table.asked(3, &ask(3, 5)));
    assert_eq!(table.wait_for(7, at(3100)), Wait::Until(at(5200)));
    assert_eq!(table.wait_for(7, at(5200)), Wait::Released);
    table.members(&[1, 2], 8, at(5300));
    assert_eq!(table.lease_of(3), None, "forgotten");
}

#[test]
fn a_new_leader_waits_unless_everybody_has_reported() {
    let mut table = leader();
    table.scanned(9);
    assert_eq!(table.wait_for(9, at(1)), Wait::Until(at(2200)));
    table.applied(1, 9);
    table.applied(2, 9);
    assert_eq!(table.wait_for(9, at(1)), Wait::Until(at(2200)));
    table.applied(3, 9);
    assert_eq!(table.wait_for(9, at(1)), Wait::Released);
    assert_eq!(table.wait_for(10, at(1)), Wait::Until(at(2200)));
    table.applied(1, 10);
    table.applied(2, 10);
    table.applied(3, 10);
    assert_eq!(table.wait_for(10, at(1)), Wait::Until(at(2200)), "10 may add a member");
    table.became_leader(4, at(2000));
    assert_eq!(table.wait_for(11, at(2200)), Wait::Released, "the same term");
    table.became_leader(5, at(2200));
    assert_eq!(table.wait_for(11, at(2200)), Wait::Until(at(4400)));
    table.stepped_down();
    assert_eq!(table.wait_for(11, at(9999)), Wait::NotLeader);
}

#[test]
fn a_removal_that_a_new_leader_saw_lately_keeps_it_waiting() {
    let all_reported = |table: &mut LeaseTable| {
        table.became_leader(4, at(1000));
        table.scanned(9);
        table.applied(1, 9);
        table.applied(2, 9);
        table.wait_for(9, at(1000))
    };
    let mut seen = LeaseTable::new(at(0), false);
    seen.members(&[1, 2, 3], 1, at(0));
    seen.members(&[1, 2], 2, at(500));
    assert_eq!(all_reported(&mut seen), Wait::Until(at(2700)));
    assert_eq!(seen.wait_for(9, at(2700)), Wait::Released);

    let mut started = LeaseTable::new(at(100), true);
    started.members(&[1, 2], 1, at(100));
    assert_eq!(all_reported(&mut started), Wait::Until(at(2300)));

    let mut restored = LeaseTable::new(at(0), false);
    restored.restored(&[1, 2], 1, at(900));
    assert_eq!(all_reported(&mut restored), Wait::Until(at(3100)));
}

#[test]
fn nothing_is_granted_before_the_members_are_known() {
    let mut table = leader();
    table.asked(2, &ask(1, 0));
    let round = table.confirm_wanted(at(0)).unwrap();
    assert_eq!(table.confirmed(round, 6, 7, at(0)), []);
    assert_eq!(table.lease_of(2), None);
    table.scanned(6);
    let round = table.confirm_wanted(at(1)).unwrap();
    assert_eq!(table.confirmed(round, 6, 7, at(1)).len(), 1);
}

#[test]
fn who_does_not_lead_grants_nothing() {
    let mut table = leader();
    table.asked(2, &ask(1, 0));
    let round = table.confirm_wanted(at(0)).unwrap();
    table.stepped_down();
    assert_eq!(table.confirmed(round, 0, 0, at(0)), []);
    table.became_leader(6, at(1));
    assert_eq!(table.confirmed(round, 0, 0, at(1)), [], "of another term");
    assert_eq!(table.confirm_wanted(at(1)), None);
    table.stepped_down();
    assert!(!table.asked(2, &ask(2, 7)));
    assert_eq!(table.confirm_wanted(at(1)), None);
}

#[test]
fn an_older_snapshot_takes_no_member_away() {
    let mut table = leader();
    table.members(&[1, 2, 3, 4], 9, at(10));
    table.restored(&[1, 2, 3], 7, at(20));
    assert!(table.asked(4, &ask(1, 9)));
    for id in 1..=4 {
        assert_ne!(table.wait_for(9, at(2199)), Wait::Released, "{id} has not reported");
        table.applied(id, 9);
    }
    assert_eq!(table.wait_for(9, at(2199)), Wait::Until(at(2200)), "it was told of a snapshot");
}

/// One that joins, or takes a snapshot, asks all the time and applies nothing for minutes.
#[test]
fn a_member_that_is_behind_and_asks_holds_up_nobody_for_longer_than_a_lease() {
    let mut table = leader();
    let mut now = 3000;
    for seq in 0..100 {
        // The purge at 50 is committed from the third grant on.
        let commit = if seq < 2 { 49 } else { 50 + seq };
        table.asked(2, &ask(seq, 7));
        let round = table.confirm_wanted(at(now)).unwrap();
        assert_eq!(table.confirmed(round, 5, commit, at(now)).len(), 1);
        // Only the first two were good for serving what it took away; the last of them was recorded at 3050.
        let expected = if now < 5250 { Wait::Until(at(5250)) } else { Wait::Released };

        for id in [1, 3] {
            table.applied(id, 200);
        }
        if seq >= 1 {
            assert_eq!(table.wait_for(50, at(now)), expected, "at {now}");
        }
        now += 50;
    }
    assert_eq!(table.wait_for(1000, at(now)), Wait::Until(at(now - 50 + 2200)));
}

/// Asks that come faster than grants are told apart: then they count as one that wants the least and lasts the longest.
#[test]
fn a_member_that_asks_too_often_is_waited_for() {
    let mut table = leader();
    for seq in 0..200 {
        table.asked(2, &ask(seq, 0));
        let round = table.confirm_wanted(at(3000 + seq)).unwrap();
        assert_eq!(table.confirmed(round, 5, 100 + seq, at(3000 + seq)).len(), 1);
    }
    table.applied(1, 500);
    table.applied(3, 500);
    assert_eq!(table.wait_for(102, at(3200)), Wait::Until(at(5201)));
    assert_eq!(table.wait_for(250, at(3200)), Wait::Until(at(3199 + 2200)));
}
