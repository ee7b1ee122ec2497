//! The mesh beside the cluster's connections: who answers, and how near it is.
use std::collections::HashMap;
use std::net::UdpSocket;

use parking_lot::Mutex;

use super::addresses_of_mesh;
use crate::catalogue::Catalogue;
use crate::error::ClusterError;
use crate::ids::{NodeKey, RaftId};
use crate::mesh::driver::{MeshHandle, MeshStats, start};
use crate::mesh::{MeshConfig, PeerStatus, Reach};
use crate::net::Network;

/// The mesh as a member uses it.
#[derive(Debug)]
pub(super) struct Mesh {
    me: RaftId,
    handle: MeshHandle,
    /// The last secret that was given for each peer.
    secrets: Mutex<HashMap<RaftId, [u8; 32]>>,
}

impl Mesh {
    pub(super) fn start(
        socket: UdpSocket,
        me: RaftId,
        key: NodeKey,
        catalogue: &Catalogue,
    ) -> Result<Self, ClusterError> {
        let (handle, mut events) = start(socket, MeshConfig::new(me, key))?;
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                tracing::info!(?event, "mesh");
            }
        });
        let mesh = Self { me, handle, secrets: Mutex::default() };
        mesh.members(catalogue);
        Ok(mesh)
    }

    /// The members have changed.
    pub(super) fn members(&self, catalogue: &Catalogue) {
        let members = catalogue.members();
        for (id, _) in self.handle.statuses() {
            if !members.iter().any(|member| member.id == id) {
                self.handle.forget(id);
                self.secrets.lock().remove(&id);
            }
        }
        for member in members.iter().filter(|member| member.id != self.me) {
            let address = addresses_of_mesh(member);
            if let Err(error) = self.handle.peer(member.id, &member.key, address) {
                tracing::debug!(%error, member = member.id, "the mesh does not know a member");
            }
        }
    }

    /// Takes the secrets of the connections that there are now: each pair of members has one, which both know.
    pub(super) fn refresh(&self, network: &Network) {
        let mut given = self.secrets.lock();
        for (peer, _) in self.handle.statuses() {
            let secret = network.exporter_key(peer);
            if let Some(secret) = secret.filter(|secret| given.get(&peer) != Some(secret)) {
                self.handle.secret(peer, secret);
                given.insert(peer, secret);
            }
        }
    }

    /// Sorts members: the nearest first, those that do not answer last.
    pub(super) fn nearest(&self, ids: &[RaftId]) -> Vec<RaftId> {
        let mut sorted = ids.to_vec();
        self.handle.nearest(&mut sorted);
        sorted
    }

    pub(super) fn status(&self, id: RaftId) -> Option<PeerStatus> {
        self.handle.status(id)
    }

    pub(super) fn stats(&self) -> MeshStats {
        self.handle.stats()
    }

    /// Whether a member answers.
    pub(super) fn answers(&self, id: RaftId) -> bool {
        let reach = self.status(id).map(|status| status.reach);
        matches!(reach, Some(Reach::Direct | Reach::Relayed { .. }))
    }

    pub(super) fn stop(&self) {
        self.handle.stop();
    }
}
