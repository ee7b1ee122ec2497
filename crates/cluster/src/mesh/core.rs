//! The mesh without I/O: datagrams and a clock in, datagrams and events out.
use std::net::SocketAddr;
use std::time::Duration;

use straightway_packet::MacAddr;
use straightway_packet::overlay::{Control, Heartbeat, HeartbeatReply, Message, PacketType};

use super::peer::Peer;
use super::seal::Sealed;
use super::{
    Datagram, Event, MAX_HOPS, MAX_PEERS, MeshConfig, Out, PeerStatus, Reach, Reject, Rejected,
    mac_address,
};
use crate::error::ClusterError;
use crate::ids::{NodeKey, RaftId};
use crate::lease::BootTime;

/// Messages that are passed on from one tick to the next, at most.
const MAX_PASSED_ON: u32 = 256;

/// One node of the mesh.
#[derive(Debug)]
pub struct Mesh {
    config: MeshConfig,
    mac: MacAddr,
    peers: Vec<Peer>,
    rejected: Rejected,
    next_id: u32,
    ticks: usize,
    passed_on: u32,
    started: Option<BootTime>,
    last_tick: Option<BootTime>,
    /// Since when this node has been ticking without a gap: silence before that was its own.
    awake_since: BootTime,
}

impl Mesh {
    /// A node without peers.
    pub fn new(config: MeshConfig) -> Self {
        Self {
            config,
            mac: mac_address(&config.key),
            peers: Vec::new(),
            rejected: Rejected::default(),
            next_id: 0,
            ticks: 0,
            passed_on: 0,
            started: None,
            last_tick: None,
            awake_since: BootTime(0),
        }
    }

    /// Adds a peer, or gives it another address. Without one it is sent to at the address from which it is heard first.
    ///
    /// # Errors
    /// [`ClusterError::Busy`] beyond [`MAX_PEERS`]; [`ClusterError::Config`] for this node itself.
    pub fn peer(
        &mut self,
        id: RaftId,
        key: &NodeKey,
        addr: Option<SocketAddr>,
    ) -> Result<(), ClusterError> {
        let mac = mac_address(key);
        if id == self.config.me || mac == self.mac {
            return Err(ClusterError::Config {
                what: format!("member {id} is this node; it is no peer of itself"),
            });
        }
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
            peer.addr = addr.or(peer.addr);
            return Ok(());
        }
        if self.peers.len() >= MAX_PEERS {
            return Err(ClusterError::Busy { what: "the list of peers in the mesh" });
        }
        self.peers.push(Peer::new(id, mac, addr));
        Ok(())
    }

    /// A secret that this node and a peer share, of a connection between them. The newest is used to send; the last four are
    /// accepted.
    pub fn secret(&mut self, id: RaftId, secret: [u8; 32]) {
        let me = self.config.me;
        if let Some(peer) = self.find(id) {
            peer.secret(secret, me);
        }
    }

    /// Forgets a peer and its secrets.
    pub fn forget(&mut self, id: RaftId) {
        self.peers.retain(|peer| peer.id != id);
    }

    /// Sends heartbeats and looks who is silent. To be called every period.
    pub fn tick(&mut self, now: BootTime, out: &mut impl Out) {
        let two = self.config.period.saturating_mul(2);
        let gap = self.last_tick.is_none_or(|last| now.since(last) > two);
        if gap {
            self.awake_since = now;
        }
        self.last_tick = Some(now);
        let started = *self.started.get_or_insert(now);
        let duration_ms = now.since(started).as_millis();
        self.ticks = self.ticks.wrapping_add(1);
        self.passed_on = 0;
        let limit = self.limit();
        for place in 0..self.peers.len() {
            self.peers[place].expire(now, limit);
            self.judge(place, now, out);
            let heartbeat = Heartbeat { duration_ms, id: 0, hops: 0, source: self.mac };
            self.probe(place, place, heartbeat, now, out);
            let peer = &self.peers[place];
            // In time to know whether there is another way when the direct one is given up.
            if peer.is_doubtful(now, self.awake_since, two) {
                let to = peer.mac;
                if let Some(relay) = self.relay(|peer| peer.mac != to) {
                    self.probe(place, relay, heartbeat, now, out);
                }
            }
        }
    }

    /// A datagram has come.
    ///
    /// # Errors
    /// [`Reject`], which has been counted; nothing else has changed.
    pub fn received(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        now: BootTime,
        out: &mut impl Out,
    ) -> Result<(), Reject> {
        let taken = self
            .prove(bytes, from)
            .and_then(|(place, message)| self.take(place, message, now, out));
        if let Err(why) = taken {
            self.rejected.count(why);
        }
        taken
    }

    /// Puts members in the order in which they are to be preferred: this node, then those that answer, the nearest first,
    /// then those reached through others, those not measured, and at the end those that are suspected.
    pub fn nearest(&self, ids: &mut [RaftId]) {
        ids.sort_by_key(|id| {
            if *id == self.config.me {
                return (0, Duration::ZERO);
            }
            let Some(peer) = self.peers.iter().find(|peer| peer.id == *id) else {
                return (3, Duration::ZERO);
            };
            let class = match peer.reach {
                Reach::Direct => 1,
                Reach::Relayed { .. } => 2,
                Reach::Unknown => 3,
                Reach::Suspect => 4,
            };
            (class, peer.rtt().unwrap_or_default())
        });
    }

    /// What is known of a peer.
    pub fn status(&self, id: RaftId) -> Option<PeerStatus> {
        self.peers.iter().find(|peer| peer.id == id).map(Peer::status)
    }

    /// What is known of all peers.
    pub fn statuses(&self) -> Vec<(RaftId, PeerStatus)> {
        self.peers.iter().map(|peer| (peer.id, peer.status())).collect()
    }

    /// What was refused.
    pub fn rejected(&self) -> Rejected {
        self.rejected
    }

    fn limit(&self) -> Duration {
        self.config.period.saturating_mul(self.config.missed)
    }

    fn find(&mut self, id: RaftId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// Whether it is from a peer, made by it and new; which peer, and what it says.
    fn prove<'a>(
        &mut self,
        bytes: &'a [u8],
        from: SocketAddr,
    ) -> Result<(usize, Message<'a>), Reject> {
        let sealed = Sealed::split(bytes).ok_or(Reject::Length)?;
        if !sealed.is_of_this_version() {
            return Err(Reject::Version);
        }
        let sender = sealed.sender();
        if sender == self.config.me {
            return Err(Reject::Reflected);
        }
        let place = self.peers.iter().position(|peer| peer.id == sender).ok_or(Reject::Unknown)?;
        let peer = &mut self.peers[place];
        if peer.keys.is_empty() {
            return Err(Reject::Unkeyed);
        }
        let keys =
            peer.keys.iter_mut().rev().find(|keys| keys.proves(&sealed)).ok_or(Reject::Forged)?;
        if !keys.take(sealed.counter()) {
            return Err(Reject::Replayed);
        }
        peer.addr.get_or_insert(from);
        let message = Message::parse(sealed.message).map_err(|_| Reject::Malformed)?;
        if message.wire_size() != sealed.message.len() {
            return Err(Reject::Malformed);
        }
        if message.from != peer.mac {
            return Err(Reject::Misaddressed);
        }
        Ok((place, message))
    }

    /// What a peer says: answered, taken as an answer, or passed on.
    fn take(
        &mut self,
        place: usize,
        message: Message<'_>,
        now: BootTime,
        out: &mut impl Out,
    ) -> Result<(), Reject> {
        let PacketType::Control(control) = message.packet else { return Err(Reject::Malformed) };
        let (heartbeat, origin) = match control {
            Control::Heartbeat(heartbeat) => (heartbeat, heartbeat.source),
            Control::HeartbeatReply(reply) => (reply.heartbeat, reply.sender),
        };
        // Who is not passed on speaks for itself, and everybody speaks as a member.
        let neighbour = self.peers[place].mac;
        let speaker =
            self.peers.iter().position(|peer| peer.mac == origin).ok_or(Reject::Misaddressed)?;
        if message.to != self.mac {
            return self.pass_on(neighbour, origin, message.to, control, out);
        }
        match control {
            Control::Heartbeat(_) => {
                if (heartbeat.hops == 0) != (speaker == place) {
                    return Err(Reject::Misaddressed);
                }
                let reply = heartbeat.reply(self.mac);
                self.send(place, origin, Control::HeartbeatReply(reply), out);
                Ok(())
            }
            Control::HeartbeatReply(_) => {
                if heartbeat.source != self.mac {
                    return Err(Reject::Misaddressed);
                }
                self.answered(speaker, place, heartbeat, now, out)
            }
        }
    }

    /// A peer has answered, by `neighbour`.
    fn answered(
        &mut self,
        speaker: usize,
        neighbour: usize,
        heartbeat: Heartbeat,
        now: BootTime,
        out: &mut impl Out,
    ) -> Result<(), Reject> {
        let via = self.peers[neighbour].id;
        let peer = &mut self.peers[speaker];
        let answer = peer.answer(heartbeat.id, now).ok_or(Reject::Unasked)?;
        if answer.relayed {
            peer.relayed.sample(answer.rtt);
            peer.last_relayed = Some(now);
            peer.via = (via, heartbeat.hops);
        } else {
            peer.direct.sample(answer.rtt);
            peer.last_direct = Some(now);
        }
        self.judge(speaker, now, out);
        Ok(())
    }

    /// Another member is meant: one hop further, to it or towards it.
    fn pass_on(
        &mut self,
        neighbour: MacAddr,
        origin: MacAddr,
        to: MacAddr,
        control: Control,
        out: &mut impl Out,
    ) -> Result<(), Reject> {
        let further = |heartbeat: Heartbeat, most: u32| {
            let next = heartbeat.forwarded().map_err(|_| Reject::TooFar)?;
            if next.hops > most { Err(Reject::TooFar) } else { Ok(next) }
        };
        let control = match control {
            Control::Heartbeat(heartbeat) => Control::Heartbeat(further(heartbeat, MAX_HOPS)?),
            Control::HeartbeatReply(HeartbeatReply { heartbeat, sender }) => {
                Control::HeartbeatReply(further(heartbeat, 2 * MAX_HOPS)?.reply(sender))
            }
        };
        let target =
            self.peers.iter().position(|peer| peer.mac == to).ok_or(Reject::Misaddressed)?;
        let direct = self.peers[target].reach == Reach::Direct;
        let fits = |peer: &Peer| ![neighbour, origin, to].contains(&peer.mac);
        let next = if direct { Some(target) } else { self.relay(fits) }.ok_or(Reject::NoWay)?;
        if self.passed_on >= MAX_PASSED_ON {
            return Err(Reject::NoWay);
        }
        self.passed_on += 1;
        self.send(next, to, control, out);
        Ok(())
    }

    /// One of the peers that answer, another one at each tick.
    fn relay(&self, fits: impl Fn(&Peer) -> bool) -> Option<usize> {
        let direct = |(_, peer): &(usize, &Peer)| peer.reach == Reach::Direct && fits(peer);
        let count = self.peers.iter().enumerate().filter(direct).count();
        let chosen = self.ticks.checked_rem(count)?;
        self.peers.iter().enumerate().filter(direct).nth(chosen).map(|(place, _)| place)
    }

    /// Sends a heartbeat to a peer, by itself or by another one.
    fn probe(
        &mut self,
        target: usize,
        by: usize,
        heartbeat: Heartbeat,
        now: BootTime,
        out: &mut impl Out,
    ) {
        let to = self.peers[target].mac;
        self.next_id = self.next_id.wrapping_add(1);
        let heartbeat = Heartbeat { id: self.next_id, ..heartbeat };
        if self.send(by, to, Control::Heartbeat(heartbeat), out) {
            self.peers[target].probing(heartbeat.id, now, by != target);
        }
    }

    /// Sends a message for `to` to a peer; `false`: it has no address or no secret yet.
    fn send(&mut self, by: usize, to: MacAddr, control: Control, out: &mut impl Out) -> bool {
        let (me, mac) = (self.config.me, self.mac);
        let peer = &mut self.peers[by];
        let (Some(addr), Some(keys)) = (peer.addr, peer.keys.last_mut()) else { return false };
        let mut datagram = Datagram::new();
        let message = Message::new(mac, to, PacketType::Control(control));
        let written = datagram.fill_with(|room| message.write_to(room)).ok();
        if written.and_then(|_| keys.seal(&mut datagram, me)).is_none() {
            return false;
        }
        out.datagram(addr, datagram);
        true
    }

    /// How a peer is reached now, and whether that is news.
    fn judge(&mut self, place: usize, now: BootTime, out: &mut impl Out) {
        let reach = self.peers[place].reached(now, self.awake_since, self.limit());
        let peer = &mut self.peers[place];
        let before = std::mem::replace(&mut peer.reach, reach);
        let peer = peer.id;
        match (before, reach) {
            (Reach::Suspect | Reach::Relayed { .. }, Reach::Direct) => {
                out.event(Event::Recovered { peer });
            }
            (Reach::Relayed { via: old, .. }, Reach::Relayed { via, .. }) if old == via => {}
            (_, Reach::Relayed { via, .. }) => out.event(Event::Relayed { peer, via }),
            (Reach::Direct | Reach::Unknown | Reach::Relayed { .. }, Reach::Suspect) => {
                out.event(Event::Suspected { peer });
            }
            _ => {}
        }
    }
}
