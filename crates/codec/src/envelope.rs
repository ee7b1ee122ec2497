//! A value with all that may be said about it: [`Envelope`]. On the wire the header holds most of it; what has no place
//! there (id, source, destination, content type) follows as an extension.
use rkyv::{Archive, Deserialize, Serialize};
use straightway_buffer::{BufferPool, PooledBuffer};

use crate::archive::{Archived, RkyvCodec, WireType, rebuild, type_id, view};
use crate::codec::{Codec, with_room};
use crate::compress::{EVENTS, plain_len};
use crate::error::CodecError;
use crate::header::{Flags, HEADER_BYTES, Header, Priority};
use crate::json::JsonCodec;
use crate::registry::TypeRegistry;
use crate::sink::append;

/// How a payload is written.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Encoding {
    /// An rkyv archive: `application/rkyv`.
    #[default]
    Rkyv,
    /// JSON text: `application/json`.
    Json,
}

impl Encoding {
    /// The media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Rkyv => "application/rkyv",
            Self::Json => "application/json",
        }
    }
}

/// How a payload is compressed.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Compression {
    /// zstd (RFC 8878).
    Zstd,
}

/// What may be said about a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct MessageMetadata {
    /// How the payload is written.
    pub content_type: Encoding,
    /// How it is compressed, where that makes it smaller.
    pub compression: Option<Compression>,
    /// Urgency: higher goes first.
    pub priority: Priority,
    /// Lifetime in seconds.
    pub ttl: Option<u64>,
    /// Who sends it.
    pub source: Option<String>,
    /// Whom it is for.
    pub destination: Option<String>,
}

/// A value on its way, with its metadata.
///
/// ```
/// use straightway_codec::event::Gap;
/// use straightway_codec::Envelope;
///
/// let envelope = Envelope::new("42", Gap::default()).with_priority(3).with_ttl(60);
/// assert_eq!((envelope.version, envelope.metadata.ttl), (1, Some(60)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Envelope<T> {
    /// What answers refer to.
    pub id: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// The value.
    pub payload: T,
    /// What may be said about it.
    #[serde(default)]
    pub metadata: MessageMetadata,
    /// The version of the value's type.
    pub version: u32,
}

/// What does not fit into a header.
#[derive(Debug, Default, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
struct Extension {
    id: String,
    source: Option<String>,
    destination: Option<String>,
    encoding: Encoding,
}

impl WireType for Extension {
    const NAME: &'static str = "straightway.extension";
    const VERSION: u16 = 1;

    fn example() -> Self {
        Self::default()
    }
}

/// An envelope that was read where it lies.
pub struct Received<'a, T: WireType> {
    /// What the header says.
    pub header: Header,
    /// The envelope's id; empty without one.
    pub id: &'a str,
    /// Who sent it.
    pub source: Option<&'a str>,
    /// Whom it is for.
    pub destination: Option<&'a str>,
    /// The value.
    pub payload: &'a Archived<T>,
}

impl<T: WireType> Envelope<T> {
    /// An envelope made now, of the version of its type, without metadata.
    pub fn new(id: impl Into<String>, payload: T) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let timestamp = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let metadata = MessageMetadata::default();
        Self { id: id.into(), timestamp, payload, metadata, version: u32::from(T::VERSION) }
    }
}

impl<T> Envelope<T> {
    /// With other metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: MessageMetadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// With a priority.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.metadata.priority = priority;
        self
    }

    /// With a lifetime in seconds.
    #[must_use]
    pub fn with_ttl(mut self, seconds: u64) -> Self {
        self.metadata.ttl = Some(seconds);
        self
    }
}

impl<T: WireType> Envelope<T> {
    /// The whole message: header, extension, and the payload as the metadata say.
    pub fn encode(&self, pool: &BufferPool) -> Result<PooledBuffer, CodecError> {
        if self.metadata.compression.is_none() {
            return with_room(pool, 512, 0, |buffer| {
                self.start(buffer)?;
                self.put_payload(buffer)
            });
        }
        let plain = with_room(pool, 512, 0, |buffer| self.put_payload(buffer))?;
        // Room for the plain form, so that being larger is the only reason not to compress.
        with_room(pool, 512 + plain.len(), 0, |buffer| {
            self.start(buffer)?;
            match EVENTS.compress(&plain, buffer)? {
                Some(_) => Header::set_flags(buffer, Flags::ZSTD),
                None => put(buffer, &plain)?,
            }
            Ok(())
        })
    }

    fn put_payload(&self, into: &mut PooledBuffer) -> Result<(), CodecError> {
        match self.metadata.content_type {
            Encoding::Rkyv => RkyvCodec.encode_into(&self.payload, into).map(drop),
            Encoding::Json => JsonCodec.encode_into(&self.payload, into).map(drop),
        }
    }

    /// What stands in front of the payload.
    fn start(&self, into: &mut PooledBuffer) -> Result<(), CodecError> {
        // 0 stands for none: a lifetime that is over at once is the shortest there is.
        let ttl_ms = self.metadata.ttl.map_or(0, |seconds| seconds.saturating_mul(1000).max(1));
        let header = Header {
            flags: Flags::EXTENDED,
            type_id: type_id(T::NAME),
            version: T::VERSION,
            priority: self.metadata.priority,
            ttl_ms: u32::try_from(ttl_ms).unwrap_or(u32::MAX),
            offset: 0,
            time_us: self.timestamp.saturating_mul(1000),
        };
        put(into, &header.encode())?;
        let length_at = into.len();
        put(into, &[0; 4])?;
        let extension = Extension {
            id: self.id.clone(),
            source: self.metadata.source.clone(),
            destination: self.metadata.destination.clone(),
            encoding: self.metadata.content_type,
        };
        let len = RkyvCodec.encode_into(&extension, into)?;
        let len = u32::try_from(len).map_err(|_| CodecError::TooLarge { limit: 1 << 32 })?;
        into[length_at..length_at + 4].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    /// Reads a message in place, with or without an extension. The registry is asked about its type and version.
    ///
    /// # Errors
    /// Those of [`Header::parse`] and [`TypeRegistry::check`], [`CodecError::WrongType`], and
    /// [`CodecError::NotInPlace`] for what [`Self::open`] can read.
    pub fn read<'a>(
        message: &'a [u8],
        registry: &TypeRegistry,
    ) -> Result<Received<'a, T>, CodecError> {
        let (header, rest) = Header::parse(message)?;
        let (extension, payload) = split_extension(&header, rest)?;
        if header.flags.has(Flags::ZSTD) {
            return Err(CodecError::NotInPlace { what: "compressed" });
        }
        if encoding_of(extension) == Encoding::Json {
            return Err(CodecError::NotInPlace { what: "JSON" });
        }
        let checked = registry.check(&header, payload)?;
        let payload = checked.view::<T>()?;
        let id = extension.map_or("", |extension| extension.id.as_str());
        let text = |pick: fn(&ArchivedExtension) -> Option<&rkyv::string::ArchivedString>| {
            extension.and_then(pick).map(rkyv::string::ArchivedString::as_str)
        };
        Ok(Received {
            header,
            id,
            source: text(|extension| extension.source.as_ref()),
            destination: text(|extension| extension.destination.as_ref()),
            payload,
        })
    }

    /// Reads a message in whatever form it is: in place where that can be done, else by way of a buffer of the pool, in
    /// which the payload may take at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::read`]; [`CodecError::Compression`], [`CodecError::Json`], [`CodecError::TooLarge`].
    pub fn open(
        message: &[u8],
        registry: &TypeRegistry,
        pool: &BufferPool,
        limit: usize,
    ) -> Result<Self, CodecError> {
        match Self::read(message, registry) {
            Err(CodecError::NotInPlace { .. }) => {}
            read => return read?.to_envelope(),
        }
        let (header, rest) = Header::parse(message)?;
        let (extension, packed) = split_extension(&header, rest)?;
        let mut plain = None;
        if header.flags.has(Flags::ZSTD) {
            let len = plain_len(packed).unwrap_or(limit);
            if len > limit {
                return Err(CodecError::TooLarge { limit });
            }
            EVENTS.decompress(packed, plain.insert(pool.acquire(len.max(1))?))?;
        }
        let payload = plain.as_deref().unwrap_or(packed);
        let (content_type, compression) =
            (encoding_of(extension), header.flags.has(Flags::ZSTD).then_some(Compression::Zstd));
        let value = match content_type {
            Encoding::Rkyv => rebuild::<T>(registry.check(&header, payload)?.view::<T>()?)?,
            Encoding::Json => {
                let info = registry.version_of(header.type_id, header.version)?;
                if info.name != T::NAME {
                    return Err(CodecError::WrongType { found: info.name, wanted: T::NAME });
                }
                JsonCodec.decode(payload)?
            }
        };
        let text = |text: &rkyv::string::ArchivedString| text.as_str().to_owned();
        let id = extension.map(|it| text(&it.id)).unwrap_or_default();
        let source = extension.and_then(|it| it.source.as_ref()).map(text);
        let destination = extension.and_then(|it| it.destination.as_ref()).map(text);
        let metadata =
            MessageMetadata { content_type, compression, source, destination, ..said(&header) };
        let (timestamp, version) = (header.time_us / 1000, u32::from(header.version));
        Ok(Self { id, timestamp, payload: value, metadata, version })
    }
}

/// What a header says of a message.
fn said(header: &Header) -> MessageMetadata {
    let ttl = (header.ttl_ms != 0).then(|| u64::from(header.ttl_ms / 1000));
    MessageMetadata { priority: header.priority, ttl, ..MessageMetadata::default() }
}

fn encoding_of(extension: Option<&ArchivedExtension>) -> Encoding {
    match extension.map(|extension| &extension.encoding) {
        Some(ArchivedEncoding::Json) => Encoding::Json,
        Some(ArchivedEncoding::Rkyv) | None => Encoding::Rkyv,
    }
}

impl<T: WireType> Received<'_, T> {
    /// The envelope, rebuilt.
    pub fn to_envelope(&self) -> Result<Envelope<T>, CodecError> {
        Ok(Envelope {
            id: self.id.to_owned(),
            timestamp: self.header.time_us / 1000,
            payload: rebuild::<T>(self.payload)?,
            metadata: MessageMetadata {
                source: self.source.map(str::to_owned),
                destination: self.destination.map(str::to_owned),
                ..said(&self.header)
            },
            version: u32::from(self.header.version),
        })
    }
}

fn put(into: &mut PooledBuffer, bytes: &[u8]) -> Result<(), CodecError> {
    use std::io::Write as _;
    append(into, |sink| sink.write_all(bytes)).map(drop)
}

/// What follows a header: the extension, if there is one, and the payload.
fn split_extension<'a>(
    header: &Header,
    rest: &'a [u8],
) -> Result<(Option<&'a ArchivedExtension>, &'a [u8]), CodecError> {
    if !header.flags.has(Flags::EXTENDED) {
        return Ok((None, rest));
    }
    let truncated = |needed| CodecError::Truncated { needed, found: HEADER_BYTES + rest.len() };
    let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(|| truncated(HEADER_BYTES + 4))?;
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
    let (extension, payload) = rest
        .split_at_checked(len)
        .ok_or_else(|| truncated((HEADER_BYTES + 4).saturating_add(len)))?;
    Ok((Some(view::<Extension>(extension)?), payload))
}
