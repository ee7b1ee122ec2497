//! Round trips, loss, silence and ways around.
use std::time::Duration;

use proptest::prelude::*;

use super::super::{Event, Reach};
use super::network::Network;

fn triangle() -> Network {
    let mut network = Network::new(3);
    network.link(1, 2, 5);
    network.link(1, 3, 20);
    network.link(2, 3, 30);
    network
}

#[test]
fn the_nearest_comes_first_and_all_are_measured() {
    let mut network = triangle();
    let mut order = [3, 9, 2, 1];
    network.mesh(1).nearest(&mut order);
    assert_eq!(order, [1, 3, 9, 2], "as given while nothing is known");
    network.run(20);
    network.mesh(1).nearest(&mut order);
    assert_eq!(order, [1, 2, 3, 9]);
    let mut order = [1, 3];
    network.mesh(2).nearest(&mut order);
    assert_eq!(order, [1, 3]);
    let status = network.mesh(1).status(3).unwrap();
    let ms = Duration::from_millis;
    assert_eq!(
        (status.reach, status.rtt, status.min_rtt),
        (Reach::Direct, Some(ms(40)), Some(ms(40)))
    );
    assert_eq!((status.loss_permille, status.sent, status.answered), (0, 20, 20));
    assert_eq!((network.mesh(1).rejected().total(), network.mesh(2).rejected().total()), (0, 0));
    assert_eq!(network.events, []);
}

#[test]
fn a_changed_way_is_learned() {
    let mut network = triangle();
    network.run(20);
    network.link(1, 2, 100);
    network.run(60);
    let status = network.mesh(1).status(2).unwrap();
    let (rtt, min) = (status.rtt.unwrap(), status.min_rtt.unwrap());
    assert!(rtt > Duration::from_millis(190) && rtt < Duration::from_millis(201), "{rtt:?}");
    assert_eq!(min, Duration::from_millis(10));
    let mut order = [2, 3];
    network.mesh(1).nearest(&mut order);
    assert_eq!(order, [3, 2]);
}

#[test]
fn a_way_that_is_longer_than_the_silence_that_is_allowed_is_measured() {
    let mut network = Network::new(2);
    network.link(1, 2, 800);
    network.run(100);
    let status = network.mesh(1).status(2).unwrap();
    assert_eq!((status.reach, status.rtt), (Reach::Direct, Some(Duration::from_millis(1600))));
    // Those that were on their way when the way was not known yet counted as lost.
    assert!(status.answered > 90 && status.loss_permille < 100, "{status:?}");
}

#[test]
fn loss_is_counted_and_suspects_nobody() {
    let mut network = triangle();
    network.lose_every = 7;
    network.run(80);
    let status = network.mesh(1).status(2).unwrap();
    assert!((100..450).contains(&status.loss_permille), "{status:?}");
    assert_eq!(network.events, []);
}

#[test]
fn who_is_silent_is_suspected_once_and_recovers_once() {
    let mut network = triangle();
    network.run(10);
    network.paused = vec![3];
    network.run(4);
    assert_eq!(network.events, [], "four may be lost");
    network.run(4);
    network.events.sort_by_key(|(id, _)| *id);
    let suspected = Event::Suspected { peer: 3 };
    assert_eq!(network.events, [(1, suspected), (2, suspected)]);
    let mut order = [3, 2];
    network.mesh(1).nearest(&mut order);
    assert_eq!(order, [2, 3]);
    network.run(20);
    network.events.clear();
    network.paused.clear();
    network.run(4);
    network.events.sort_by_key(|(id, _)| *id);
    let recovered = Event::Recovered { peer: 3 };
    assert_eq!(
        network.events,
        [(1, recovered), (2, recovered)],
        "and 3 itself, which was paused, suspects nobody"
    );
    assert_eq!(network.mesh(3).status(1).unwrap().reach, Reach::Direct);
}

#[test]
fn who_was_paused_does_not_take_a_suspect_for_present() {
    let mut network = triangle();
    network.run(5);
    network.paused = vec![3];
    network.run(10);
    network.events.clear();
    network.paused = vec![1, 3];
    network.run(20);
    network.paused = vec![3];
    network.run(3);
    assert_eq!(network.mesh(1).status(3).unwrap().reach, Reach::Suspect);
    assert_eq!(network.mesh(1).status(2).unwrap().reach, Reach::Direct);
    assert!(network.events.iter().all(|(id, _)| *id == 2), "{:?}", network.events);
}

#[test]
fn a_cut_link_is_gone_around_and_nobody_is_suspected() {
    let mut network = triangle();
    network.run(10);
    network.cut(1, 3);
    network.run(10);
    let status = network.mesh(1).status(3).unwrap();
    assert_eq!(
        (status.reach, status.rtt),
        (Reach::Relayed { via: 2, hops: 2 }, Some(Duration::from_millis(70)))
    );
    network.events.sort_by_key(|(id, _)| *id);
    assert_eq!(
        network.events,
        [(1, Event::Relayed { peer: 3, via: 2 }), (3, Event::Relayed { peer: 1, via: 2 })]
    );
    network.events.clear();
    network.link(1, 3, 20);
    network.run(2);
    network.events.sort_by_key(|(id, _)| *id);
    assert_eq!(
        network.events,
        [(1, Event::Recovered { peer: 3 }), (3, Event::Recovered { peer: 1 })]
    );
}

#[test]
fn messages_are_passed_on_three_times_and_no_more() {
    // A chain: each knows its neighbours only by wire, and all by name.
    let reached = |count: u64| {
        let mut network = Network::new(count);
        (1..count).for_each(|id| network.link(id, id + 1, 1));
        network.run(40);
        network.mesh(1).status(count).unwrap().reach
    };
    assert_eq!(reached(3), Reach::Relayed { via: 2, hops: 2 });
    assert_eq!(reached(4), Reach::Relayed { via: 2, hops: 4 });
    assert_eq!(reached(5), Reach::Relayed { via: 2, hops: 6 });
    assert_eq!(reached(6), Reach::Suspect);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_links_reach_follows_them(
        links in prop::collection::vec(prop::option::weighted(0.6, 1..60u64), 6), again in prop::collection::vec(prop::option::weighted(0.6, 1..60u64), 6),
    ) {
        let pairs = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)];
        let mut network = Network::new(4);
        for links in [&links, &again] {
            for ((a, b), ms) in pairs.iter().zip(links) {
                match ms {
                    Some(ms) => network.link(*a, *b, *ms),
                    None => network.cut(*a, *b),
                }
            }
            network.run(60);
            for ((a, b), ms) in pairs.iter().zip(links) {
                let status = network.mesh(*a).status(*b).unwrap();
                let linked = |x, y| pairs.iter().zip(links).any(|(pair, ms)| ms.is_some() && (*pair == (x, y) || *pair == (y, x)));
                let between = (1..=4).filter(|c| c != a && c != b).any(|c| linked(*a, c) && linked(c, *b));
                match (ms, status.reach) {
                    (Some(ms), Reach::Direct) => {
                        let rtt = status.rtt.unwrap().as_millis();
                        prop_assert!(rtt.abs_diff(u128::from(2 * ms)) <= 3, "{} for {}", rtt, ms);
                    }
                    (None, Reach::Relayed { .. }) => {}
                    (None, Reach::Suspect) => prop_assert!(!between),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
