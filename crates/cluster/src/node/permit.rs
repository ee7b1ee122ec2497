//! Whether this node may serve what it knows.
use std::sync::Arc;
use std::time::Duration;

use super::{Cluster, now_ms};
use crate::catalogue::Entry;
use crate::error::ClusterError;
use crate::lease::boot_clock;

/// How long a read may wait for a majority.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a reader may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// What this node knows, if it holds a serve lease: it may miss the newest puts, and never serves what was purged.
    #[default]
    Local,
    /// What the cluster has agreed on by now: asks a majority.
    Linearizable,
}

impl Cluster {
    /// What `key` has. Without a serve lease, and where nothing that is not over is known under the key, a majority is asked, as for
    /// [`Consistency::Linearizable`]; fails if none answers.
    pub async fn read(
        &self,
        key: &str,
        consistency: Consistency,
    ) -> Result<Option<Arc<Entry>>, ClusterError> {
        // The lease first: what is looked up while it holds cannot have been purged and acknowledged before.
        if consistency == Consistency::Local
            && self.0.gate.may_serve(boot_clock()).is_ok()
            && let Some(entry) = self.0.catalogue.get(key)
            // After its end there may be a newer one that has not come here yet.
            && entry.live(now_ms())
        {
            return Ok(Some(entry));
        }
        self.0.barrier(PATIENCE).await?;
        Ok(self.0.catalogue.get(key))
    }
}
