//! Members that have moved are found by their beacons, where that is wanted.
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use tokio::sync::mpsc::Receiver;

use super::Shared;
use crate::error::ClusterError;
use crate::ids::NodeKey;
use crate::mesh::discovery::{self, BEACON_PERIOD, Beacon, Discovery, GROUP, Hint};

/// Begins to send beacons and to listen for those of others. A network that has no multicast is no reason not to start.
pub(super) fn start(shared: &Arc<Shared>, listen: IpAddr, addresses: &[SocketAddr]) {
    match begin(shared, listen, addresses) {
        Ok((beacons, hints)) => {
            *shared.beacons.lock() = Some(beacons);
            tokio::spawn(follow(Arc::downgrade(shared), hints));
        }
        Err(error) => tracing::warn!(%error, "members are not looked for on the local network"),
    }
}

fn begin(
    shared: &Arc<Shared>,
    listen: IpAddr,
    addresses: &[SocketAddr],
) -> Result<(Discovery, Receiver<Hint>), ClusterError> {
    let own = Beacon { cluster: shared.cluster, key: shared.key, addresses: addresses.to_vec() };
    let weak = Arc::downgrade(shared);
    let is_member = move |key: &NodeKey| {
        weak.upgrade().is_some_and(|shared: Arc<Shared>| shared.network.knows(key))
    };
    let socket = discovery::socket(GROUP, listen)?;
    discovery::start(socket, GROUP, own, BEACON_PERIOD, Arc::new(is_member))
}

/// Has members dialled where they say that they are.
async fn follow(shared: Weak<Shared>, mut hints: Receiver<Hint>) {
    while let Some(Hint { key, addresses }) = hints.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        tracing::debug!(%key, ?addresses, "a member says where it is");
        shared.network.hint(&key, &addresses);
    }
}
