//! Fragments put together again (RFC 791, RFC 8200 §4.5), with a bound on everything that a sender could fill.
//!
//! An attacker can send fragments that overlap, so as to slip past a filter, and fragments that never complete, so as
//! to fill the memory (RFC 1858, RFC 5722, CVE-2018-5391). So any overlap discards the datagram and what still comes of
//! it, for IPv4 as RFC 5722 has it for IPv6; a fragment that was received before, bit by bit, is ignored; a first
//! fragment of IPv6 without the whole header chain is refused (RFC 7112); and memory, datagrams, fragments and age are
//! bounded, for all together and for each source. What gives way when a bound is reached is the oldest datagram of the
//! source that has most of what is short: bytes, or datagrams.
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use super::pieces::{Added, Fragment, Pieces, counted, join};
use super::rules::{broken, check_extent, header_chain};
use crate::error::PacketError;
use crate::view::{ExtensionHeader, Ipv4, Ipv6};

/// Bounds of a [`Reassembler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all fragments that wait: 4 MiB.
    pub bytes: usize,
    /// Datagrams that wait: 256.
    pub datagrams: usize,
    /// Datagrams of one source that wait: 16.
    pub datagrams_per_source: usize,
    /// Fragments of one datagram: 64.
    pub fragments: usize,
    /// How long an IPv4 datagram may wait after its first fragment: 30 s.
    pub age_v4: Duration,
    /// How long an IPv6 datagram may: 60 s.
    pub age_v6: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 4 << 20,
            datagrams: 256,
            datagrams_per_source: 16,
            fragments: 64,
            age_v4: Duration::from_secs(30),
            age_v6: Duration::from_mins(1),
        }
    }
}

impl Limits {
    fn age(&self, from: IpAddr) -> Duration {
        if from.is_ipv4() { self.age_v4 } else { self.age_v6 }
    }
}

/// What became of a packet that was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is no fragment: use it as it is.
    Whole,
    /// It is kept until the others come.
    Waiting,
    /// It was the last one: the whole packet, header included.
    Complete(Bytes),
    /// It was received before.
    Duplicate,
    /// It, and all that was or will be received of its datagram, is dropped: it overlaps another one, there are too
    /// many, or they are longer than a packet; or it gave way to others.
    Discarded,
}

/// What a [`Reassembler`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReassemblyStats {
    /// Datagrams put together.
    pub completed: u64,
    /// Datagrams that waited too long.
    pub expired: u64,
    /// Datagrams discarded because fragments overlapped.
    pub overlapped: u64,
    /// Datagrams discarded because they had too many fragments, or more bytes than a packet can have.
    pub oversized: u64,
    /// Datagrams that gave way to others.
    pub evicted: u64,
    /// Fragments that came twice.
    pub duplicates: u64,
    /// Fragments that break a rule by themselves, or whose header was damaged.
    pub refused: u64,
}

/// Puts fragments together.
///
/// ```
/// use std::time::Duration;
/// use straightway_packet::build::UdpPacketBuilder;
/// use straightway_packet::fragment::{Outcome, Reassembler, fragment_v4};
///
/// let builder = UdpPacketBuilder::new("10.0.0.1:1".parse()?, "10.0.0.2:2".parse()?)?.dont_fragment(false);
/// let packet = builder.build(&[7; 4000])?;
/// let mut fragments = Vec::new();
/// fragment_v4(&packet, 1500, &mut Default::default(), |fragment| fragments.push(fragment.to_vec()))?;
/// let (mut reassembler, mut whole) = (Reassembler::default(), None);
/// for fragment in fragments.iter().rev() {
///     if let Outcome::Complete(packet) = reassembler.add_v4(fragment, None, Duration::ZERO)? {
///         whole = Some(packet);
///     }
/// }
/// assert_eq!(whole.as_deref(), Some(&packet[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Reassembler {
    limits: Limits,
    waiting: HashMap<Key, Datagram>,
    /// Until then none has waited too long.
    due: Option<Duration>,
    bytes: usize,
    stats: ReassemblyStats,
}

/// What fragments of one datagram have in common. The VLAN is part of it: addresses mean something within one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    from: IpAddr,
    to: IpAddr,
    identification: u32,
    /// IPv4's protocol; IPv6 has it in the first fragment only.
    protocol: u8,
    vlan: Option<u16>,
}

#[derive(Debug)]
struct Datagram {
    since: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    Gathering(Pieces),
    /// Dropped; remembered so that what still comes of it is dropped too.
    Discarded,
}

impl Reassembler {
    /// With other bounds than the usual ones.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes an IPv4 packet; `now` is any clock that does not go back.
    ///
    /// # Errors
    /// Those of [`Ipv4::parse`]; [`PacketError::BadField`] for a fragment that no packet can have, and
    /// [`PacketError::Checksum`] for one whose header was damaged: nothing else would tell that it was put in the wrong
    /// place, as the order of the bytes does not change the transport's checksum.
    pub fn add_v4(
        &mut self,
        packet: &[u8],
        vlan: Option<u16>,
        now: Duration,
    ) -> Result<Outcome, PacketError> {
        let ip = Ipv4::parse(packet)?;
        if !ip.is_fragment() {
            return Ok(Outcome::Whole);
        }
        let key = Key {
            from: ip.source().into(),
            to: ip.destination().into(),
            identification: u32::from(ip.identification()),
            protocol: ip.protocol(),
            vlan,
        };
        let (offset, more) = (ip.fragment_offset(), ip.more_fragments());
        let fragment = Fragment { header: ip.header(), offset, more, payload: ip.payload() };
        let checked = ip.verify_checksum().and_then(|()| check(&fragment));
        self.refuse(checked)?;
        Ok(self.add(key, &fragment, now))
    }

    /// Takes an IPv6 packet; `now` is any clock that does not go back. A fragment that is the whole packet (RFC 6946) is
    /// complete at once, whatever else came under its identification.
    ///
    /// # Errors
    /// Those of [`Ipv6::parse`] and [`Ipv6::upper`]; [`PacketError::BadField`] for a fragment that no packet can have,
    /// and for a first one that does not hold all headers (RFC 7112).
    pub fn add_v6(
        &mut self,
        packet: &[u8],
        vlan: Option<u16>,
        now: Duration,
    ) -> Result<Outcome, PacketError> {
        let ip = Ipv6::parse(packet)?;
        let mut headers = ip.extensions();
        // Where the last header before the fragment header says what follows it, and where it ends.
        let (mut last, mut end) = (6, Ipv6::HEADER_BYTES);
        let found = loop {
            match headers.next() {
                Some(Ok(ExtensionHeader::Fragment(fragment))) => break fragment,
                Some(header) => (last, end) = (end, end + header?.len()),
                None => return Ok(Outcome::Whole),
            }
        };
        let key = Key {
            from: ip.source().into(),
            to: ip.destination().into(),
            identification: found.identification,
            protocol: 0,
            vlan,
        };
        // Header and extension headers up to the fragment header, whose place the next header takes.
        let mut unfragmented = [0; 256];
        let header = unfragmented
            .get_mut(..end)
            .ok_or_else(|| broken("header length", end, "is more than is kept of a fragment"));
        let header = self.refuse(header)?;
        header.copy_from_slice(&packet[..end]);
        header[last] = found.next_header;
        let (offset, more, payload) = (found.offset, found.more, headers.rest());
        let fragment = Fragment { header, offset, more, payload };
        let first = if offset == 0 { header_chain(headers).map(drop) } else { Ok(()) };
        if offset == 0 && !more {
            self.refuse(first)?;
            self.stats.completed += 1;
            return Ok(Outcome::Complete(join(fragment.header, [payload].into_iter())));
        }
        self.refuse(first.and_then(|()| check(&fragment)))?;
        Ok(self.add(key, &fragment, now))
    }

    /// What it has done.
    pub fn stats(&self) -> ReassemblyStats {
        self.stats
    }

    /// Bytes of fragments that wait.
    pub fn bytes_held(&self) -> usize {
        self.bytes
    }

    /// Datagrams that wait, or are remembered as discarded.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Drops what has waited too long. Happens by itself with every fragment that comes.
    pub fn expire(&mut self, now: Duration) {
        // Not with every fragment a look at all that waits.
        if self.due.is_none_or(|due| now <= due) {
            return;
        }
        let (bytes, stats, limits) = (&mut self.bytes, &mut self.stats, self.limits);
        let mut next: Option<Duration> = None;
        self.waiting.retain(|key, datagram| {
            let due = datagram.since.saturating_add(limits.age(key.from));
            if now <= due {
                next = Some(next.map_or(due, |next| next.min(due)));
                return true;
            }
            if let State::Gathering(pieces) = &datagram.state {
                *bytes -= pieces.bytes();
                stats.expired += 1;
            }
            false
        });
        self.due = next;
    }

    /// Counts what breaks a rule.
    fn refuse<T>(&mut self, checked: Result<T, PacketError>) -> Result<T, PacketError> {
        self.stats.refused += u64::from(checked.is_err());
        checked
    }

    fn add(&mut self, key: Key, fragment: &Fragment<'_>, now: Duration) -> Outcome {
        self.expire(now);
        if !self.waiting.contains_key(&key) {
            self.make_room(key.from);
            let due = now.saturating_add(self.limits.age(key.from));
            self.due = Some(self.due.map_or(due, |next| next.min(due)));
        }
        let datagram = self
            .waiting
            .entry(key)
            .or_insert_with(|| Datagram { since: now, state: State::Gathering(Pieces::default()) });
        let State::Gathering(pieces) = &mut datagram.state else { return Outcome::Discarded };
        let before = pieces.bytes();
        let added = pieces.add(fragment, self.limits.fragments);
        match added {
            Added::Kept => {
                if let Some(whole) = pieces.whole() {
                    self.bytes -= before;
                    self.waiting.remove(&key);
                    self.stats.completed += 1;
                    return Outcome::Complete(whole);
                }
                self.bytes += fragment.payload.len();
                self.evict_bytes();
                // It may be the one that gave way, if its own source holds most.
                let kept = self.waiting.contains_key(&key);
                if kept { Outcome::Waiting } else { Outcome::Discarded }
            }
            Added::Duplicate => {
                self.stats.duplicates += 1;
                Outcome::Duplicate
            }
            Added::Overlap | Added::Oversized => {
                self.bytes -= before;
                datagram.state = State::Discarded;
                match added {
                    Added::Overlap => self.stats.overlapped += 1,
                    _ => self.stats.oversized += 1,
                }
                Outcome::Discarded
            }
        }
    }

    /// Makes room for another datagram of a source.
    fn make_room(&mut self, source: IpAddr) {
        let Limits { datagrams, datagrams_per_source, .. } = self.limits;
        while self.waiting.keys().filter(|key| key.from == source).count()
            >= datagrams_per_source.max(1)
        {
            self.evict_oldest(|key, _| key.from == source);
        }
        while self.waiting.len() >= datagrams.max(1) {
            // What is only remembered goes first; then whoever has most, or many small ones would push out the few.
            if !self.evict_oldest(|_, datagram| datagram.bytes() == 0) {
                self.evict_greediest(|_| 1);
            }
        }
    }

    fn evict_bytes(&mut self) {
        while self.bytes > self.limits.bytes {
            self.evict_greediest(Datagram::bytes);
        }
    }

    /// Evicts the oldest datagram, among those that weigh something, of the source whose datagrams weigh most.
    fn evict_greediest(&mut self, weight: impl Fn(&Datagram) -> usize) {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for (key, datagram) in &self.waiting {
            *held.entry(key.from).or_default() += weight(datagram);
        }
        let most = held.values().copied().max();
        self.evict_oldest(|key, datagram| {
            weight(datagram) > 0 && held.get(&key.from).copied() == most
        });
    }

    /// Evicts the oldest of some datagrams; `false`: there is none.
    fn evict_oldest(&mut self, among: impl Fn(&Key, &Datagram) -> bool) -> bool {
        let candidates = self.waiting.iter().filter(|(key, datagram)| among(key, datagram));
        let oldest = candidates.min_by_key(|(_, datagram)| datagram.since);
        let oldest = oldest.map(|(key, _)| *key);
        let Some(datagram) = oldest.and_then(|key| self.waiting.remove(&key)) else { return false };
        self.bytes -= datagram.bytes();
        if let State::Gathering(_) = datagram.state {
            self.stats.evicted += 1;
        }
        true
    }
}

impl Datagram {
    fn bytes(&self) -> usize {
        match &self.state {
            State::Gathering(pieces) => pieces.bytes(),
            State::Discarded => 0,
        }
    }
}

/// Rules that a fragment can break by itself.
fn check(fragment: &Fragment<'_>) -> Result<(), PacketError> {
    let Fragment { header, offset, more, payload } = *fragment;
    check_extent(offset, payload.len(), more, counted(header))
}
