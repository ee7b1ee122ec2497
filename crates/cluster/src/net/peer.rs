//! What is known of a peer, and what connects to it.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iroh::endpoint::Connection;
use parking_lot::{Mutex, RwLock};
use straightway_wire::raft::Lane;
use straightway_wire::{Hello, Pending};
use tokio::sync::{Semaphore, watch};

use super::close::CloseCode;
use super::endpoint;
use super::lane::{LaneStats, OutLane};
use super::limits::NetLimits;
use super::members::MemberAddress;
use crate::ids::{NodeKey, RaftId};

/// What a transfer is for. Those of one sort do not take the others' places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferSort {
    /// An object from store to store: as fast as the two can.
    Store,
    /// An object on its way to a client, which may be slow.
    Read,
    /// What a member that was away needs before anything else.
    Snapshot,
}

/// What is known of a peer at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStats {
    /// Its number.
    pub id: RaftId,
    /// Its key.
    pub key: NodeKey,
    /// Round-trip time on the control lane, as QUIC measures it.
    pub round_trip: Option<Duration>,
    /// Which start of the peer said hello last; 0: none yet.
    pub boot: u64,
    /// The control lane.
    pub control: LaneStats,
    /// The append lane.
    pub append: LaneStats,
    /// Whether there is a bulk connection that this node dialled.
    pub bulk: bool,
    /// Lanes that the peer dialled: control, append, bulk.
    pub inbound: [bool; 3],
}

/// Connections that the peer dialled, all of its latest start.
#[derive(Debug, Default)]
struct Inbound {
    boot: u64,
    connections: [Option<Connection>; 3],
}

/// A peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: RaftId,
    pub(crate) key: NodeKey,
    addresses: RwLock<Vec<SocketAddr>>,
    control: OutLane,
    append: OutLane,
    /// Dialled when it is needed first. Held while dialling, so that it is dialled once.
    pub(crate) bulk: tokio::sync::Mutex<()>,
    bulk_connection: Mutex<Option<Connection>>,
    inbound: Mutex<Inbound>,
    /// Bytes of messages that are received and not handled.
    pub(crate) received: Arc<Semaphore>,
    /// Calls that are being answered.
    pub(crate) answering: Arc<Semaphore>,
    /// Transfers that this node began, by sort.
    transfers: [Arc<Semaphore>; 3],
    /// Transfers that the peer began.
    pub(crate) served: Arc<Semaphore>,
    /// What it said last that it can do; nothing while it has not spoken.
    features: AtomicU64,
    /// Calls that wait for its answer.
    pub(crate) calls: Pending,
    stop: watch::Sender<bool>,
}

impl Peer {
    pub(crate) fn new(member: &MemberAddress, limits: &NetLimits) -> Self {
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            id: member.id,
            key: member.key,
            addresses: RwLock::new(member.addresses.clone()),
            control: OutLane::new(Lane::Control, limits.control_queue),
            append: OutLane::new(Lane::Append, limits.append_queue),
            bulk: tokio::sync::Mutex::new(()),
            bulk_connection: Mutex::new(None),
            inbound: Mutex::new(Inbound::default()),
            received: permits(limits.inbound_bytes),
            answering: permits(limits.calls_answered),
            transfers: [permits(limits.transfers), permits(limits.transfers), permits(1)],
            served: permits(limits.streams()),
            features: AtomicU64::new(0),
            calls: Pending::new(limits.calls_pending),
            stop: watch::Sender::new(false),
        }
    }

    /// Who may begin a transfer of this sort.
    pub(crate) fn transfers(&self, sort: TransferSort) -> Arc<Semaphore> {
        Arc::clone(&self.transfers[sort as usize])
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.read().clone()
    }

    /// The peer has moved: it is dialled at its new place at once.
    pub(crate) fn move_to(&self, addresses: &[SocketAddr]) {
        {
            let mut known = self.addresses.write();
            if *known == addresses {
                return;
            }
            *known = addresses.to_vec();
        }
        self.redial();
    }

    pub(crate) fn out(&self, lane: Lane) -> Option<&OutLane> {
        match lane {
            Lane::Control => Some(&self.control),
            Lane::Append => Some(&self.append),
            Lane::Bulk => None,
        }
    }

    pub(crate) fn control(&self) -> &OutLane {
        &self.control
    }

    /// What the peer can do.
    pub(crate) fn features(&self) -> u64 {
        self.features.load(Ordering::Relaxed)
    }

    /// The bulk connection, if it is there and alive.
    pub(crate) fn bulk_connection(&self) -> Option<Connection> {
        self.bulk_connection.lock().clone().filter(|bulk| bulk.close_reason().is_none())
    }

    pub(crate) fn set_bulk(&self, connection: &Connection) {
        *self.bulk_connection.lock() = Some(connection.clone());
    }

    /// Takes in a connection that the peer dialled. Of each lane there is one, and all are of the peer's latest start: an
    /// older one is closed. `Err`: this one is of an older start.
    pub(crate) fn take_in(
        &self,
        lane: Lane,
        hello: &Hello,
        connection: &Connection,
    ) -> Result<(), CloseCode> {
        let boot = hello.boot;
        let restarted = {
            let mut inbound = self.inbound.lock();
            if boot < inbound.boot {
                return Err(CloseCode::StaleBoot);
            }
            let restarted = inbound.boot != 0 && boot > inbound.boot;
            if boot > inbound.boot {
                inbound.boot = boot;
                inbound.connections.iter_mut().for_each(|old| supersede(old.take()));
            }
            supersede(inbound.connections[lane as usize].replace(connection.clone()));
            self.features.store(hello.features, Ordering::Relaxed);
            restarted
        };
        if restarted {
            // The old process cannot say that it is gone; its connections would be held until they time out.
            self.redial();
        }
        Ok(())
    }

    /// Forgets a connection that has ended.
    pub(crate) fn let_go(&self, lane: Lane, connection: &Connection) {
        let mut inbound = self.inbound.lock();
        let place = &mut inbound.connections[lane as usize];
        if place.as_ref().is_some_and(|held| held.stable_id() == connection.stable_id()) {
            *place = None;
        }
    }

    /// Closes the lane that the peer dialled.
    pub(crate) fn hang_up(&self, lane: Lane, code: CloseCode, reason: &str) {
        let connection = self.inbound.lock().connections[lane as usize].take();
        if let Some(connection) = connection {
            connection.close(code.var_int(), reason.as_bytes());
        }
    }

    fn redial(&self) {
        self.control.redial();
        self.append.redial();
        supersede(self.bulk_connection.lock().take());
    }

    /// The control connection that the peer dialled.
    pub(crate) fn inbound_control(&self) -> Option<Connection> {
        self.inbound.lock().connections[Lane::Control as usize].clone()
    }

    /// Turns `true` when this peer is not to be spoken to any more.
    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Ends its tasks and closes everything that connects to it.
    pub(crate) fn close(&self, code: CloseCode) {
        let reason = code.to_string();
        let close = |connection: Option<Connection>| {
            if let Some(connection) = connection {
                connection.close(code.var_int(), reason.as_bytes());
            }
        };
        close(self.control.connection());
        close(self.append.connection());
        close(self.bulk_connection.lock().take());
        let inbound = std::mem::take(&mut self.inbound.lock().connections);
        inbound.into_iter().for_each(close);
        self.stop.send_replace(true);
        self.calls.fail_all("the connection was closed");
    }

    pub(crate) fn stats(&self) -> PeerStats {
        let (boot, inbound) = {
            let inbound = self.inbound.lock();
            (inbound.boot, inbound.connections.each_ref().map(Option::is_some))
        };
        let connection = self.control.connection();
        PeerStats {
            id: self.id,
            key: self.key,
            round_trip: connection.as_ref().and_then(endpoint::round_trip),
            boot,
            control: self.control.stats(),
            append: self.append.stats(),
            bulk: self.bulk_connection().is_some(),
            inbound,
        }
    }
}

fn supersede(connection: Option<Connection>) {
    if let Some(connection) = connection {
        let code = CloseCode::Superseded;
        connection.close(code.var_int(), code.to_string().as_bytes());
    }
}
