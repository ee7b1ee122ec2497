//! What is known of a peer, and what connects to it.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use parking_lot::{Mutex, RwLock};
use straightway_wire::raft::Lane;
use straightway_wire::{Agreed, Hello, Pending};
use tokio::sync::{Semaphore, watch};

use super::close::CloseCode;
use super::endpoint;
use super::lane::{LaneStats, OutLane};
use super::limits::NetLimits;
use super::members::MemberAddress;
use crate::ids::{NodeKey, RaftId};

/// Addresses of a hint that count.
const MAX_HINTED: usize = 8;

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
    /// What it said last on each lane.
    hellos: [Option<Hello>; 3],
}

/// Where a peer may be.
#[derive(Debug, Default)]
struct Addresses {
    /// As the catalogue says.
    known: Vec<SocketAddr>,
    /// As somebody says, who need not be honest. The last word counts.
    hinted: Vec<SocketAddr>,
    /// When a hint last made this node dial.
    followed: Option<Instant>,
}

/// A peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: RaftId,
    pub(crate) key: NodeKey,
    addresses: RwLock<Addresses>,
    control: OutLane,
    append: OutLane,
    /// Dialled when it is needed first. Held while dialling, so that it is dialled once.
    pub(crate) bulk: tokio::sync::Mutex<()>,
    bulk_connection: Mutex<Option<Connection>>,
    inbound: Mutex<Inbound>,
    /// Bytes of messages that are received and not handled.
    received: [Arc<Semaphore>; 2],
    /// Calls that are being answered.
    pub(crate) answering: Arc<Semaphore>,
    /// Transfers that this node began, by sort.
    transfers: [Arc<Semaphore>; 3],
    /// Transfers that the peer began.
    pub(crate) served: Arc<Semaphore>,
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
            addresses: RwLock::new(Addresses {
                known: member.addresses.clone(),
                ..Addresses::default()
            }),
            control: OutLane::new(Lane::Control, limits.control_queue),
            append: OutLane::new(Lane::Append, limits.append_queue),
            bulk: tokio::sync::Mutex::new(()),
            bulk_connection: Mutex::new(None),
            inbound: Mutex::new(Inbound::default()),
            received: [Lane::Control, Lane::Append].map(|lane| permits(limits.inbound(lane))),
            answering: permits(limits.calls_answered),
            transfers: [permits(limits.transfers), permits(limits.transfers), permits(1)],
            served: permits(limits.streams()),
            calls: Pending::new(limits.calls_pending),
            stop: watch::Sender::new(false),
        }
    }

    /// Room for what it sends on a lane, in bytes. Votes and heartbeats do not wait for entries that are put off.
    pub(crate) fn received(&self, lane: Lane) -> &Arc<Semaphore> {
        &self.received[usize::from(lane != Lane::Control)]
    }

    /// Who may begin a transfer of this sort.
    pub(crate) fn transfers(&self, sort: TransferSort) -> Arc<Semaphore> {
        Arc::clone(&self.transfers[sort as usize])
    }

    /// All at which it is dialled; whoever answers there has to prove that it is this peer.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let Addresses { known, hinted, .. } = &*self.addresses.read();
        let more = hinted.iter().filter(|address| !known.contains(address));
        known.iter().chain(more).copied().collect()
    }

    /// It may be found there. Where it is not connected it is dialled there at once, unless it was a moment ago for the same
    /// reason: hints may be forged, and must not make this node send without end.
    pub(crate) fn hint(&self, addresses: &[SocketAddr], pause: Duration, now: Instant) {
        {
            let mut known = self.addresses.write();
            known.hinted = addresses[..addresses.len().min(MAX_HINTED)].to_vec();
            if known.followed.is_some_and(|at| now.saturating_duration_since(at) < pause) {
                return;
            }
            known.followed = Some(now);
        }
        for lane in [&self.control, &self.append] {
            if lane.connection().is_none() {
                lane.hinted.notify_one();
            }
        }
    }

    /// The peer has moved: it is dialled at its new place at once.
    pub(crate) fn move_to(&self, addresses: &[SocketAddr]) {
        {
            let known = &mut self.addresses.write().known;
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

    /// What the peer and who says `hello` have in common on a lane; nothing while it has not spoken.
    pub(crate) fn agreed(&self, lane: Lane, hello: &Hello) -> Option<Agreed> {
        self.inbound.lock().hellos[lane as usize].map(|theirs| hello.agree(&theirs))
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
                inbound.hellos = [None; 3];
            }
            supersede(inbound.connections[lane as usize].replace(connection.clone()));
            inbound.hellos[lane as usize] = Some(*hello);
            restarted
        };
        if restarted {
            // The old process cannot say that it is gone; its connections would be held until they time out.
            self.redial();
        } else if lane == Lane::Control {
            // It is there: who waits before dialling again, or dialled before it listened, need not wait longer.
            self.control.redial_if_down();
            self.append.redial_if_down();
        }
        Ok(())
    }

    /// Forgets a connection that has ended.
    pub(crate) fn let_go(&self, lane: Lane, connection: &Connection) {
        let mut inbound = self.inbound.lock();
        let place = &mut inbound.connections[lane as usize];
        if place.as_ref().is_some_and(|held| held.stable_id() == connection.stable_id()) {
            *place = None;
            // What it can do is said anew by whoever comes next: it may have been started with other settings.
            inbound.hellos[lane as usize] = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_dialled_beside_what_is_known_and_wake_once_in_a_while() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let member = MemberAddress {
            id: 2,
            key: NodeKey([2; 32]),
            addresses: vec![address(1)],
            storage: None,
        };
        let peer = Peer::new(&member, &NetLimits::default());
        let woken = |peer: &Peer| {
            let mut waiting = std::pin::pin!(peer.control.hinted.notified());
            waiting.as_mut().enable()
        };
        let (start, pause) = (Instant::now(), Duration::from_secs(1));
        peer.hint(&[address(2), address(1)], pause, start);
        assert_eq!(peer.addresses(), [address(1), address(2)]);
        assert!(woken(&peer));
        // The next one is kept, and wakes nobody.
        peer.hint(&(3..40).map(address).collect::<Vec<_>>(), pause, start + pause / 2);
        assert_eq!(peer.addresses().len(), 1 + MAX_HINTED);
        assert!(!woken(&peer));
        peer.hint(&[address(9)], pause, start + pause);
        assert!(woken(&peer));
        peer.move_to(&[address(9)]);
        assert_eq!(peer.addresses(), [address(9)]);
    }
}
