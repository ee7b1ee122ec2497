//! Fragments put together again (RFC 791, RFC 8200 §4.5), with a bound on everything that a sender could fill.
//!
//! An attacker can send fragments that overlap, so as to slip past a filter, and fragments that never complete, so as
//! to fill the memory (RFC 1858, RFC 5722, CVE-2018-5391). So any overlap discards the datagram and what still comes of
//! it, for IPv4 as RFC 5722 has it for IPv6; a fragment that was received before, bit by bit, is ignored; and memory,
//! datagrams, fragments and age are bounded, for all together and for each source. What gives way when the bounds are
//! reached is the oldest datagram of the source that holds most.
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::error::PacketError;
use crate::view::{Ipv4, Ipv6};

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
    /// It, and all that was or will be received of its datagram, is dropped: it overlaps another one, or there are too
    /// many.
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
    /// Datagrams that gave way to others.
    pub evicted: u64,
    /// Fragments that came twice.
    pub duplicates: u64,
    /// Fragments that break a rule by themselves.
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

#[derive(Debug, Default)]
struct Pieces {
    /// Ordered by offset, never overlapping.
    list: Vec<Piece>,
    /// Length of the whole payload, once the last fragment is there.
    end: Option<usize>,
    /// Header of the first fragment, made that of the whole packet.
    header: Option<Bytes>,
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    bytes: Bytes,
}

/// A fragment, of either version.
struct Fragment<'a> {
    key: Key,
    /// The header of the whole packet, but for its length.
    header: &'a [u8],
    offset: usize,
    more: bool,
    payload: &'a [u8],
}

/// Payload and header of a packet together, at most.
const MAX_PACKET: usize = 65_535;

impl Reassembler {
    /// With other bounds than the usual ones.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes an IPv4 packet; `now` is any clock that does not go back.
    ///
    /// # Errors
    /// Those of [`Ipv4::parse`], and [`PacketError::BadField`] for a fragment that no packet can have.
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
        self.add(&Fragment { key, header: ip.header(), offset, more, payload: ip.payload() }, now)
    }

    /// Takes an IPv6 packet; `now` is any clock that does not go back. A fragment that is the whole packet (RFC 6946) is
    /// complete at once, whatever else came under its identification.
    ///
    /// # Errors
    /// Those of [`Ipv6::parse`] and [`Ipv6::upper`], and [`PacketError::BadField`] for a fragment that no packet can
    /// have.
    pub fn add_v6(
        &mut self,
        packet: &[u8],
        vlan: Option<u16>,
        now: Duration,
    ) -> Result<Outcome, PacketError> {
        let ip = Ipv6::parse(packet)?;
        let mut headers = ip.extensions();
        let found = loop {
            match headers.next() {
                Some(Ok(crate::view::ExtensionHeader::Fragment(fragment))) => break fragment,
                Some(header) => drop(header?),
                None => return Ok(Outcome::Whole),
            }
        };
        let payload = headers.rest();
        let behind_header = packet.len().min(Ipv6::HEADER_BYTES + ip.payload().len());
        // Header and extension headers up to the fragment header, whose place the next header takes.
        let header = &packet[..behind_header - payload.len() - 8];
        let key = Key {
            from: ip.source().into(),
            to: ip.destination().into(),
            identification: found.identification,
            protocol: 0,
            vlan,
        };
        let mut unfragmented = [0; 256];
        let Some(room) = unfragmented.get_mut(..header.len()) else {
            self.stats.refused += 1;
            return Err(broken(
                "header length",
                header.len(),
                "is more than is kept of a fragment",
            ));
        };
        room.copy_from_slice(header);
        let at = next_header_at(&ip, header.len());
        room[at] = found.next_header;
        let (offset, more) = (found.offset, found.more);
        let fragment = Fragment { key, header: room, offset, more, payload };
        if offset == 0 && !more {
            self.stats.completed += 1;
            return Ok(Outcome::Complete(join(fragment.header, [payload].into_iter())));
        }
        self.add(&fragment, now)
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
        let Limits { age_v4, age_v6, .. } = self.limits;
        let (bytes, stats) = (&mut self.bytes, &mut self.stats);
        self.waiting.retain(|key, datagram| {
            let age = if key.from.is_ipv4() { age_v4 } else { age_v6 };
            let keep = now.saturating_sub(datagram.since) <= age;
            if let (false, State::Gathering(pieces)) = (keep, &datagram.state) {
                *bytes -= pieces.bytes;
                stats.expired += 1;
            }
            keep
        });
    }

    fn add(&mut self, fragment: &Fragment<'_>, now: Duration) -> Result<Outcome, PacketError> {
        self.expire(now);
        if let Err(error) = check(fragment) {
            self.stats.refused += 1;
            return Err(error);
        }
        if !self.waiting.contains_key(&fragment.key) {
            self.make_room(fragment);
            let state = State::Gathering(Pieces::default());
            self.waiting.insert(fragment.key, Datagram { since: now, state });
        } else if self.bytes + fragment.payload.len() > self.limits.bytes {
            self.evict_until(fragment.payload.len(), Some(fragment.key));
        }
        let Some(datagram) = self.waiting.get_mut(&fragment.key) else {
            return Ok(Outcome::Discarded);
        };
        let State::Gathering(pieces) = &mut datagram.state else { return Ok(Outcome::Discarded) };
        let before = pieces.bytes;
        let added = pieces.add(fragment, self.limits.fragments);
        self.bytes += pieces.bytes - before;
        match added {
            Added::Kept if pieces.is_complete() => {
                let whole = pieces.whole();
                self.bytes -= pieces.bytes;
                self.waiting.remove(&fragment.key);
                self.stats.completed += 1;
                Ok(whole.map_or(Outcome::Discarded, Outcome::Complete))
            }
            Added::Kept => Ok(Outcome::Waiting),
            Added::Duplicate => {
                self.stats.duplicates += 1;
                Ok(Outcome::Duplicate)
            }
            Added::Overlap | Added::TooMany => {
                self.bytes -= pieces.bytes;
                datagram.state = State::Discarded;
                if let Added::Overlap = added {
                    self.stats.overlapped += 1;
                } else {
                    self.stats.evicted += 1;
                }
                Ok(Outcome::Discarded)
            }
        }
    }

    /// Makes room for a new datagram.
    fn make_room(&mut self, fragment: &Fragment<'_>) {
        let source = fragment.key.from;
        while self.waiting.keys().filter(|key| key.from == source).count()
            >= self.limits.datagrams_per_source.max(1)
        {
            self.evict_oldest_of(source, None);
        }
        while self.waiting.len() >= self.limits.datagrams.max(1) {
            self.evict_one(None);
        }
        self.evict_until(fragment.payload.len(), None);
    }

    /// Evicts until that many more bytes fit; spares one datagram as long as there are others.
    fn evict_until(&mut self, more: usize, spare: Option<Key>) {
        while self.bytes + more > self.limits.bytes && self.bytes > 0 {
            if !self.evict_one(spare) {
                self.evict_one(None);
            }
        }
    }

    /// Evicts the oldest datagram of the source that holds most bytes; `false`: there is none.
    fn evict_one(&mut self, spare: Option<Key>) -> bool {
        let mut held: HashMap<IpAddr, (usize, usize)> = HashMap::new();
        for (key, datagram) in self.waiting.iter().filter(|(key, _)| Some(**key) != spare) {
            let of_source = held.entry(key.from).or_default();
            of_source.0 += datagram.bytes();
            of_source.1 += 1;
        }
        let most = held.into_iter().max_by_key(|(_, held)| *held);
        most.is_some_and(|(source, _)| self.evict_oldest_of(source, spare))
    }

    fn evict_oldest_of(&mut self, source: IpAddr, spare: Option<Key>) -> bool {
        let of_source =
            self.waiting.iter().filter(|(key, _)| key.from == source && Some(**key) != spare);
        let oldest = of_source.min_by_key(|(_, datagram)| datagram.since).map(|(key, _)| *key);
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
            State::Gathering(pieces) => pieces.bytes,
            State::Discarded => 0,
        }
    }
}

enum Added {
    Kept,
    Duplicate,
    Overlap,
    TooMany,
}

impl Pieces {
    fn add(&mut self, fragment: &Fragment<'_>, most: usize) -> Added {
        let (start, end) = (fragment.offset, fragment.offset + fragment.payload.len());
        let at = self.list.partition_point(|piece| piece.offset < start);
        if let Some(same) = self.list.get(at)
            && same.offset == start
            && same.bytes == fragment.payload
            && fragment.more == (self.end != Some(end))
        {
            return Added::Duplicate;
        }
        let before = at.checked_sub(1).and_then(|before| self.list.get(before));
        let overlaps = before.is_some_and(|piece| piece.end() > start)
            || self.list.get(at).is_some_and(|piece| piece.offset < end)
            // Beyond an end that is known, or an end where there is something beyond.
            || self.end.is_some_and(|known| end > known || !fragment.more)
            || !fragment.more && self.list.last().is_some_and(|last| last.end() > end);
        if overlaps {
            return Added::Overlap;
        }
        if self.list.len() >= most {
            return Added::TooMany;
        }
        if !fragment.more {
            self.end = Some(end);
        }
        if start == 0 {
            self.header = Some(Bytes::copy_from_slice(fragment.header));
        }
        self.bytes += fragment.payload.len();
        self.list
            .insert(at, Piece { offset: start, bytes: Bytes::copy_from_slice(fragment.payload) });
        Added::Kept
    }

    fn is_complete(&self) -> bool {
        // They do not overlap: as many bytes as there are to be means that none is missing.
        self.end == Some(self.bytes)
    }

    fn whole(&self) -> Option<Bytes> {
        let payloads = self.list.iter().map(|piece| &piece.bytes[..]);
        self.header.as_ref().map(|header| join(header, payloads))
    }
}

impl Piece {
    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }
}

/// Rules that a fragment can break by itself.
fn check(fragment: &Fragment<'_>) -> Result<(), PacketError> {
    let len = fragment.payload.len();
    let end = fragment.offset + len;
    if len == 0 {
        return Err(broken("length", len, "must be at least one byte"));
    }
    if fragment.more && !len.is_multiple_of(8) {
        return Err(broken(
            "length",
            len,
            "must be a multiple of eight in all fragments but the last",
        ));
    }
    // IPv6 counts what follows its header, IPv4 that too.
    let counted = fragment.header.len() - if fragment.key.from.is_ipv6() { 40 } else { 0 };
    if counted + end > MAX_PACKET {
        return Err(broken("end", end, "is beyond the longest packet"));
    }
    Ok(())
}

fn broken(field: &'static str, value: usize, rule: &'static str) -> PacketError {
    PacketError::BadField { layer: "fragment", field, value: value as u64, rule }
}

/// Where the last header before the fragment header says what follows it.
fn next_header_at(ip: &Ipv6<'_>, header_len: usize) -> usize {
    let mut at = Ipv6::HEADER_BYTES;
    let mut last = 6;
    for header in ip.extensions().flatten() {
        if at >= header_len {
            break;
        }
        last = at;
        at += header.len();
    }
    last
}

/// A packet of a fragment's header and all payload, its lengths and checksum made right.
fn join<'a>(header: &[u8], payloads: impl Iterator<Item = &'a [u8]> + Clone) -> Bytes {
    let payload: usize = payloads.clone().map(<[u8]>::len).sum();
    let mut whole = BytesMut::with_capacity(header.len() + payload);
    whole.extend_from_slice(header);
    payloads.for_each(|payload| whole.extend_from_slice(payload));
    // Checked with every fragment: no more than fits the field.
    let len = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    if header[0] >> 4 == 4 {
        let total = len(whole.len());
        whole[2..4].copy_from_slice(&total);
        // No fragment any more.
        whole[6] &= 0x40;
        whole[7] = 0;
        whole[10..12].copy_from_slice(&[0, 0]);
        let sum = crate::checksum::checksum(&whole[..header.len()]);
        whole[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let behind = len(whole.len() - Ipv6::HEADER_BYTES);
        whole[4..6].copy_from_slice(&behind);
    }
    whole.freeze()
}
