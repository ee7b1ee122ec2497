//! Records of the log: what they look like on the disk, made and read without touching a file.
//!
//! A record proves itself: its sum covers a secret of its segment and its own place, so that neither an older record of a
//! recycled segment, nor a record inside a payload, nor one written to the wrong place is taken for one. It names the sum of
//! the record before it and the batch that it was written with.
use bytes::Bytes;
use raft::prelude::{ConfState, Entry, EntryType, HardState};
use straightway_wire::Crc32c;

use super::LogMark;

/// Bytes before a payload.
pub(super) const HEAD: usize = 40;
/// Where records may begin.
pub(super) const ALIGN: usize = 8;
/// Lengths of data and context, in front of them if there is a context.
const LENGTHS: usize = 8;

/// The last record of its batch: a batch without one is unfinished.
pub(super) const LAST: u8 = 0x80;
/// A mark that stands for the whole log: entries before it are not kept.
pub(super) const REPLACES: u8 = 0x10;
const CONTEXT: u8 = 0x01;
const SYNC_LOG: u8 = 0x02;
const TYPE_SHIFT: u8 = 2;
const TYPE_MASK: u8 = 0x0c;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first one of a segment: where the log stood.
    Start = 1,
    /// An entry of Raft.
    Entry = 2,
    /// Term, vote and commit.
    HardState = 3,
    /// The state machine holds everything through here.
    Mark = 4,
    /// Entries from here on are void.
    Truncate = 5,
}

impl Kind {
    fn read(byte: u8) -> Option<Self> {
        [Self::Start, Self::Entry, Self::HardState, Self::Mark, Self::Truncate]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    fn knows(self, flags: u8) -> bool {
        let known = match self {
            Self::Entry => CONTEXT | SYNC_LOG | TYPE_MASK,
            Self::Mark => REPLACES,
            Self::Start | Self::HardState | Self::Truncate => 0,
        };
        flags & !(known | LAST) == 0
    }
}

/// The bytes of a record, whole and in place.
pub(super) const fn padded(payload: usize) -> usize {
    (HEAD + payload).next_multiple_of(ALIGN)
}

/// The payload's length of the record of `entry`.
pub(super) fn entry_len(entry: &Entry) -> usize {
    let lengths = if entry.context.is_empty() { 0 } else { LENGTHS };
    lengths + entry.data.len() + entry.context.len()
}

/// The payload's length of a hard state.
pub(super) const HARD_STATE_LEN: usize = 8;

/// The payload of a mark.
pub(super) fn mark_payload(mark: &LogMark) -> Vec<u8> {
    let conf = &mark.conf_state;
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    let mut out = Vec::with_capacity(24 + 8 * lists.iter().map(|list| list.len()).sum::<usize>());
    out.extend_from_slice(&u64::from(conf.auto_leave).to_le_bytes());
    for list in lists {
        // More members than u32 counts do not fit into a message, let alone here.
        out.extend_from_slice(&u32::try_from(list.len()).unwrap_or(u32::MAX).to_le_bytes());
    }
    for id in lists.into_iter().flatten() {
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

fn read_conf(payload: &[u8]) -> Option<ConfState> {
    let (auto_leave, mut rest) = payload.split_first_chunk()?;
    let mut lens = [0; 4];
    for len in &mut lens {
        let (count, after) = rest.split_first_chunk()?;
        *len = u32::from_le_bytes(*count) as usize;
        rest = after;
    }
    let mut ids = |len: usize| {
        let (list, after) = rest.split_at_checked(len.checked_mul(8)?)?;
        rest = after;
        Some(list.as_chunks().0.iter().copied().map(u64::from_le_bytes).collect::<Vec<_>>())
    };
    let [voters, learners, voters_outgoing, learners_next] = lens;
    let conf = ConfState {
        voters: ids(voters)?,
        learners: ids(learners)?,
        voters_outgoing: ids(voters_outgoing)?,
        learners_next: ids(learners_next)?,
        auto_leave: u64::from_le_bytes(*auto_leave) != 0,
        ..ConfState::default()
    };
    rest.is_empty().then_some(conf)
}

/// A record about to be written, but for its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) batch: u64,
    pub(super) term: u64,
    pub(super) index: u64,
    /// The sum of the record before.
    pub(super) prev: u32,
}

impl Head {
    /// The record's first 40 bytes, for its place and payload, and its sum.
    fn seal(&self, salt: u64, at: u64, payload: &[&[u8]]) -> ([u8; HEAD], u32) {
        let len: usize = payload.iter().map(|part| part.len()).sum();
        let mut head = [0; HEAD];
        // The caller keeps batches within a segment, which is shorter than 4 GiB.
        head[..4].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        head[4] = self.kind as u8;
        head[5] = self.flags;
        head[6..8].copy_from_slice(&tag(salt));
        head[8..16].copy_from_slice(&self.batch.to_le_bytes());
        head[16..24].copy_from_slice(&self.term.to_le_bytes());
        head[24..32].copy_from_slice(&self.index.to_le_bytes());
        head[32..36].copy_from_slice(&self.prev.to_le_bytes());
        let sum = sum(salt, at, &head, payload);
        head[36..].copy_from_slice(&sum.to_le_bytes());
        (head, sum)
    }
}

/// Two bytes of the secret, by which most of what is no record is seen at once.
fn tag(salt: u64) -> [u8; 2] {
    let [a, b, ..] = salt.to_le_bytes();
    [a, b]
}

fn sum(salt: u64, at: u64, head: &[u8; HEAD], payload: &[&[u8]]) -> u32 {
    let mut first = [0; 16 + 36];
    first[..8].copy_from_slice(&salt.to_le_bytes());
    first[8..16].copy_from_slice(&at.to_le_bytes());
    first[16..].copy_from_slice(&head[..36]);
    let mut crc = Crc32c::default();
    crc.update(&first);
    for part in payload {
        crc.update(part);
    }
    crc.sum()
}

/// Records of a batch: their heads and short payloads in one buffer, into which the entries' bytes are to be threaded.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) heads: Vec<u8>,
    /// Where in `heads` the bytes of the next entry that has any belong.
    pub(super) cuts: Vec<usize>,
    /// Bytes of entries so far.
    pub(super) threaded: usize,
    salt: u64,
    at: u64,
    batch: u64,
    chain: u32,
}

impl Frame {
    /// Begins a batch at byte `at` of a segment.
    pub(super) fn begin(&mut self, salt: u64, at: u64, batch: u64, chain: u32) {
        self.heads.clear();
        self.cuts.clear();
        (self.threaded, self.salt, self.at, self.batch, self.chain) = (0, salt, at, batch, chain);
    }

    /// Bytes of the batch so far.
    pub(super) fn len(&self) -> usize {
        self.heads.len() + self.threaded
    }

    /// The sum of the last record.
    pub(super) fn chain(&self) -> u32 {
        self.chain
    }

    fn seal(&mut self, kind: Kind, flags: u8, at: (u64, u64), payload: &[&[u8]]) {
        let (term, index) = at;
        let head = Head { kind, flags, batch: self.batch, term, index, prev: self.chain };
        let (bytes, sum) = head.seal(self.salt, self.at + self.len() as u64, payload);
        self.heads.extend_from_slice(&bytes);
        self.chain = sum;
    }

    fn pad(&mut self) {
        let len = self.len();
        self.heads.resize(self.heads.len() + (len.next_multiple_of(ALIGN) - len), 0);
    }

    /// A record whose payload is not an entry's.
    pub(super) fn plain(&mut self, kind: Kind, flags: u8, term: u64, index: u64, payload: &[u8]) {
        self.seal(kind, flags, (term, index), &[payload]);
        self.heads.extend_from_slice(payload);
        self.pad();
    }

    /// A hard state.
    pub(super) fn hard_state(&mut self, flags: u8, state: &HardState) {
        self.plain(Kind::HardState, flags, state.term, state.commit, &state.vote.to_le_bytes());
    }

    /// An entry: its bytes are summed where they lie.
    pub(super) fn entry(&mut self, flags: u8, entry: &Entry) {
        let mut flags = flags | ((entry.entry_type as u8) << TYPE_SHIFT);
        if entry.sync_log {
            flags |= SYNC_LOG;
        }
        let mut lengths = [0; LENGTHS];
        let mut prefix: &[u8] = &[];
        if !entry.context.is_empty() {
            flags |= CONTEXT;
            let context = u32::try_from(entry.context.len()).unwrap_or(u32::MAX);
            lengths[..4].copy_from_slice(&context.to_le_bytes());
            prefix = &lengths;
        }
        let payload = [prefix, &entry.data, &entry.context];
        self.seal(Kind::Entry, flags, (entry.term, entry.index), &payload);
        self.heads.extend_from_slice(prefix);
        let threaded = entry.data.len() + entry.context.len();
        if threaded > 0 {
            self.cuts.push(self.heads.len());
            self.threaded += threaded;
        }
        self.pad();
    }
}

/// A record that proved itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) head: Head,
    pub(super) sum: u32,
    /// Where the next one would begin.
    pub(super) end: usize,
    payload: &'a [u8],
}

/// What a record says.
#[derive(Debug)]
pub(super) enum Op {
    Start { term: u64, index: u64 },
    Entry(Entry),
    HardState(HardState),
    Mark { mark: LogMark, replaces: bool },
    Truncate { from: u64 },
}

/// The record at byte `at` of a segment, if there is one.
pub(super) fn read(segment: &[u8], at: usize, salt: u64) -> Option<View<'_>> {
    let (bytes, rest) = segment.get(at..)?.split_first_chunk::<HEAD>()?;
    // Most places where no record begins are told by these.
    let kind = Kind::read(bytes[4])?;
    if bytes[6..8] != tag(salt) || !kind.knows(bytes[5]) {
        return None;
    }
    let payload = rest.get(..u32_at(bytes, 0) as usize)?;
    let sum = sum(salt, at as u64, bytes, &[payload]);
    let head = Head {
        kind,
        flags: bytes[5],
        batch: u64_at(bytes, 8),
        term: u64_at(bytes, 16),
        index: u64_at(bytes, 24),
        prev: u32_at(bytes, 32),
    };
    let end = at.checked_add(padded(payload.len()))?;
    (sum == u32_at(bytes, 36)).then_some(View { head, sum, end, payload })
}

fn u32_at(head: &[u8; HEAD], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&head[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(head: &[u8; HEAD], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(bytes)
}

impl View<'_> {
    /// Whether its batch ends with it.
    pub(super) fn is_last(&self) -> bool {
        self.head.flags & LAST != 0
    }

    /// What it says, in memory of its own; `None` if the payload is not one of its kind.
    pub(super) fn op(&self) -> Option<Op> {
        let Head { kind, flags, term, index, .. } = self.head;
        Some(match kind {
            Kind::Start => Op::Start { term, index },
            Kind::Truncate => Op::Truncate { from: index },
            Kind::HardState => {
                let vote = u64::from_le_bytes(self.payload.try_into().ok()?);
                Op::HardState(HardState { term, vote, commit: index, ..HardState::default() })
            }
            Kind::Mark => {
                let mark = LogMark { index, term, conf_state: read_conf(self.payload)? };
                Op::Mark { mark, replaces: flags & REPLACES != 0 }
            }
            Kind::Entry => Op::Entry(self.entry()?),
        })
    }

    fn entry(&self) -> Option<Entry> {
        let Head { flags, term, index, .. } = self.head;
        let entry_type = match (flags & TYPE_MASK) >> TYPE_SHIFT {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            _ => return None,
        };
        let sync_log = flags & SYNC_LOG != 0;
        let mut entry = Entry { entry_type, sync_log, term, index, ..Entry::default() };
        let mut data = self.payload;
        if flags & CONTEXT != 0 {
            let (lengths, both) = data.split_first_chunk::<LENGTHS>()?;
            let [a, b, c, d, ..] = *lengths;
            let context = u32::from_le_bytes([a, b, c, d]) as usize;
            let (before, after) = both.split_at_checked(both.len().checked_sub(context)?)?;
            data = before;
            entry.context = Bytes::copy_from_slice(after);
        }
        // Not a slice of the segment: one entry would keep all of it.
        entry.data = Bytes::copy_from_slice(data);
        Some(entry)
    }
}
