//! Bytes to Raft messages whose entries are slices of them.
//!
//! Stricter than the library's parser, which is not used on bytes from the network: groups and unknown values of
//! enumerations are refused, other unknown fields are skipped, counts are limited, and a declared length allocates nothing.
use std::ops::Range;

use bytes::Bytes;
use raft::prelude::{
    ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, HardState, Message, MessageType,
    Snapshot, SnapshotMetadata,
};
use straightway_buffer::{Reason, count_copied};

use super::kinds::{change_type, entry_type, message_type, transition};
use super::proto::{Fault, Reader};
use super::{MAX_CHANGES, MAX_ENTRIES, MAX_MEMBERS};
use crate::error::WireError;

/// Entries that memory is made for before they are seen.
const FEW_ENTRIES: usize = 256;

mod sealed {
    pub trait Sealed {}
}

/// Received bytes: [`Bytes`], which what is decoded shares, or borrowed bytes, which are copied once (and counted) if
/// there is a payload in them.
pub trait IntoWireBytes: sealed::Sealed {
    /// All of them.
    #[doc(hidden)]
    fn whole(&self) -> &[u8];
    /// Some of them, for as long as anybody wants; the range is within.
    #[doc(hidden)]
    fn share(&self, shared: &mut Option<Bytes>, range: Range<usize>) -> Bytes;
}

macro_rules! owned {
    ($type:ty) => {
        impl sealed::Sealed for $type {}
        impl IntoWireBytes for $type {
            fn whole(&self) -> &[u8] {
                self
            }

            #[inline]
            fn share(&self, _shared: &mut Option<Bytes>, range: Range<usize>) -> Bytes {
                self.slice(range)
            }
        }
    };
}
owned!(Bytes);
owned!(&Bytes);

macro_rules! borrowed {
    ($type:ty $(, $n:ident)?) => {
        impl $(<const $n: usize>)? sealed::Sealed for $type {}
        impl $(<const $n: usize>)? IntoWireBytes for $type {
            fn whole(&self) -> &[u8] {
                self.as_ref()
            }

            fn share(&self, shared: &mut Option<Bytes>, range: Range<usize>) -> Bytes {
                let whole = shared.get_or_insert_with(|| {
                    count_copied(self.len(), Reason::Gather);
                    Bytes::copy_from_slice(self.as_ref())
                });
                whole.slice(range)
            }
        }
    };
}
borrowed!(&[u8]);
borrowed!(&Vec<u8>);
borrowed!(&[u8; N], N);

/// A message out of its bytes. Its entries, contexts and snapshot are slices of `data`.
///
/// What it says has not been judged: see [`validate`](super::validate()).
#[expect(clippy::needless_pass_by_value, reason = "a buffer, or a reference to one")]
pub fn deserialize_raft_message_fast(data: impl IntoWireBytes) -> Result<Message, WireError> {
    from_bytes(&data, "a Raft message")
}

/// Bytes of memory that the message in these bytes will take: its own, which entries share, and the list of entries. Read
/// quickly and without an opinion; what is no message is refused when it is decoded.
pub fn memory_of(payload: &[u8]) -> usize {
    let (mut reader, mut entries) = (Reader::new(payload), 0_usize);
    while let Ok(tag) = reader.tag() {
        let passed = match tag & 7 {
            0 => reader.varint().map(drop),
            2 => reader.nested().map(drop),
            _ => break,
        };
        if passed.is_err() {
            break;
        }
        entries += usize::from(tag == 0x3a);
    }
    payload.len() + entries.min(MAX_ENTRIES) * size_of::<Entry>()
}

/// Any value, which is called `what` if it is none.
pub(super) fn from_bytes<T: Take>(
    data: &impl IntoWireBytes,
    what: &'static str,
) -> Result<T, WireError> {
    let whole = data.whole();
    let mut source = Source { data, len: whole.len(), shared: None };
    let mut value = T::default();
    match value.take(Reader::new(whole), &mut source) {
        Ok(()) => Ok(value),
        Err(fault) => Err(invalid(what, fault)),
    }
}

#[cold]
fn invalid(what: &'static str, fault: Fault) -> WireError {
    WireError::Invalid { what, reason: fault.text().to_owned() }
}

/// Where payloads come from.
pub(super) struct Source<'a, D: IntoWireBytes> {
    data: &'a D,
    len: usize,
    shared: Option<Bytes>,
}

impl<D: IntoWireBytes> Source<'_, D> {
    #[inline]
    fn bytes(&mut self, reader: &mut Reader<'_>) -> Result<Bytes, Fault> {
        let inside = reader.nested()?;
        if inside.is_empty() {
            return Ok(Bytes::new());
        }
        // No underflow: what is inside is within the whole.
        let from = self.len - inside.distance();
        Ok(self.data.share(&mut self.shared, from..from + inside.len()))
    }
}

/// What can be filled in with the fields of `reader`, all that it has.
pub(super) trait Take: Default {
    fn take<D: IntoWireBytes>(
        &mut self,
        reader: Reader<'_>,
        source: &mut Source<'_, D>,
    ) -> Result<(), Fault>;

    /// As a field of something else.
    fn nested<D: IntoWireBytes>(
        reader: &mut Reader<'_>,
        source: &mut Source<'_, D>,
    ) -> Result<Self, Fault> {
        let mut value = Self::default();
        value.take(reader.nested()?, source)?;
        Ok(value)
    }
}

impl Take for Message {
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let message = self;
        let mut entries = Vec::new();
        while !reader.is_empty() {
            match reader.tag()? {
                0x08 => message.msg_type = message_type(reader.varint()?)?,
                0x10 => message.to = reader.varint()?,
                0x18 => message.from = reader.varint()?,
                0x20 => message.term = reader.varint()?,
                0x28 => message.log_term = reader.varint()?,
                0x30 => message.index = reader.varint()?,
                0x3a => {
                    let inside = reader.nested()?;
                    if entries.is_empty() {
                        // As many as there will be if all are as long, within reason: a short first one proves nothing.
                        let more = reader.len() / (inside.len() + 2);
                        entries.reserve_exact((1 + more).min(FEW_ENTRIES));
                    }
                    if entries.len() == MAX_ENTRIES {
                        return Err(Fault::TooManyEntries);
                    }
                    // A list that takes many times the memory of its bytes is nobody's.
                    if entries.len() == 1 && message.msg_type != MessageType::MsgAppend {
                        return Err(Fault::Entries);
                    }
                    entries.push(Entry::default());
                    if let Some(entry) = entries.last_mut() {
                        entry.take(inside, source)?;
                        if entry.index == 0 && entry.term == 0 && entry.data.is_empty() {
                            return Err(Fault::EmptyEntry);
                        }
                    }
                }
                0x40 => message.commit = reader.varint()?,
                0x4a if message.snapshot.is_some() => return Err(Fault::Twice),
                0x4a => message.set_snapshot(Snapshot::nested(&mut reader, source)?),
                0x50 => message.reject = reader.flag()?,
                0x58 => message.reject_hint = reader.varint()?,
                0x62 => message.context = source.bytes(&mut reader)?,
                0x68 => message.request_snapshot = reader.varint()?,
                0x70 => message.deprecated_priority = reader.varint()?,
                0x78 => message.commit_term = reader.varint()?,
                0x80 => message.priority = reader.varint()?.cast_signed(),
                tag => reader.skip(tag, 16)?,
            }
        }
        message.entries = entries.into();
        Ok(())
    }
}

impl Take for Entry {
    #[inline]
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let entry = self;
        while !reader.is_empty() {
            match reader.tag()? {
                0x08 => entry.entry_type = entry_type(reader.varint()?)?,
                0x10 => entry.term = reader.varint()?,
                0x18 => entry.index = reader.varint()?,
                0x22 => entry.data = source.bytes(&mut reader)?,
                0x28 => entry.sync_log = reader.flag()?,
                0x32 => entry.context = source.bytes(&mut reader)?,
                tag => reader.skip(tag, 6)?,
            }
        }
        Ok(())
    }
}

impl Take for Snapshot {
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let snapshot = self;
        while !reader.is_empty() {
            match reader.tag()? {
                0x0a => snapshot.data = source.bytes(&mut reader)?,
                0x12 if snapshot.metadata.is_some() => return Err(Fault::Twice),
                0x12 => snapshot.set_metadata(SnapshotMetadata::nested(&mut reader, source)?),
                tag => reader.skip(tag, 2)?,
            }
        }
        Ok(())
    }
}

impl Take for SnapshotMetadata {
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let metadata = self;
        while !reader.is_empty() {
            match reader.tag()? {
                0x0a if metadata.conf_state.is_some() => return Err(Fault::Twice),
                0x0a => metadata.set_conf_state(ConfState::nested(&mut reader, source)?),
                0x10 => metadata.index = reader.varint()?,
                0x18 => metadata.term = reader.varint()?,
                tag => reader.skip(tag, 3)?,
            }
        }
        Ok(())
    }
}

impl Take for ConfState {
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        _source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let state = self;
        while !reader.is_empty() {
            let tag = reader.tag()?;
            let list = match tag >> 3 {
                1 => &mut state.voters,
                2 => &mut state.learners,
                3 => &mut state.voters_outgoing,
                4 => &mut state.learners_next,
                5 if tag == 0x28 => {
                    state.auto_leave = reader.flag()?;
                    continue;
                }
                _ => {
                    reader.skip(tag, 5)?;
                    continue;
                }
            };
            match tag & 7 {
                0 => push_member(list, reader.varint()?)?,
                // All behind one another.
                2 => {
                    let mut packed = reader.nested()?;
                    while !packed.is_empty() {
                        push_member(list, packed.varint()?)?;
                    }
                }
                _ => return Err(Fault::WireType),
            }
        }
        Ok(())
    }
}

fn push_member(list: &mut Vec<u64>, id: u64) -> Result<(), Fault> {
    if list.len() == MAX_MEMBERS {
        return Err(Fault::TooManyMembers);
    }
    list.push(id);
    Ok(())
}

impl Take for HardState {
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        _source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let state = self;
        while !reader.is_empty() {
            match reader.tag()? {
                0x08 => state.term = reader.varint()?,
                0x10 => state.vote = reader.varint()?,
                0x18 => state.commit = reader.varint()?,
                tag => reader.skip(tag, 3)?,
            }
        }
        Ok(())
    }
}

impl Take for ConfChange {
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let change = self;
        while !reader.is_empty() {
            match reader.tag()? {
                0x08 => change.id = reader.varint()?,
                0x10 => change.change_type = change_type(reader.varint()?)?,
                0x18 => change.node_id = reader.varint()?,
                0x22 => change.context = source.bytes(&mut reader)?,
                tag => reader.skip(tag, 4)?,
            }
        }
        Ok(())
    }
}

impl Take for ConfChangeSingle {
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        _source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let change = self;
        while !reader.is_empty() {
            match reader.tag()? {
                0x08 => change.change_type = change_type(reader.varint()?)?,
                0x10 => change.node_id = reader.varint()?,
                tag => reader.skip(tag, 2)?,
            }
        }
        Ok(())
    }
}

impl Take for ConfChangeV2 {
    fn take<D: IntoWireBytes>(
        &mut self,
        mut reader: Reader<'_>,
        source: &mut Source<'_, D>,
    ) -> Result<(), Fault> {
        let change = self;
        while !reader.is_empty() {
            match reader.tag()? {
                0x08 => change.transition = transition(reader.varint()?)?,
                0x12 if change.changes.len() == MAX_CHANGES => return Err(Fault::TooManyChanges),
                0x12 => {
                    let single = ConfChangeSingle::nested(&mut reader, source)?;
                    change.mut_changes().push(single);
                }
                0x1a => change.context = source.bytes(&mut reader)?,
                tag => reader.skip(tag, 3)?,
            }
        }
        Ok(())
    }
}
