//! The log of encoded events.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use straightway_buffer::{PooledBuffer, Reason, SharedPacket};
use straightway_codec::event::{Event, Gap, Kind, Scope, Stats};
use straightway_codec::ws::{MAX_HEAD_BYTES, Opcode, put_head, put_head_deflated};
use straightway_codec::{
    ArchivedString, Codec, CodecError, Encoder, Flags, HEADER_BYTES, HEADROOM, Header, JsonCodec,
    RkyvCodec, WireType, type_id,
};

use super::publish::count;

/// An event in all forms that were asked for. Each form is a whole WebSocket frame, made once.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) offset: u64,
    pub(crate) kind: Kind,
    pub(crate) priority: u8,
    /// When it is worth nothing any more, in milliseconds since the Unix epoch.
    pub(crate) expires_ms: Option<u64>,
    /// When it was published, on the node's own clock.
    pub(crate) at: Duration,
    frame: SharedPacket,
    /// Where the message begins in `frame`.
    head: usize,
    json: OnceLock<Text>,
    /// The JSON form compressed for those who agreed on permessage-deflate, if it is worth it.
    deflated: OnceLock<Option<SharedPacket>>,
    zstd: OnceLock<Option<SharedPacket>>,
    /// The same event, marked as one that overtook others.
    ahead: OnceLock<Box<Slot>>,
    weight: Weight,
}

/// Memory of the forms that were made on request; given back with the slot.
#[derive(Debug)]
struct Weight {
    all: Arc<AtomicUsize>,
    own: AtomicUsize,
}

impl Weight {
    fn add(&self, bytes: usize) {
        self.own.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The JSON form: a text frame, and where its text begins.
#[derive(Debug, Clone, Default)]
struct Text {
    frame: SharedPacket,
    head: usize,
}

/// The form of an event that a subscriber gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    Rkyv,
    Zstd,
    Json,
    JsonDeflated,
}

/// Makes the forms, and counts how often: once an event and form, however many subscribers there are.
#[derive(Debug)]
pub(crate) struct Forms {
    pub(crate) encoder: Encoder,
    pub(super) json: AtomicU64,
    pub(super) deflated: AtomicU64,
    pub(super) zstd: AtomicU64,
    /// Bytes of all forms that were made on request and still exist.
    weight: Arc<AtomicUsize>,
}

impl Forms {
    pub(super) fn new(encoder: Encoder) -> Self {
        let (json, deflated, zstd) = Default::default();
        Self { encoder, json, deflated, zstd, weight: Arc::default() }
    }
}

/// Texts below this length are not deflated: without a context they hardly shrink.
const DEFLATE_FROM: usize = 1024;

impl Slot {
    /// A slot for an encoded message, whose header is asked for all that it says.
    pub(crate) fn new(
        message: PooledBuffer,
        kind: Kind,
        at: Duration,
        forms: &Forms,
    ) -> Result<Self, CodecError> {
        let (header, _) = Header::parse(&message)?;
        let len = message.len();
        let mut message = message;
        put_head(&mut message, Opcode::Binary)?;
        Ok(Self {
            offset: header.offset,
            kind,
            priority: header.priority,
            expires_ms: header.expires_ms(),
            at,
            head: message.len() - len,
            frame: message.share(),
            json: OnceLock::new(),
            deflated: OnceLock::new(),
            zstd: OnceLock::new(),
            ahead: OnceLock::new(),
            weight: Weight { all: forms.weight.clone(), own: AtomicUsize::new(0) },
        })
    }

    /// Bytes of the form that always exists.
    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    /// The message in rkyv, without a frame around it.
    pub(crate) fn message(&self) -> &[u8] {
        &self.frame[self.head..]
    }

    /// The archive.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.message()[HEADER_BYTES..]
    }

    /// The JSON text, without a frame around it.
    pub(crate) fn text(&self, forms: &Forms) -> SharedPacket {
        let text = self.json.get_or_init(|| self.make_json(forms));
        text.frame.slice(text.head..)
    }

    /// The whole frame in a form; what cannot be made falls back to a form that can.
    pub(crate) fn frame(&self, form: Form, forms: &Forms) -> &SharedPacket {
        match form {
            Form::Rkyv => &self.frame,
            Form::Zstd => {
                let packed = self.zstd.get_or_init(|| self.make_zstd(forms).ok().flatten());
                packed.as_ref().unwrap_or(&self.frame)
            }
            Form::Json => &self.json.get_or_init(|| self.make_json(forms)).frame,
            Form::JsonDeflated => {
                let packed = self.deflated.get_or_init(|| self.make_deflated(forms).ok().flatten());
                packed.as_ref().unwrap_or_else(|| self.frame(Form::Json, forms))
            }
        }
    }

    /// The event as it is sent ahead of others: its offset says nothing about what was seen before.
    pub(crate) fn ahead(&self, forms: &Forms) -> Result<&Slot, CodecError> {
        if let Some(ahead) = self.ahead.get() {
            return Ok(ahead);
        }
        let mut message = forms.encoder.pool().acquire(HEADROOM + self.message().len())?;
        message.set_headroom(HEADROOM)?;
        message.fill_from(self.message(), Reason::Gather);
        Header::set_flags(&mut message, Flags::URGENT);
        self.weight.add(message.capacity());
        let slot = Self::new(message, self.kind, self.at, forms)?;
        Ok(self.ahead.get_or_init(|| Box::new(slot)))
    }

    fn make_zstd(&self, forms: &Forms) -> Result<Option<SharedPacket>, CodecError> {
        count(&forms.zstd, 1);
        let packed = forms.encoder.compress::<Event>(self.message())?;
        let Some(mut packed) = packed else { return Ok(None) };
        self.weight.add(packed.capacity());
        put_head(&mut packed, Opcode::Binary)?;
        Ok(Some(packed.share()))
    }

    fn make_deflated(&self, forms: &Forms) -> Result<Option<SharedPacket>, CodecError> {
        let text = self.text(forms);
        if text.len() < DEFLATE_FROM {
            return Ok(None);
        }
        count(&forms.deflated, 1);
        let mut packed = forms.encoder.pool().acquire(MAX_HEAD_BYTES + text.len())?;
        packed.set_headroom(MAX_HEAD_BYTES)?;
        if !straightway_codec::ws::deflate(&text, &mut packed) {
            return Ok(None);
        }
        self.weight.add(packed.capacity());
        put_head_deflated(&mut packed, Opcode::Text)?;
        Ok(Some(packed.share()))
    }

    fn make_json(&self, forms: &Forms) -> Text {
        self.try_json(forms).unwrap_or_else(|error| {
            tracing::warn!(%error, "an event could not be written as JSON");
            Text::default()
        })
    }

    fn try_json(&self, forms: &Forms) -> Result<Text, CodecError> {
        let (header, payload) = Header::parse(self.message())?;
        let timestamp = header.time_us / 1000;
        let offset = header.offset;
        count(&forms.json, 1);
        let pool = forms.encoder.pool();
        // JSON is a little longer than the archive, unless there is much to escape.
        let mut len = self.len() + 160;
        let mut buffer = loop {
            let mut buffer = pool.acquire(len)?;
            buffer.set_headroom(MAX_HEAD_BYTES)?;
            let done = if header.type_id == type_id(Stats::NAME) {
                let body: Stats = RkyvCodec.decode(payload)?;
                JsonCodec.encode_any(
                    &Line { offset, kind: self.kind, key: Some(""), timestamp, body },
                    &mut buffer,
                )
            } else if header.type_id == type_id(Gap::NAME) {
                let body: Gap = RkyvCodec.decode(payload)?;
                JsonCodec.encode_any(
                    &GapLine { offset, kind: self.kind, key: "", timestamp, node: "", body },
                    &mut buffer,
                )
            } else {
                let body: Event = RkyvCodec.decode(payload)?;
                let urgent = header.flags.has(Flags::URGENT);
                JsonCodec.encode_any(&EventLine { offset, timestamp, urgent, body }, &mut buffer)
            };
            match done {
                Err(CodecError::Full { .. }) => len *= 4,
                Err(error) => return Err(error),
                Ok(_) => break buffer,
            }
        };
        let text = buffer.len();
        if buffer.capacity() > 2 * text + 256 {
            // It is kept: not in four times the room that it takes.
            let mut fitting = pool.acquire(MAX_HEAD_BYTES + text)?;
            fitting.set_headroom(MAX_HEAD_BYTES)?;
            fitting.fill_from(&buffer, Reason::Gather);
            buffer = fitting;
        }
        self.weight.add(buffer.capacity());
        put_head(&mut buffer, Opcode::Text)?;
        Ok(Text { head: buffer.len() - text, frame: buffer.share() })
    }

    /// What a filter looks at.
    pub(crate) fn subject(&self) -> Option<Subject<'_>> {
        if matches!(self.kind, Kind::Stats | Kind::Gap) {
            return None;
        }
        let event = Codec::<Event>::access(&RkyvCodec, self.payload()).ok()?;
        Some(Subject(event))
    }
}

/// The archived event of a slot.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a>(&'a straightway_codec::Archived<Event>);

impl<'a> Subject<'a> {
    pub(crate) fn key(self) -> &'a str {
        self.0.key.as_str()
    }

    pub(crate) fn tags(self) -> impl Iterator<Item = &'a str> {
        self.0.tags.iter().map(ArchivedString::as_str)
    }

    /// What `key` means if this is a purge.
    pub(crate) fn purge(self) -> Option<Scope> {
        let scope = match self.0.scope {
            straightway_codec::event::ArchivedScope::Key => Scope::Key,
            straightway_codec::event::ArchivedScope::Prefix => Scope::Prefix,
            straightway_codec::event::ArchivedScope::Tag => Scope::Tag,
            straightway_codec::event::ArchivedScope::All => Scope::All,
        };
        (Kind::from(self.0.kind) == Kind::Purged).then_some(scope)
    }
}

#[derive(serde::Serialize)]
struct EventLine {
    offset: u64,
    timestamp: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    urgent: bool,
    #[serde(flatten)]
    body: Event,
}

#[derive(serde::Serialize)]
struct Line<T> {
    offset: u64,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'static str>,
    timestamp: u64,
    #[serde(flatten)]
    body: T,
}

#[derive(serde::Serialize)]
struct GapLine {
    offset: u64,
    kind: Kind,
    key: &'static str,
    timestamp: u64,
    node: &'static str,
    #[serde(flatten)]
    body: Gap,
}

/// The newest events, in order, bounded in number, bytes and age.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The offset that the next event gets.
    next: u64,
    slots: VecDeque<Arc<Slot>>,
    bytes: usize,
    max_bytes: usize,
    max_events: usize,
    max_age: Duration,
}

impl Ring {
    pub(crate) fn new(max_bytes: usize, max_events: usize, max_age: Duration) -> Self {
        Self {
            next: 1,
            slots: VecDeque::new(),
            bytes: 0,
            max_bytes,
            max_events: max_events.max(1),
            max_age,
        }
    }

    /// The offset that the next event gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The offset of the oldest event that is kept; that of the next one when none is.
    pub(crate) fn oldest(&self) -> u64 {
        self.next - self.slots.len() as u64
    }

    /// Appends an event, which must bear the next offset, and lets go of what is too much or too old.
    pub(crate) fn push(&mut self, slot: Arc<Slot>, forms: &Forms) {
        debug_assert_eq!(slot.offset, self.next, "offsets have no holes");
        let now = slot.at;
        // What was made of the events on request counts, too.
        let mut made = forms.weight.load(Ordering::Relaxed);
        self.bytes += slot.len();
        self.next += 1;
        self.slots.push_back(slot);
        while self.slots.len() > self.max_events
            || self.bytes + made > self.max_bytes
            || self.slots.front().is_some_and(|oldest| now.saturating_sub(oldest.at) > self.max_age)
        {
            let Some(oldest) = self.slots.pop_front() else { break };
            self.bytes -= oldest.len();
            made = made.saturating_sub(oldest.weight.own.load(Ordering::Relaxed));
        }
    }

    /// The events from an offset on.
    pub(crate) fn from(&self, offset: u64) -> impl Iterator<Item = &Arc<Slot>> {
        let skip = offset.saturating_sub(self.oldest());
        self.slots.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }

    /// Bytes of events kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events kept.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}
