//! Objects whose lifetime is over are removed by agreement, so that their bytes go and events are told once.
use std::time::Duration;

use tokio::time::sleep;

use super::{Shared, now_ms};
use crate::catalogue::{Expire, Op};

/// How often a leader looks. Expired objects are not served meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// Objects removed together.
const MAX_BATCH: usize = 1024;

/// Removes what has expired, as long as the node runs and leads.
pub(super) async fn run(shared: std::sync::Weak<Shared>) {
    let mut more = false;
    loop {
        if !more {
            sleep(LOOK).await;
        }
        more = false;
        let Some(shared) = shared.upgrade() else { return };
        if shared.progress.leadership().leader != shared.id {
            continue;
        }
        let now_ms = now_ms();
        let objects = shared.catalogue.expired(now_ms, MAX_BATCH);
        if objects.is_empty() {
            continue;
        }
        let full = objects.len() == MAX_BATCH;
        match shared.change(Op::Expire(Expire { now_ms, objects })).await {
            Ok(_) => more = full,
            Err(error) => tracing::debug!(%error, "expired objects are removed later"),
        }
    }
}
