//! Nodes, links between them with their delays, and a clock that goes from event to event.
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::super::{Datagram, Event, Mesh, MeshConfig, Out, PERIOD};
use crate::ids::{NodeKey, RaftId};
use crate::lease::BootTime;

pub(super) fn key(id: RaftId) -> NodeKey {
    NodeKey([u8::try_from(id).unwrap(); 32])
}

pub(super) fn addr(id: RaftId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(id).unwrap()], 7000))
}

pub(super) fn secret(a: RaftId, b: RaftId) -> [u8; 32] {
    let mut secret = [7; 32];
    (secret[0], secret[1]) = (u8::try_from(a.min(b)).unwrap(), u8::try_from(a.max(b)).unwrap());
    secret
}

/// Keeps what a mesh wants done.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) datagrams: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) events: Vec<Event>,
}

impl Out for Kept {
    fn datagram(&mut self, to: SocketAddr, bytes: Datagram) {
        self.datagrams.push((to, bytes.to_vec()));
    }

    fn event(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// A mesh that knows the peers `2..=count`-wise, with secrets.
pub(super) fn mesh(me: RaftId, count: RaftId) -> Mesh {
    let mut mesh = Mesh::new(MeshConfig::new(me, key(me)));
    for id in (1..=count).filter(|id| *id != me) {
        mesh.peer(id, &key(id), Some(addr(id))).unwrap();
        mesh.secret(id, secret(me, id));
    }
    mesh
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) now: BootTime,
    pub(super) meshes: Vec<Mesh>,
    /// One-way delays; a link without one is cut.
    links: HashMap<(RaftId, RaftId), Duration>,
    /// Nodes that do nothing.
    pub(super) paused: Vec<RaftId>,
    /// Of the datagrams of a link every so-manieth is lost; 0: none.
    pub(super) lose_every: u64,
    sent: u64,
    on_the_way: BTreeMap<(BootTime, u64), (RaftId, RaftId, Vec<u8>)>,
    pub(super) events: Vec<(RaftId, Event)>,
}

impl Network {
    pub(super) fn new(count: RaftId) -> Self {
        Self {
            now: BootTime(1_000_000_000_000),
            meshes: (1..=count).map(|id| mesh(id, count)).collect(),
            links: HashMap::new(),
            paused: Vec::new(),
            lose_every: 0,
            sent: 0,
            on_the_way: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Both ways, each `ms` long.
    pub(super) fn link(&mut self, a: RaftId, b: RaftId, ms: u64) {
        self.links.insert((a, b), Duration::from_millis(ms));
        self.links.insert((b, a), Duration::from_millis(ms));
    }

    pub(super) fn cut(&mut self, a: RaftId, b: RaftId) {
        self.links.remove(&(a, b));
        self.links.remove(&(b, a));
    }

    pub(super) fn mesh(&mut self, id: RaftId) -> &mut Mesh {
        &mut self.meshes[usize::try_from(id - 1).unwrap()]
    }

    /// So many periods.
    pub(super) fn run(&mut self, periods: u32) {
        for _ in 0..periods {
            for id in 1..=self.meshes.len() as u64 {
                if !self.paused.contains(&id) {
                    let now = self.now;
                    self.act(id, |mesh, kept| mesh.tick(now, kept));
                }
            }
            self.deliver(self.now.after(PERIOD));
        }
    }

    /// What arrives until then.
    pub(super) fn deliver(&mut self, until: BootTime) {
        while let Some(entry) = self.on_the_way.first_entry() {
            if entry.key().0 >= until {
                break;
            }
            let ((now, _), (from, to, bytes)) = entry.remove_entry();
            self.now = now;
            if !self.paused.contains(&to) {
                self.act(to, |mesh, kept| {
                    let _counted = mesh.received(&bytes, addr(from), now, kept);
                });
            }
        }
        self.now = until;
    }

    fn act(&mut self, id: RaftId, act: impl FnOnce(&mut Mesh, &mut Kept)) {
        let mut kept = Kept::default();
        act(self.mesh(id), &mut kept);
        self.events.extend(kept.events.into_iter().map(|event| (id, event)));
        for (to, bytes) in kept.datagrams {
            let to = (1..=self.meshes.len() as u64).find(|id| addr(*id) == to).unwrap();
            self.sent += 1;
            let lost = self.lose_every > 0 && self.sent.is_multiple_of(self.lose_every);
            if let Some(delay) = self.links.get(&(id, to)).filter(|_| !lost) {
                self.on_the_way.insert((self.now.after(*delay), self.sent), (id, to, bytes));
            }
        }
    }
}
