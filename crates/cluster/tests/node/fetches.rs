//! Bytes that another member has.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use straightway_cluster::catalogue::Entry;
use straightway_cluster::memory::Fault;
use straightway_cluster::{Arriving, ClusterError, Fetched, ObjectId, ObjectStore, StoreError};
use tokio::task::JoinSet;

use crate::support::{Node, all_of, put_on_two, three, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_here_passes_through() {
    let nodes = three().await;
    let len = 3_000_000;
    let entry = put_on_two(&nodes, "film", len).await;
    let other = &nodes[2];
    other.store.fail(Fault::Full(0));
    let (first, second) = tokio::join!(other.cluster.fetch(&entry), other.cluster.fetch(&entry));
    for fetched in [first, second] {
        let Fetched::Arriving(mut arriving) = fetched.expect("begun") else {
            panic!("there is no room for it")
        };
        let mut found = 0;
        while let Some(chunk) = arriving.next().await {
            found += chunk.expect("bytes").len();
        }
        if found < len {
            // The one whose fetch came to nothing goes on by another way.
            assert!(!arriving.stored().await);
            let rest = u64::try_from(found).unwrap()..entry.len;
            let mut rest = other.cluster.fetch_range(&entry, rest).expect("begun");
            while let Some(chunk) = rest.next().await {
                found += chunk.expect("bytes").len();
            }
        }
        assert_eq!(found, len);
    }
    assert!(other.store.get(entry.object).is_none());
    // With room it is kept, and a range of what nobody has is refused before anything is sent.
    other.store.fail(Fault::None);
    let mut arriving = begin(other, &entry).await;
    assert!(arriving.stored().await, "whether or not it is read");
    assert!(other.store.get(entry.object).is_some());
    let gone = Entry { object: ObjectId { serial: 1, ..entry.object }, ..(*entry).clone() };
    let mut nothing = other.cluster.fetch_range(&Arc::new(gone), 0..10).expect("begun");
    assert!(matches!(nothing.next().await, Some(Err(ClusterError::Refused { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_reader_does_not_wait_for_the_first_ones_bytes_to_be_stored() {
    let nodes = three().await;
    let len = 9_000_000;
    let entry = put_on_two(&nodes, "film", len).await;
    let other = &nodes[2];
    other.store.fail(Fault::Held);
    let mut first = begin(other, &entry).await;
    // It stands still: the second has all, and a third has begun.
    assert!(all_of(&mut begin(other, &entry).await).await.expect("bytes") == vec![7; len]);
    let mut third = begin(other, &entry).await;
    let begun = third.next().await.expect("some").expect("bytes");
    assert_eq!(other.store.len(), 0);
    // Once it is stored, the rest is read where it is.
    other.store.fail(Fault::None);
    assert!(first.stored().await);
    let rest = all_of(&mut third).await.expect("bytes");
    assert!(begun.len() + rest.len() < len, "{}", rest.len());
    assert!(third.stored().await);
    assert!(other.store.get(entry.object).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_with_other_bytes_is_passed_over() {
    let nodes = three().await;
    let len = 300_000;
    let entry = put_on_two(&nodes, "film", len).await;
    let holds = |at: &usize| nodes[*at].store.get(entry.object).is_some();
    let (holders, others): (Vec<_>, Vec<_>) = (0..3).partition(holds);
    assert_eq!((holders.len(), others.len()), (2, 1));
    let other = &nodes[others[0]];
    let right = vec![7; len];
    // Whichever of the two is nearer.
    for &wrong in &holders {
        let store = &nodes[wrong].store;
        let (info, body) = store.get(entry.object).expect("held");
        store.insert(entry.object, info.clone(), Bytes::from(vec![8; len]));
        let mut range = other.cluster.fetch_range(&entry, 0..entry.len).expect("begun");
        assert!(all_of(&mut range).await.expect("bytes") == right);
        let mut whole = begin(other, &entry).await;
        assert!(all_of(&mut whole).await.expect("bytes") == right);
        assert!(whole.stored().await);
        other.store.forget(vec![entry.object]).await;
        store.insert(entry.object, info, body);
        // One that claims the right ones and sends others is found out before the end.
        store.fail(Fault::Corrupt);
        let mut whole = begin(other, &entry).await;
        match all_of(&mut whole).await {
            Ok(found) => assert!(found == right),
            Err(error) => {
                assert!(matches!(error, ClusterError::Store(StoreError::Digest)), "{error}");
            }
        }
        assert!(whole.stored().await, "from the other one");
        store.fail(Fault::None);
        assert!(other.store.get(entry.object).expect("stored").1 == right);
        other.store.forget(vec![entry.object]).await;
    }
    // Where nobody has the right ones, nobody gets any.
    for at in holders {
        let (info, _) = nodes[at].store.get(entry.object).expect("held");
        nodes[at].store.insert(entry.object, info, Bytes::from(vec![8; len]));
    }
    let mut range = other.cluster.fetch_range(&entry, 0..10).expect("begun");
    assert!(matches!(range.next().await, Some(Err(ClusterError::Refused { .. }))));
    let mut whole = begin(other, &entry).await;
    assert!(matches!(whole.next().await, Some(Err(ClusterError::Refused { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_ranges_do_not_keep_others_from_theirs() {
    let nodes = three().await;
    let len = 8_000_000;
    let entry = put_on_two(&nodes, "film", len).await;
    let other = &nodes[2];
    // More than the transfers of both holders. Each goes on taking something, as a client far away does.
    let (hurry, _) = tokio::sync::watch::channel(false);
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut arriving = other.cluster.fetch_range(&entry, 0..entry.len).expect("begun");
        let mut hurry = hurry.subscribe();
        let (cluster, entry) = (other.cluster.clone(), entry.clone());
        slow.spawn(async move {
            let mut found = 0;
            while found < entry.len {
                match arriving.next().await {
                    Some(chunk) => found += chunk.expect("bytes").len() as u64,
                    // It was let go for being so slow, and comes again.
                    None => {
                        arriving = cluster.fetch_range(&entry, found..entry.len).expect("begun");
                    }
                }
                // Pause: it reads slowly, until it is told otherwise.
                let pause = tokio::time::sleep(Duration::from_millis(300));
                tokio::select! {
                    () = pause => {}
                    _ = hurry.wait_for(|hurry| *hurry) => {}
                }
            }
            found
        });
    }
    for _ in 0..4 {
        let mut quick = other.cluster.fetch_range(&entry, 5_000_000..6_000_000).expect("begun");
        assert_eq!(all_of(&mut quick).await.expect("its turn comes").len(), 1_000_000);
    }
    hurry.send_replace(true);
    assert_eq!(slow.join_all().await, vec![entry.len; 10]);
}

/// The third of three members, an object that it has not got and nobody else asks it for, and a fetch of it that has begun and
/// stands still.
async fn standing_fetch(nodes: &[Node]) -> (&Node, Arc<Entry>, Arriving) {
    let entry = put_on_two(nodes, "film", 9_000_000).await;
    let other = &nodes[2];
    other.store.fail(Fault::Held);
    let first = begin(other, &entry).await;
    until("its bytes arrive", || other.store.held() > 0).await;
    (other, entry, first)
}

async fn begin(node: &Node, entry: &Arc<Entry>) -> Arriving {
    match node.cluster.fetch(entry).await {
        Ok(Fetched::Arriving(arriving)) => arriving,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_go_past_a_fetch() {
    /// `MAX_SECOND` in `node/fetch.rs`.
    const AT_A_TIME: usize = 64;
    let nodes = three().await;
    let (other, entry, mut first) = standing_fetch(&nodes).await;
    let passing = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..AT_A_TIME + 6 {
        let (cluster, entry, passing) = (other.cluster.clone(), entry.clone(), passing.clone());
        readers.spawn(async move {
            let Fetched::Arriving(mut arriving) = cluster.fetch(&entry).await.expect("had") else {
                return false;
            };
            passing.fetch_add(1, Ordering::Relaxed);
            while let Some(chunk) = arriving.next().await {
                chunk.expect("bytes");
                // Pause: it has not read all of it before the others have begun.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            assert!(arriving.stored().await);
            true
        });
    }
    until("so many go past it", || passing.load(Ordering::Relaxed) == AT_A_TIME).await;
    other.store.fail(Fault::None);
    assert!(first.stored().await);
    let went = readers.join_all().await.into_iter().filter(|went| *went).count();
    assert_eq!(went, AT_A_TIME, "the others waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_past_a_fetch_waits_for_it_where_nobody_else_has_the_bytes() {
    let nodes = three().await;
    let (other, entry, mut first) = standing_fetch(&nodes).await;
    // The first goes on with what it has opened.
    let lose = async || {
        for node in &nodes {
            node.store.forget(vec![entry.object]).await;
        }
    };
    let held = nodes[0].store.get(entry.object).expect("held");
    lose().await;
    let mut second = begin(other, &entry).await;
    other.store.fail(Fault::None);
    assert!(all_of(&mut second).await.expect("no error").is_empty());
    assert!(first.stored().await && second.stored().await);
    // Where the first comes to nothing, so does the second.
    lose().await;
    nodes[0].store.insert(entry.object, held.0, held.1);
    other.store.fail(Fault::Held);
    let before = other.store.held();
    let mut first = begin(other, &entry).await;
    until("its bytes arrive", || other.store.held() > before).await;
    lose().await;
    let mut second = begin(other, &entry).await;
    other.store.fail(Fault::Full(0));
    let came = all_of(&mut second).await;
    assert!(matches!(came, Err(ClusterError::Refused { .. })), "{came:?}");
    assert!(!first.stored().await && !second.stored().await);
}
