//! The protocol is sound, and none of its rules can be left out.
use super::{Action, LEARNER, Outcome, Rules, Setup, explore};

/// States that are looked at; none of these setups has as many.
const LIMIT: usize = 3_000_000;

/// One change of leader, and the subject restarts once; of the learner, all that a removal needs.
fn setup(subject: usize, rules: Rules) -> Setup {
    let learner = subject == LEARNER;
    Setup {
        rules,
        subject,
        chain: learner,
        elections: 1,
        asks: 1,
        subject_restarts: u8::from(!learner),
        other_restarts: 0,
    }
}

fn sound(setup: &Setup) {
    match explore(setup, LIMIT) {
        Outcome::Sound { states } => println!("{states} states"),
        Outcome::Broken { trace } => panic!("broken by {trace:#?}"),
        Outcome::TooMany => panic!("more than {LIMIT} states"),
    }
}

/// Without a rule the property is broken; the events that do it.
fn broken(setup: &Setup) -> Vec<Action> {
    match explore(setup, LIMIT) {
        Outcome::Broken { trace } => {
            println!("{} events: {trace:?}", trace.len());
            trace
        }
        other => panic!("nothing is wrong without the rule: {other:?}"),
    }
}

#[test]
fn sound_for_the_first_leader() {
    sound(&setup(0, Rules::ALL));
}

#[test]
fn sound_for_another_voter() {
    sound(&setup(1, Rules::ALL));
}

#[test]
fn sound_for_a_learner_that_is_removed() {
    sound(&setup(LEARNER, Rules::ALL));
}

#[test]
fn leadership_must_be_confirmed_after_the_ask() {
    broken(&setup(1, Rules { confirm: false, ..Rules::ALL }));
}

#[test]
fn a_new_leader_must_wait() {
    broken(&setup(1, Rules { wait: false, ..Rules::ALL }));
}

#[test]
fn the_commit_index_at_sending_counts() {
    broken(&setup(1, Rules { commit_at_sending: false, ..Rules::ALL }));
}

#[test]
fn the_member_counts_from_its_ask() {
    broken(&setup(1, Rules { from_ask: false, ..Rules::ALL }));
}

#[test]
fn the_leader_allows_for_slow_clocks() {
    broken(&setup(1, Rules { margin: false, ..Rules::ALL }));
}

#[test]
fn a_leader_commits_in_its_own_term_before_it_grants() {
    broken(&setup(1, Rules { own_term: false, ..Rules::ALL }));
}

#[test]
fn asks_have_numbers_that_were_never_used() {
    broken(&Setup { asks: 2, ..setup(1, Rules { fresh_seq: false, ..Rules::ALL }) });
}

#[test]
fn removed_members_count() {
    broken(&setup(LEARNER, Rules { wait_for_removed: false, ..Rules::ALL }));
}

#[test]
fn a_start_counts_as_a_removal() {
    broken(&Setup {
        other_restarts: 1,
        ..setup(LEARNER, Rules { start_is_removal: false, ..Rules::ALL })
    });
}

#[test]
fn a_leader_knows_the_members_up_to_what_was_confirmed() {
    broken(&setup(LEARNER, Rules { scanned: false, ..Rules::ALL }));
}
