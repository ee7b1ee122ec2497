//! Who gained and lost copies, told to the catalogue many at a time.
use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Shared;
use crate::catalogue::{Holders, Op};
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};

/// News that may wait. What does not fit is learnt when somebody asks in vain.
const MAX_NEWS: usize = 16_384;
/// Told together.
const MAX_BATCH: usize = 2048;
/// How long news is gathered.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// What has become of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Gained,
    /// There was no room for it any more.
    Lost,
    Damaged,
}

/// A copy gained or lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct News {
    node: RaftId,
    object: ObjectId,
    fate: Fate,
}

/// Where news is handed in; never waits.
#[derive(Debug, Clone)]
pub(super) struct Holdings(mpsc::Sender<News>);

impl Holdings {
    pub(super) fn new() -> (Self, mpsc::Receiver<News>) {
        let (sender, receiver) = mpsc::channel(MAX_NEWS);
        (Self(sender), receiver)
    }

    pub(super) fn gained(&self, node: RaftId, object: ObjectId) {
        let _ = self.0.try_send(News { node, object, fate: Fate::Gained });
    }

    pub(super) fn lost(&self, node: RaftId, object: ObjectId) {
        let _ = self.0.try_send(News { node, object, fate: Fate::Lost });
    }

    pub(super) fn damaged(&self, node: RaftId, object: ObjectId) {
        let _ = self.0.try_send(News { node, object, fate: Fate::Damaged });
    }
}

/// Tells the catalogue until the node stops.
pub(super) async fn run(shared: Weak<Shared>, mut news: mpsc::Receiver<News>) {
    let mut batch = Vec::new();
    while news.recv_many(&mut batch, MAX_BATCH).await > 0 {
        tokio::time::sleep(GATHER).await;
        while batch.len() < MAX_BATCH {
            let Ok(more) = news.try_recv() else { break };
            batch.push(more);
        }
        for holders in sorted(&batch) {
            // News is kept until it is told: a copy that nobody knows of is as good as none.
            while let Some(node) = shared.upgrade() {
                match node.change(Op::Holders(holders.clone())).await {
                    Ok(_) | Err(ClusterError::Stopped { .. } | ClusterError::Config { .. }) => {
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "copies are announced later"),
                }
                drop(node);
                tokio::time::sleep(PAUSE).await;
            }
        }
        batch.clear();
    }
}

/// The last word on each copy, by member.
fn sorted(batch: &[News]) -> Vec<Holders> {
    let mut last: BTreeMap<(RaftId, ObjectId), Fate> = BTreeMap::new();
    for News { node, object, fate } in batch {
        let told = last.entry((*node, *object)).or_insert(*fate);
        // Whoever does not find what is damaged takes it for lost.
        if (*told, *fate) != (Fate::Damaged, Fate::Lost) {
            *told = *fate;
        }
    }
    let mut by_node: BTreeMap<RaftId, Holders> = BTreeMap::new();
    for ((node, object), fate) in last {
        let holders = by_node.entry(node).or_insert_with(|| Holders {
            node,
            gained: Vec::new(),
            lost: Vec::new(),
            damaged: Vec::new(),
        });
        match fate {
            Fate::Gained => holders.gained.push(object),
            Fate::Lost => holders.lost.push(object),
            Fate::Damaged => holders.damaged.push(object),
        }
    }
    by_node.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_copy_counts() {
        let object = |serial| ObjectId { node: 1, serial };
        let news = |node, serial, fate| News { node, object: object(serial), fate };
        let told = sorted(&[
            news(2, 1, Fate::Gained),
            news(1, 1, Fate::Gained),
            news(2, 1, Fate::Lost),
            news(2, 2, Fate::Gained),
            news(2, 3, Fate::Damaged),
            news(2, 3, Fate::Lost),
            news(2, 4, Fate::Damaged),
            news(2, 4, Fate::Gained),
        ]);
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].node, &told[0].gained), (1, &vec![object(1)]));
        assert_eq!(
            (&told[1].gained, &told[1].lost),
            (&vec![object(2), object(4)], &vec![object(1)])
        );
        assert_eq!(told[1].damaged, [object(3)]);
    }
}
