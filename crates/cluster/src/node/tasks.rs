//! What a member does all the time, beside its threads.
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Shared;
use super::apply::Observer;
use super::enrol::{Me, texts};
use super::inbox::Arrived;
use crate::catalogue::{MemberChanged, Op};
use crate::log::detach;
use crate::net::Inbound;

/// While Raft's thread has no room.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Between two tries to tell the others where this node is.
const INTRODUCE_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks for new connections.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);

/// Takes what comes from peers to Raft's thread; while that has no room, nothing more is read from the network.
pub(super) async fn receive(shared: Weak<Shared>, mut inbound: mpsc::Receiver<Inbound>) {
    while let Some(what) = inbound.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        match what {
            Inbound::Raft { peer, lane, mut message, frame_bytes, held } => {
                shared.estranged.heard(peer);
                let copied = detach(message.mut_entries(), frame_bytes);
                // What has memory of its own keeps nothing of the frame.
                let bytes = if copied > 0 { copied } else { frame_bytes };
                let mut arrived = Arrived::Raft { lane, message, held };
                while let Err(back) = shared.letterbox.arrived(arrived, bytes) {
                    arrived = back;
                    tokio::time::sleep(FULL_PAUSE).await;
                }
            }
            Inbound::Unreachable { peer } => {
                // Raft probes again by itself: this may be dropped.
                let _ = shared.letterbox.arrived(Arrived::Unreachable(peer), 0);
            }
            Inbound::Reachable { .. } => shared.mesh.refresh(&shared.network),
            Inbound::Refused { peer, code, reason } => shared.refused_by(peer, code, &reason),
        }
    }
}

/// Connections come and go in either direction, and with them the secrets that the mesh is sealed with.
pub(super) async fn refresh_mesh(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(REFRESH_PAUSE).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.mesh.refresh(&shared.network);
    }
}

/// Tells who leads. Not on Raft's thread: it must not wait for whoever listens.
pub(super) async fn tell_leader(shared: Weak<Shared>, observer: Arc<dyn Observer>) {
    let Some(mut leaders) = shared.upgrade().map(|shared| shared.progress.watch()) else { return };
    let mut told = (0, 0);
    loop {
        let now = *leaders.borrow_and_update();
        // Between two leaders there is nobody to tell of.
        if now.leader != 0 && told != (now.term, now.leader) {
            told = (now.term, now.leader);
            observer.leader(now.term, now.leader);
        }
        // The node's own end is the end of its leaders.
        if leaders.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the others where this node is now, if that is not what they know.
pub(super) async fn introduce(shared: Weak<Shared>, me: Me) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let known = shared.catalogue.member(shared.id);
        let (addresses, mesh) = (texts(&me.addresses), texts(&me.mesh));
        if let Some(known) = known {
            if known.addresses == addresses
                && known.mesh == mesh
                && known.http == me.http
                && known.name == me.name
            {
                return;
            }
            let changed = MemberChanged {
                id: shared.id,
                name: me.name.clone(),
                addresses,
                mesh,
                http: me.http.clone(),
            };
            if shared.change(Op::MemberChanged(changed)).await.is_ok() {
                return;
            }
        }
        drop(shared);
        tokio::time::sleep(INTRODUCE_PAUSE).await;
    }
}
