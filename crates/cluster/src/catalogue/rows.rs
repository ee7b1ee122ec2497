//! The state as rows: what the disk keeps and snapshots carry. A row's value is an rkyv archive with a checksum of key and
//! archive behind it, so that a flipped bit is found when the row is read.
use bytes::Bytes;
use redb::TableDefinition;
use rkyv::rend::unaligned::u64_ule;
use rkyv::{Archive, Deserialize, Serialize};
use straightway_wire::{Crc32c, crc32c};

use super::archive::{Record, append, view};
use super::entry::{ArchivedEntryRecord, Entry, EntryRecord};
use super::members::{ArchivedMember, ArchivedTicket, Member, Ticket};
use super::op::{Op, Role, examples};
use super::outcome::{ArchivedOutcome, Outcome};
use super::requests::{ArchivedWindow, Window};
use super::state::{Mark, Meta, State};
use crate::ids::{ClusterId, RaftId};

/// Version of the rows; another one is refused.
pub(super) const VERSION: u16 = 1;
/// Key of the row that says what the rows are.
pub(super) const FORMAT_KEY: &[u8] = b"format";
/// Key of the row that holds what there is once.
pub(super) const STATE_KEY: &[u8] = b"state";
/// Longest value.
pub(super) const VALUE: usize = 256 * 1024;
const SUM_BYTES: usize = 4;

/// The tables, in the order in which their rows are read and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Table {
    Meta,
    Entries,
    Members,
    Tickets,
    Windows,
    Answers,
}

impl Table {
    pub(super) const ALL: [Self; 6] =
        [Self::Meta, Self::Entries, Self::Members, Self::Tickets, Self::Windows, Self::Answers];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Entries => "entries",
            Self::Members => "members",
            Self::Tickets => "tickets",
            Self::Windows => "windows",
            Self::Answers => "answers",
        }
    }

    pub(super) const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name())
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == number)
    }
}

/// Rows of each table but the first: a page that is lost is a page of rows that are valid and too few.
pub(super) type Counts = [u64; 5];

#[derive(Debug, Archive, Serialize, Deserialize)]
struct MetaRecord {
    cluster: Option<[u8; 16]>,
    index: u64,
    term: u64,
    next_id: u64,
    counts: Counts,
    conf_state: Vec<u8>,
}

/// What the rows of this build are: differs when the layout of any of them does.
pub(super) fn format() -> [u8; 10] {
    let mut bytes = Vec::new();
    let [_, Op::Put(put), ..] = examples() else {
        return [0; 10];
    };
    let entry = Entry {
        key: put.key.as_str().into(),
        object: put.object,
        len: put.len,
        digest: put.digest,
        content_type: put.content_type.as_str().into(),
        content_encoding: put.content_encoding.as_str().into(),
        tags: put.tags.iter().map(|tag| tag.as_str().into()).collect(),
        expires_ms: put.expires_ms,
        last_modified_ms: put.last_modified_ms,
        holders: put.holders.into(),
        copies: put.copies,
        evicted: 31,
        index: 30,
    };
    append(&EntryRecord::from(&entry), &mut bytes);
    append(&Member::example(), &mut bytes);
    let ticket =
        Ticket { hash: [1; 32], expires_ms: 2, role: Role::Learner, left: 16, used_by: Some(3) };
    append(&ticket, &mut bytes);
    append(&Window { boot: 4, floor: 5 }, &mut bytes);
    append(&Outcome::Refused(super::outcome::Refusal::LastMember), &mut bytes);
    let meta = MetaRecord {
        cluster: Some([6; 16]),
        index: 7,
        term: 8,
        next_id: 9,
        counts: [10, 11, 12, 13, 14],
        conf_state: vec![15; 3],
    };
    append(&meta, &mut bytes);
    let mut format = *b"SWCT\0\0\0\0\0\0";
    format[4..6].copy_from_slice(&VERSION.to_le_bytes());
    format[6..].copy_from_slice(&crc32c(&bytes).to_le_bytes());
    format
}

fn sum(key: &[u8], archive: &[u8]) -> [u8; SUM_BYTES] {
    let mut sum = Crc32c::default();
    sum.update(key);
    sum.update(archive);
    sum.sum().to_le_bytes()
}

/// A row's value, made of the bytes of an archive.
#[cfg(test)]
pub(super) fn sealed(key: &[u8], archive: &[u8]) -> Vec<u8> {
    [archive, &sum(key, archive)].concat()
}

/// Makes rows' values, one after the other, in the same memory.
#[derive(Debug, Default)]
pub(super) struct Row {
    value: Vec<u8>,
}

impl Row {
    fn make(&mut self, key: &[u8], record: &impl Record) -> &[u8] {
        self.value.clear();
        append(record, &mut self.value);
        self.seal(key)
    }

    fn seal(&mut self, key: &[u8]) -> &[u8] {
        let sum = sum(key, &self.value);
        self.value.extend_from_slice(&sum);
        &self.value
    }

    pub(super) fn format(&mut self) -> &[u8] {
        self.value.clear();
        self.value.extend_from_slice(&format());
        self.seal(FORMAT_KEY)
    }

    pub(super) fn meta(&mut self, meta: &Meta, counts: Counts) -> &[u8] {
        let record = MetaRecord {
            cluster: meta.cluster.map(|ClusterId(id)| id),
            index: meta.applied.index,
            term: meta.applied.term,
            next_id: meta.next_id,
            counts,
            conf_state: meta.conf_state.to_vec(),
        };
        self.make(STATE_KEY, &record)
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> &[u8] {
        self.make(entry.key.as_bytes(), &EntryRecord::from(entry))
    }

    pub(super) fn member(&mut self, member: &Member) -> &[u8] {
        self.make(&node_key(member.id), member)
    }

    pub(super) fn ticket(&mut self, ticket: &Ticket) -> &[u8] {
        self.make(&ticket.hash, ticket)
    }

    pub(super) fn window(&mut self, node: RaftId, window: Window) -> &[u8] {
        self.make(&node_key(node), &window)
    }

    pub(super) fn answer(&mut self, request: (RaftId, u64), outcome: Outcome) -> &[u8] {
        self.make(&request_key(request), &outcome)
    }
}

/// Big-endian, so that rows are in the order of numbers.
pub(super) fn node_key(node: RaftId) -> [u8; 8] {
    node.to_be_bytes()
}

pub(super) fn request_key((node, serial): (RaftId, u64)) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&node.to_be_bytes());
    key[8..].copy_from_slice(&serial.to_be_bytes());
    key
}

impl State {
    /// How many rows there are.
    pub(super) fn counts(&self) -> Counts {
        let (windows, answers) = self.requests.counts();
        [self.index.len(), self.members.len(), self.tickets.len(), windows, answers]
            .map(|count| count as u64)
    }

    /// Hands out all rows, in the order in which the disk has them.
    #[cfg(test)]
    pub(super) fn each_row(&self, mut give: impl FnMut(Table, &[u8], &[u8])) {
        let mut row = Row::default();
        give(Table::Meta, FORMAT_KEY, row.format());
        give(Table::Meta, STATE_KEY, row.meta(&self.meta, self.counts()));
        for entry in self.index.values() {
            give(Table::Entries, entry.key.as_bytes(), row.entry(entry));
        }
        for member in self.members.values() {
            give(Table::Members, &node_key(member.id), row.member(member));
        }
        for ticket in self.tickets.values() {
            give(Table::Tickets, &ticket.hash, row.ticket(ticket));
        }
        for (node, window) in self.requests.windows() {
            give(Table::Windows, &node_key(node), row.window(node, window));
        }
        for (request, outcome) in self.requests.answers() {
            give(Table::Answers, &request_key(request), row.answer(request, outcome));
        }
    }
}

/// The archive in a row's value, if its checksum is right.
pub(super) fn open<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (archive, found) = value.split_last_chunk::<SUM_BYTES>()?;
    (*found == sum(key, archive)).then_some(archive)
}

/// Why rows are refused.
pub(super) type Damage = String;

/// Builds the state from its rows, which come table by table.
#[derive(Debug, Default)]
pub(super) struct Loader {
    state: State,
    format: bool,
    /// Rows that there should be.
    expected: Option<Counts>,
}

impl Loader {
    /// Takes one row.
    pub(super) fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let archive = open(key, value)
            .ok_or_else(|| format!("the checksum of a row of table {} is wrong", table.name()))?;
        self.take(table, key, archive)
            .ok_or_else(|| format!("a row of table {} is no valid record", table.name()))?
    }

    /// `None`: the archive is not valid, or not where it belongs.
    fn take(&mut self, table: Table, key: &[u8], archive: &[u8]) -> Option<Result<(), Damage>> {
        match table {
            Table::Meta if key == FORMAT_KEY => {
                self.format = true;
                return Some(check_format(archive));
            }
            Table::Meta => {
                let (meta, counts) = (key == STATE_KEY).then(|| read_meta(archive))??;
                self.state.meta = meta;
                self.expected = Some(counts);
            }
            Table::Entries => {
                let key = std::str::from_utf8(key).ok()?.into();
                let record = view::<ArchivedEntryRecord<'static>>(archive)?;
                let entry = record.entry(key, |text| self.state.index.share(text));
                if self.state.index.by_object(entry.object).is_some() {
                    return Some(Err("two keys have the same object".into()));
                }
                self.state.index.link(entry.into());
            }
            Table::Members => {
                let member: Member = rebuild::<Member, ArchivedMember>(archive)?;
                if key != node_key(member.id) || member.id >= self.state.meta.next_id {
                    return None;
                }
                self.state.members.insert(member.id, member.into());
            }
            Table::Tickets => {
                let ticket: Ticket = rebuild::<Ticket, ArchivedTicket>(archive)?;
                (key == ticket.hash).then_some(())?;
                self.state.tickets.insert(ticket.hash, ticket);
            }
            Table::Windows => {
                let node = RaftId::from_be_bytes(key.try_into().ok()?);
                let window = rebuild::<Window, ArchivedWindow>(archive)?;
                self.state.requests.restore_window(node, window);
            }
            Table::Answers => {
                let (node, serial) = key.split_first_chunk::<8>()?;
                let serial = u64::from_be_bytes(serial.try_into().ok()?);
                let outcome = rebuild::<Outcome, ArchivedOutcome>(archive)?;
                let node = RaftId::from_be_bytes(*node);
                self.state.requests.restore_answer(node, serial, outcome).then_some(())?;
            }
        }
        Some(Ok(()))
    }

    /// The state, if all of it was there.
    pub(super) fn finish(self) -> Result<State, Damage> {
        let found = self.state.counts();
        match self.expected {
            None => Err("it does not say what has been applied".into()),
            Some(_) if !self.format => Err("it does not say what its format is".into()),
            Some(expected) if expected != found => {
                Err(format!("its tables hold {found:?} rows, {expected:?} should be there"))
            }
            Some(_) => Ok(self.state),
        }
    }
}

fn rebuild<T, A>(archive: &[u8]) -> Option<T>
where
    A: rkyv::Portable
        + for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::low::LowValidator<'a, rkyv::rancor::Failure>>
        + Deserialize<T, rkyv::api::low::LowDeserializer<rkyv::rancor::Failure>>,
{
    rkyv::api::low::deserialize::<T, rkyv::rancor::Failure>(view::<A>(archive)?).ok()
}

/// Whether rows are of this build's format.
pub(super) fn check_format(found: &[u8]) -> Result<(), Damage> {
    let ours = format();
    if found == ours {
        return Ok(());
    }
    match found.strip_prefix(b"SWCT").and_then(|rest| rest.split_first_chunk::<2>()) {
        Some((version, _)) => Err(format!(
            "its format is version {}, this build reads version {VERSION} of another layout; use the release that \
             wrote it",
            u16::from_le_bytes(*version)
        )),
        None => Err("it is no catalogue".into()),
    }
}

/// What there is once, and how many rows there should be.
pub(super) fn read_meta(archive: &[u8]) -> Option<(Meta, Counts)> {
    let record = view::<ArchivedMetaRecord>(archive)?;
    let meta = Meta {
        cluster: record.cluster.as_ref().map(|id| ClusterId(*id)),
        applied: Mark { index: record.index.to_native(), term: record.term.to_native() },
        conf_state: Bytes::copy_from_slice(&record.conf_state),
        next_id: record.next_id.to_native(),
    };
    Some((meta, record.counts.map(u64_ule::to_native)))
}
