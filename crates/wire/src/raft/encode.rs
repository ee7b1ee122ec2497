//! Raft messages to bytes: the same that the library's own codec writes, field for field.
use bytes::{Bytes, BytesMut};
use raft::prelude::{
    ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, HardState, Message, Snapshot,
    SnapshotMetadata,
};
use straightway_buffer::{Reason, count_copied};

use super::proto::{Out, bytes_len, nested_len, uint_len, varint_len};
use crate::error::WireError;
use crate::frame::{begin_frame, end_frame};
use crate::header::MessageHeader;
use crate::limits::should_stream;
use crate::segments::Segments;
use crate::stream::ChunkWriter;

/// Longest message that the format allows.
const MAX_ENCODED: usize = i32::MAX as usize;

/// The most that numbers and lengths of a message take, and those of an entry: each with a tag of one byte and ten bytes of
/// its own, one of two.
const MESSAGE: usize = 15 * 11 + 12;
const ENTRY: usize = 7 * 11;

/// Where encoded bytes go: heads, which are lost after the call, and payloads, which may be kept by reference.
pub trait Sink {
    /// Tags, lengths and numbers.
    fn head(&mut self, bytes: &[u8]);
    /// The bytes of an entry, a snapshot or a context.
    fn payload(&mut self, bytes: &Bytes);
}

/// Payloads below [`Segments::cut`] are gathered, others kept by reference.
impl Sink for Segments {
    fn head(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn payload(&mut self, bytes: &Bytes) {
        if bytes.len() < self.cut() {
            self.push_copy(bytes);
        } else {
            self.push(bytes.clone());
        }
    }
}

/// A buffer that all bytes of a message can be appended to: `Vec<u8>` or [`BytesMut`].
pub trait WireBuffer: sealed::Sealed {
    /// How many more bytes have room.
    #[doc(hidden)]
    fn spare(&self) -> usize;
    /// Makes room for `len` more bytes at once.
    #[doc(hidden)]
    fn make_room(&mut self, len: usize);
    /// Appends.
    #[doc(hidden)]
    fn append(&mut self, bytes: &[u8]);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for Vec<u8> {}
    impl Sealed for bytes::BytesMut {}
}

macro_rules! wire_buffer {
    ($type:ty) => {
        impl WireBuffer for $type {
            fn spare(&self) -> usize {
                self.capacity() - self.len()
            }

            fn make_room(&mut self, len: usize) {
                self.reserve(len);
            }

            #[inline]
            fn append(&mut self, bytes: &[u8]) {
                self.extend_from_slice(bytes);
            }
        }
    };
}
wire_buffer!(Vec<u8>);
wire_buffer!(BytesMut);

/// Everything into one buffer; whoever uses it counts the copies.
pub(super) struct Whole<'a, B: WireBuffer>(pub(super) &'a mut B);

impl<B: WireBuffer> Sink for Whole<'_, B> {
    #[inline]
    fn head(&mut self, bytes: &[u8]) {
        self.0.append(bytes);
    }

    #[inline]
    fn payload(&mut self, bytes: &Bytes) {
        self.0.append(bytes);
    }
}

/// Bytes that `message` takes when it is encoded.
pub fn encoded_len(message: &Message) -> usize {
    message.wire_len()
}

/// `message` as one string of bytes, in one allocation.
pub fn serialize_raft_message_fast(message: &Message) -> Result<Bytes, WireError> {
    let mut buffer = Vec::with_capacity(checked(message.wire_len())?);
    put(message, &mut Whole(&mut buffer));
    count_gathered(Most::of(message).payloads);
    Ok(Bytes::from(buffer))
}

/// Appends `message` to a buffer: without an allocation, if that has room.
pub fn serialize_raft_message_into(
    message: &Message,
    buffer: &mut impl WireBuffer,
) -> Result<(), WireError> {
    let most = Most::of(message);
    let len = checked(most.len())?;
    if buffer.spare() < len && buffer.spare() < message.wire_len() {
        buffer.make_room(len);
    }
    put(message, &mut Whole(buffer));
    count_gathered(most.payloads);
    Ok(())
}

/// Hands `message` to a sink in parts, the data of entries by reference.
///
/// ```
/// use raft::prelude::{Entry, Message};
/// use straightway_wire::{Segments, raft as wire};
///
/// let data = bytes::Bytes::from(vec![7; 4096]);
/// let mut message = Message::default();
/// message.mut_entries().push(Entry { index: 1, term: 1, data: data.clone(), ..Entry::default() });
/// let mut segments = Segments::default();
/// wire::serialize_raft_message_vectored(&message, &mut segments)?;
/// assert_eq!(segments.finish()[1].as_ptr(), data.as_ptr());
/// # Ok::<(), straightway_wire::WireError>(())
/// ```
pub fn serialize_raft_message_vectored<S: Sink + ?Sized>(
    message: &Message,
    sink: &mut S,
) -> Result<(), WireError> {
    checked(Most::of(message).len())?;
    put(message, sink);
    Ok(())
}

/// Writes `message` as a frame; what is to be chunked comes back as a writer, its payloads by reference. `stream` is as for
/// [`encode_message`](crate::encode_message).
///
/// # Errors
/// [`WireError::TooLarge`], also for a message of more than `most` bytes: nothing of it is written.
pub fn encode_raft_message(
    out: &mut Segments,
    header: &MessageHeader,
    message: &Message,
    most: usize,
    stream: u32,
) -> Result<Option<ChunkWriter>, WireError> {
    let bound = Most::of(message).len();
    // How much it is exactly is only asked when that matters.
    if bound > most || should_stream(bound) {
        let len = message.wire_len();
        if len > most {
            let (len, limit) = (len as u64, most as u64);
            return Err(WireError::TooLarge { what: "a Raft message", len, limit });
        }
        checked(len)?;
        if should_stream(len) {
            let mut whole = Segments::new(out.cut());
            whole.reserve_parts(message.entries.len());
            put(message, &mut whole);
            return ChunkWriter::of_segments(*header, whole, stream).map(Some);
        }
    }
    let frame = begin_frame(out, header);
    put(message, out);
    end_frame(out, frame)?;
    Ok(None)
}

fn checked(len: usize) -> Result<usize, WireError> {
    if len > MAX_ENCODED {
        let limit = MAX_ENCODED as u64;
        return Err(WireError::TooLarge { what: "a Raft message", len: len as u64, limit });
    }
    Ok(len)
}

/// Heartbeats have nothing to count.
fn count_gathered(len: usize) {
    if len > 0 {
        count_copied(len, Reason::Gather);
    }
}

/// A little more than a message takes: found faster than how much it is.
struct Most {
    heads: usize,
    payloads: usize,
}

impl Most {
    fn of(message: &Message) -> Self {
        let mut most = Self { heads: MESSAGE, payloads: message.context.len() };
        for entry in &message.entries {
            most.heads += ENTRY;
            most.payloads += entry.data.len() + entry.context.len();
        }
        if let Some(snapshot) = message.snapshot.as_ref() {
            most.heads += nested_len(snapshot.wire_len()) - snapshot.data.len();
            most.payloads += snapshot.data.len();
        }
        most
    }

    fn len(&self) -> usize {
        self.heads + self.payloads
    }
}

/// Any value in one allocation.
pub(super) fn to_bytes(value: &impl Put) -> Bytes {
    let mut buffer = Vec::with_capacity(value.wire_len());
    put(value, &mut Whole(&mut buffer));
    count_copied(buffer.len(), Reason::Gather);
    Bytes::from(buffer)
}

fn put<S: Sink + ?Sized>(value: &impl Put, sink: &mut S) {
    let mut out = Out::new(sink);
    value.put(&mut out);
    out.flush();
}

/// What can be written, the fields that are 0 or empty left out.
pub(super) trait Put {
    fn wire_len(&self) -> usize;
    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>);

    /// As a field of something else.
    #[inline]
    fn put_nested<S: Sink + ?Sized>(&self, tag: u8, out: &mut Out<'_, S>) {
        out.tagged(tag, self.wire_len() as u64);
        self.put(out);
    }
}

impl Put for Message {
    fn wire_len(&self) -> usize {
        let numbers = uint_len(self.msg_type as u64)
            + uint_len(self.to)
            + uint_len(self.from)
            + uint_len(self.term)
            + uint_len(self.log_term)
            + uint_len(self.index)
            + uint_len(self.commit)
            + uint_len(self.commit_term)
            + uint_len(self.request_snapshot)
            + uint_len(self.reject.into())
            + uint_len(self.reject_hint)
            + uint_len(self.deprecated_priority);
        let priority =
            if self.priority == 0 { 0 } else { 2 + varint_len(self.priority.cast_unsigned()) };
        let entries: usize = self.entries.iter().map(|entry| nested_len(entry.wire_len())).sum();
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| nested_len(snapshot.wire_len()));
        numbers + priority + entries + snapshot + bytes_len(&self.context)
    }

    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        out.uint(0x08, self.msg_type as u64);
        out.uint(0x10, self.to);
        out.uint(0x18, self.from);
        out.uint(0x20, self.term);
        out.uint(0x28, self.log_term);
        out.uint(0x30, self.index);
        for entry in &self.entries {
            entry.put_nested(0x3a, out);
        }
        out.uint(0x40, self.commit);
        out.uint(0x78, self.commit_term);
        if let Some(snapshot) = self.snapshot.as_ref() {
            snapshot.put_nested(0x4a, out);
        }
        out.uint(0x68, self.request_snapshot);
        out.uint(0x50, self.reject.into());
        out.uint(0x58, self.reject_hint);
        out.bytes(0x62, &self.context);
        out.uint(0x70, self.deprecated_priority);
        out.uint_wide([0x80, 0x01], self.priority.cast_unsigned());
    }
}

impl Put for Entry {
    #[inline]
    fn wire_len(&self) -> usize {
        uint_len(self.entry_type as u64)
            + uint_len(self.term)
            + uint_len(self.index)
            + bytes_len(&self.data)
            + bytes_len(&self.context)
            + uint_len(self.sync_log.into())
    }

    #[inline]
    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        out.uint(0x08, self.entry_type as u64);
        out.uint(0x10, self.term);
        out.uint(0x18, self.index);
        out.bytes(0x22, &self.data);
        out.bytes(0x32, &self.context);
        out.uint(0x28, self.sync_log.into());
    }
}

impl Put for Snapshot {
    fn wire_len(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, |metadata| nested_len(metadata.wire_len()));
        bytes_len(&self.data) + metadata
    }

    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        out.bytes(0x0a, &self.data);
        if let Some(metadata) = self.metadata.as_ref() {
            metadata.put_nested(0x12, out);
        }
    }
}

impl Put for SnapshotMetadata {
    fn wire_len(&self) -> usize {
        let conf_state = self.conf_state.as_ref().map_or(0, |state| nested_len(state.wire_len()));
        conf_state + uint_len(self.index) + uint_len(self.term)
    }

    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        if let Some(conf_state) = self.conf_state.as_ref() {
            conf_state.put_nested(0x0a, out);
        }
        out.uint(0x10, self.index);
        out.uint(0x18, self.term);
    }
}

impl Put for ConfState {
    fn wire_len(&self) -> usize {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        let ids = lists.into_iter().flatten().map(|id| 1 + varint_len(*id)).sum::<usize>();
        ids + uint_len(self.auto_leave.into())
    }

    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        // One field for each, as the library writes them; both forms are read.
        self.voters.iter().for_each(|id| out.tagged(0x08, *id));
        self.learners.iter().for_each(|id| out.tagged(0x10, *id));
        self.voters_outgoing.iter().for_each(|id| out.tagged(0x18, *id));
        self.learners_next.iter().for_each(|id| out.tagged(0x20, *id));
        out.uint(0x28, self.auto_leave.into());
    }
}

impl Put for HardState {
    fn wire_len(&self) -> usize {
        uint_len(self.term) + uint_len(self.vote) + uint_len(self.commit)
    }

    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        out.uint(0x08, self.term);
        out.uint(0x10, self.vote);
        out.uint(0x18, self.commit);
    }
}

impl Put for ConfChange {
    fn wire_len(&self) -> usize {
        uint_len(self.change_type as u64)
            + uint_len(self.node_id)
            + bytes_len(&self.context)
            + uint_len(self.id)
    }

    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        out.uint(0x10, self.change_type as u64);
        out.uint(0x18, self.node_id);
        out.bytes(0x22, &self.context);
        out.uint(0x08, self.id);
    }
}

impl Put for ConfChangeSingle {
    fn wire_len(&self) -> usize {
        uint_len(self.change_type as u64) + uint_len(self.node_id)
    }

    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        out.uint(0x08, self.change_type as u64);
        out.uint(0x10, self.node_id);
    }
}

impl Put for ConfChangeV2 {
    fn wire_len(&self) -> usize {
        let changes: usize = self.changes.iter().map(|change| nested_len(change.wire_len())).sum();
        uint_len(self.transition as u64) + changes + bytes_len(&self.context)
    }

    fn put<S: Sink + ?Sized>(&self, out: &mut Out<'_, S>) {
        out.uint(0x08, self.transition as u64);
        for change in &self.changes {
            change.put_nested(0x12, out);
        }
        out.bytes(0x1a, &self.context);
    }
}
