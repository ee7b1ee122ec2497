//! How a node becomes a member: the addresses that it will have, and the one time that it founds a cluster or joins one.
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use raft::prelude::ConfState;
use straightway_wire::raft::encode_conf_state;

use super::disk::first_hard_state;
use super::{ClusterConfig, Start, now_ms};
use crate::catalogue::{Bootstrap, Catalogue};
use crate::error::ClusterError;
use crate::ids::{ClusterId, RaftId, StorageId};
use crate::log::{Batch, LogMark, LogOptions, LogStore, SegmentLog};
use crate::net::{Identity, Joiner, join as join_cluster, random_bytes};

/// Where members listen unless they are told otherwise, or it is taken.
const DEFAULT_PORT: u16 = 8082;
/// The number of a cluster's first member.
const FIRST: RaftId = 1;
/// Folders in the data folder.
pub(super) const LOG: &str = "log";
pub(super) const CATALOGUE: &str = "catalogue";

/// Leftovers of a start that did not come to its end.
pub(super) fn clear(data_dir: &Path) -> Result<(), ClusterError> {
    for name in [LOG, CATALOGUE] {
        let path = data_dir.join(name);
        match std::fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ClusterError::file("empty", path)(error)),
        }
    }
    Ok(())
}

/// The address to listen on: the port of the last start where none is given, so that the others find it again. The socket
/// keeps it from others until the network takes it.
pub(super) fn listen_address(
    config: &ClusterConfig,
    identity: &Identity,
) -> Result<(SocketAddr, UdpSocket), ClusterError> {
    let at = |port| UdpSocket::bind(SocketAddr::new(config.listen.ip(), port));
    let last = identity.record().listen.map(|last| last.port());
    let (port, socket) = match (config.listen.port(), last) {
        (0, Some(last)) if identity.record().raft_id != 0 => (last, at(last)),
        // Where it joins, it says where it is.
        (0, last) => (0, at(last.unwrap_or(DEFAULT_PORT)).or_else(|_| at(0))),
        (port, _) => (port, at(port)),
    };
    let taken = |error| {
        let address = SocketAddr::new(config.listen.ip(), port);
        let what = format!("cannot listen for the cluster on {address} (UDP): {error}");
        ClusterError::Config { what }
    };
    let socket = socket.map_err(taken)?;
    let listen = socket.local_addr().map_err(taken)?;
    if listen.ip().is_unspecified() && config.advertise.is_empty() {
        let what = format!(
            "members cannot be told to reach {listen}; name an address of this machine with --cluster-listen or --cluster-advertise"
        );
        return Err(ClusterError::Config { what });
    }
    Ok((listen, socket))
}

/// Where others are told to come.
pub(super) fn advertised(config: &ClusterConfig, listen: SocketAddr) -> Vec<SocketAddr> {
    if config.advertise.is_empty() { vec![listen] } else { config.advertise.clone() }
}

/// The mesh's socket, beside the cluster's own if that is free.
pub(super) fn mesh_socket(listen: SocketAddr) -> Result<UdpSocket, ClusterError> {
    let beside = SocketAddr::new(listen.ip(), listen.port().wrapping_add(1));
    UdpSocket::bind(beside).or_else(|_| UdpSocket::bind(SocketAddr::new(listen.ip(), 0))).map_err(
        |error| ClusterError::Config {
            what: format!("cannot listen for the mesh on {}: {error}", listen.ip()),
        },
    )
}

pub(super) fn mesh_addresses(
    config: &ClusterConfig,
    mesh: &UdpSocket,
) -> Result<Vec<SocketAddr>, ClusterError> {
    let bound = mesh.local_addr().map_err(|error| ClusterError::Config {
        what: format!("the mesh's address cannot be read: {error}"),
    })?;
    if config.advertise.is_empty() {
        return Ok(vec![bound]);
    }
    Ok(config.advertise.iter().map(|told| SocketAddr::new(told.ip(), bound.port())).collect())
}

/// What a node says of itself.
pub(super) struct Me {
    pub(super) name: String,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) mesh: Vec<SocketAddr>,
    pub(super) http: String,
}

pub(super) fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// Makes this node a member: of a new cluster, or of the ticket's. May be cut short anywhere, and is then begun anew: the
/// cluster, should it have taken the node in already, must find that it is the same one, at the same place.
pub(super) async fn enrol(
    config: &ClusterConfig,
    listen: SocketAddr,
    me: &Me,
    identity: &mut Identity,
) -> Result<(), ClusterError> {
    let storage = match identity.record().storage {
        Some(storage) => storage,
        None => StorageId(random_bytes()?),
    };
    identity.update(|record| {
        record.storage = Some(storage);
        record.listen = Some(listen);
    })?;
    let (cluster, raft_id, members) = match &config.start {
        Start::First => {
            let cluster = ClusterId(random_bytes()?);
            let conf_state = ConfState { voters: vec![FIRST], ..ConfState::default() };
            let bootstrap = Bootstrap {
                cluster,
                conf_state: encode_conf_state(&conf_state),
                key: identity.key(),
                storage,
                name: me.name.clone(),
                addresses: texts(&me.addresses),
                mesh: texts(&me.mesh),
                http: me.http.clone(),
            };
            Catalogue::open(&config.data_dir.join(CATALOGUE))?.bootstrap(&bootstrap)?;
            let (mut log, _) =
                SegmentLog::open(&config.data_dir.join(LOG), LogOptions::new(storage))?;
            let mark = LogMark { index: 1, term: 1, conf_state };
            let hard_state = first_hard_state();
            let batch =
                Batch { snapshot: Some(&mark), hard_state: Some(&hard_state), ..Batch::default() };
            let _synced = log.append(batch)?;
            (cluster, FIRST, Vec::new())
        }
        Start::Join(ticket) => {
            let joiner = Joiner {
                storage,
                name: me.name.clone(),
                addresses: me.addresses.clone(),
                mesh: me.mesh.first().copied(),
                http: me.http.clone(),
            };
            SegmentLog::open(&config.data_dir.join(LOG), LogOptions::new(storage))?;
            let bind = SocketAddr::new(listen.ip(), 0);
            let answer = join_cluster(bind, identity.secret(), ticket, &joiner, now_ms()).await?;
            (answer.cluster, answer.raft_id, answer.members)
        }
    };
    // Last: what is not whole by now is begun anew.
    identity.update(|record| {
        record.cluster = Some(cluster);
        record.raft_id = raft_id;
        record.members = members;
        record.name.clone_from(&config.name);
    })
}
