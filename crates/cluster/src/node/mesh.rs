//! The mesh beside the cluster's connections: who answers, and how near it is.
use std::net::UdpSocket;

use super::addresses_of_mesh;
use crate::catalogue::Catalogue;
use crate::error::ClusterError;
use crate::ids::{NodeKey, RaftId};
use crate::mesh::driver::{MeshHandle, start};
use crate::mesh::{MeshConfig, PeerStatus, Reach};
use crate::net::Network;

/// The mesh as a member uses it.
#[derive(Debug)]
pub(super) struct Mesh {
    me: RaftId,
    handle: MeshHandle,
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
        let mesh = Self { me, handle };
        mesh.members(catalogue);
        Ok(mesh)
    }

    /// The members have changed.
    pub(super) fn members(&self, catalogue: &Catalogue) {
        let members = catalogue.members();
        for (id, _) in self.handle.statuses() {
            if !members.iter().any(|member| member.id == id) {
                self.handle.forget(id);
            }
        }
        for member in members.iter().filter(|member| member.id != self.me) {
            let address = addresses_of_mesh(member);
            if let Err(error) = self.handle.peer(member.id, &member.key, address) {
                tracing::debug!(%error, member = member.id, "the mesh does not know a member");
            }
        }
    }

    /// There is a new connection to a member, and with it a new secret that both know.
    pub(super) fn connected(&self, peer: RaftId, network: &Network) {
        if let Some(secret) = network.exporter_key(peer) {
            self.handle.secret(peer, secret);
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

    /// Whether a member answers.
    pub(super) fn answers(&self, id: RaftId) -> bool {
        let reach = self.status(id).map(|status| status.reach);
        matches!(reach, Some(Reach::Direct | Reach::Relayed { .. }))
    }

    pub(super) fn stop(&self) {
        self.handle.stop();
    }
}
