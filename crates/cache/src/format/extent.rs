//! An extent: header, body, checksums.
//!
//! ```text
//! small (body < 64 KiB), 64-byte aligned:   header | body | checksums            | padding to 64
//! large, block aligned:                     header, padded to a block | body | checksums | padding to a block
//! ```
//! A checksum is the CRC-32C of 64 KiB of body. The header names the segment's sequence number and the keyed hash of
//! its key: bytes of a body that look like a header cannot pass for one without knowing the cache's secret.
use crate::format::{FormatError, Reader, Writer, crc32c};
use crate::meta::ObjectMeta;

/// A checksum covers this many bytes of body.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// Longest content type in bytes.
pub(crate) const MAX_CONTENT_TYPE_BYTES: usize = 256;
/// Most tags.
pub(crate) const MAX_TAGS: usize = 16;
/// Longest tags together in bytes.
pub(crate) const MAX_TAGS_BYTES: usize = 1024;

const MAGIC: [u8; 4] = *b"SwEx";
const WHAT: &str = "an extent header";
const FLAG_DIGEST: u16 = 1;
/// Everything before the key.
const FIXED_BYTES: usize = 4 + 2 + 2 + 8 * 6 + 8 * 3 + 4 + 32 + 2 + 2 + 2;
const SEQ_AT: usize = 8;
const LARGE_HEADER: u32 = 4096;
const LARGE_HEADER_BYTES: u64 = LARGE_HEADER as u64;
const UNIT: u64 = 64;

/// A header to be written.
#[derive(Debug)]
pub(crate) struct ExtentHeader<'a> {
    meta: &'a ObjectMeta,
    hash: u64,
    generation: u64,
}

/// Where the parts of an extent are, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) header_len: usize,
    pub(crate) body_offset: u32,
    pub(crate) trailer_offset: u64,
    pub(crate) extent_len: u64,
}

impl<'a> ExtentHeader<'a> {
    /// `generation` is that of the purges ([`crate::purge`]) that the object comes after.
    pub(crate) fn new(meta: &'a ObjectMeta, hash: u64, generation: u64) -> Self {
        Self { meta, hash, generation }
    }

    fn header_len(&self) -> usize {
        let tags: usize = self.meta.tags.iter().map(|tag| 2 + tag.len()).sum();
        FIXED_BYTES
            + self.meta.key.len()
            + self.meta.content_type.as_ref().map_or(0, String::len)
            + tags
            + 4
    }

    /// The shape of a small extent.
    pub(crate) fn needle_shape(&self) -> Shape {
        let header_len = self.header_len();
        let body_offset = header_len.next_multiple_of(8);
        let trailer_offset = body_offset as u64 + self.meta.len;
        let extent_len = (trailer_offset + trailer_len(self.meta.len)).next_multiple_of(UNIT);
        // A header never exceeds a block: the limits on its parts see to that.
        Shape {
            header_len,
            body_offset: u32::try_from(body_offset).unwrap_or(u32::MAX),
            trailer_offset,
            extent_len,
        }
    }

    /// The shape of a large extent.
    pub(crate) fn large_shape(&self) -> Shape {
        let trailer_offset = LARGE_HEADER_BYTES + self.meta.len;
        let extent_len = large_extent_len(self.meta.len);
        Shape {
            header_len: self.header_len(),
            body_offset: LARGE_HEADER,
            trailer_offset,
            extent_len,
        }
    }

    /// Writes the header to the front of `bytes`.
    pub(crate) fn encode_into(
        &self,
        bytes: &mut [u8],
        seq: u64,
        shape: &Shape,
    ) -> Result<(), FormatError> {
        let meta = self.meta;
        let found = bytes.len();
        let bytes = bytes.get_mut(..shape.header_len).ok_or(FormatError::Truncated {
            what: WHAT,
            needed: shape.header_len,
            found,
        })?;
        let mut w = Writer::new(bytes);
        w.put(&MAGIC);
        w.u16(u16::try_from(shape.header_len).unwrap_or(u16::MAX));
        w.u16(if meta.digest.is_some() { FLAG_DIGEST } else { 0 });
        for field in [seq, self.hash, self.generation] {
            w.u64(field);
        }
        for field in [meta.stored_ms, meta.expires_ms.unwrap_or(0), meta.last_modified_ms] {
            w.u64(field);
        }
        for field in [meta.len, shape.trailer_offset, shape.extent_len] {
            w.u64(field);
        }
        w.u32(shape.body_offset);
        w.put(&meta.digest.unwrap_or_default());
        let content_type = meta.content_type.as_deref().unwrap_or_default();
        w.u16(u16::try_from(meta.key.len()).unwrap_or(u16::MAX));
        w.u16(u16::try_from(content_type.len()).unwrap_or(u16::MAX));
        w.u16(u16::try_from(meta.tags.len()).unwrap_or(u16::MAX));
        w.put(meta.key.as_bytes());
        w.put(content_type.as_bytes());
        for tag in &meta.tags {
            w.u16(u16::try_from(tag.len()).unwrap_or(u16::MAX));
            w.put(tag.as_bytes());
        }
        let end = w.at();
        let sum = crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        Ok(())
    }

    /// Reads a header. Never panics, whatever the bytes are.
    pub(crate) fn parse(bytes: &[u8]) -> Result<ExtentView<'_>, FormatError> {
        let (header, header_len) = checked_header(bytes)?;
        let mut r = Reader::new(&header[8..header_len - 4], WHAT);
        let flags = u16::from_le_bytes([header[6], header[7]]);
        let view = ExtentView {
            header_len,
            has_digest: flags & FLAG_DIGEST != 0,
            seq: r.u64()?,
            key_hash: r.u64()?,
            generation: r.u64()?,
            stored_ms: r.u64()?,
            expires_ms: r.u64()?,
            last_modified_ms: r.u64()?,
            body_len: r.u64()?,
            trailer_offset: r.u64()?,
            extent_len: r.u64()?,
            body_offset: r.u32()?,
            digest: r.array()?,
            lens: (r.u16()?, r.u16()?, r.u16()?),
            texts: r,
            key: "",
            content_type: "",
        };
        view.with_texts()
    }
}

fn checked_header(bytes: &[u8]) -> Result<(&[u8], usize), FormatError> {
    let found = bytes.len();
    let fixed = bytes.get(..8).ok_or(FormatError::Truncated { what: WHAT, needed: 8, found })?;
    if fixed[..4] != MAGIC {
        return Err(FormatError::Magic { what: WHAT });
    }
    let header_len = usize::from(u16::from_le_bytes([fixed[4], fixed[5]]));
    if header_len < FIXED_BYTES + 4 {
        return Err(FormatError::Field {
            what: "header length",
            value: header_len as u64,
            reason: "too short",
        });
    }
    let header = bytes.get(..header_len).ok_or(FormatError::Truncated {
        what: WHAT,
        needed: header_len,
        found,
    })?;
    let (body, sum) = header.split_at(header_len - 4);
    if crc32c(body).to_le_bytes() != sum {
        return Err(FormatError::Checksum { what: WHAT });
    }
    Ok((header, header_len))
}

/// A header that passed its checksum, in place.
#[derive(Debug, Clone)]
pub(crate) struct ExtentView<'a> {
    header_len: usize,
    has_digest: bool,
    seq: u64,
    key_hash: u64,
    generation: u64,
    stored_ms: u64,
    expires_ms: u64,
    last_modified_ms: u64,
    body_len: u64,
    trailer_offset: u64,
    extent_len: u64,
    body_offset: u32,
    digest: [u8; 32],
    lens: (u16, u16, u16),
    texts: Reader<'a>,
    key: &'a str,
    content_type: &'a str,
}

impl<'a> ExtentView<'a> {
    fn with_texts(mut self) -> Result<Self, FormatError> {
        let text = |bytes: &'a [u8], what| {
            std::str::from_utf8(bytes).map_err(|_| FormatError::Field {
                what,
                value: bytes.len() as u64,
                reason: "not UTF-8",
            })
        };
        self.key = text(self.texts.take(usize::from(self.lens.0))?, "key")?;
        self.content_type = text(self.texts.take(usize::from(self.lens.1))?, "content type")?;
        let mut tags = self.texts.clone();
        for _ in 0..self.lens.2 {
            let len = usize::from(tags.u16()?);
            text(tags.take(len)?, "tag")?;
        }
        if !tags.is_empty() {
            return Err(FormatError::Field {
                what: "header length",
                value: self.header_len as u64,
                reason: "is more than its parts",
            });
        }
        if (self.body_offset as usize) < self.header_len {
            return Err(FormatError::Field {
                what: "body offset",
                value: u64::from(self.body_offset),
                reason: "lies inside the header",
            });
        }
        let ends = [
            u64::from(self.body_offset).checked_add(self.body_len),
            self.trailer_offset.checked_add(trailer_len(self.body_len)),
        ];
        let inside = ends[0] == Some(self.trailer_offset)
            && ends[1].is_some_and(|end| end <= self.extent_len);
        if !inside || !self.extent_len.is_multiple_of(UNIT) {
            return Err(FormatError::Field {
                what: "extent length",
                value: self.extent_len,
                reason: "does not hold its parts",
            });
        }
        Ok(self)
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }
    pub(crate) fn key_hash(&self) -> u64 {
        self.key_hash
    }
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
    pub(crate) fn key(&self) -> &'a str {
        self.key
    }
    pub(crate) fn content_type(&self) -> Option<&'a str> {
        (!self.content_type.is_empty()).then_some(self.content_type)
    }
    pub(crate) fn tags(&self) -> impl Iterator<Item = &'a str> {
        let mut texts = self.texts.clone();
        (0..self.lens.2).map_while(move |_| {
            let len = usize::from(texts.u16().ok()?);
            std::str::from_utf8(texts.take(len).ok()?).ok()
        })
    }
    pub(crate) fn stored_ms(&self) -> u64 {
        self.stored_ms
    }
    pub(crate) fn expires_ms(&self) -> Option<u64> {
        (self.expires_ms != 0).then_some(self.expires_ms)
    }
    pub(crate) fn last_modified_ms(&self) -> u64 {
        self.last_modified_ms
    }
    pub(crate) fn body_len(&self) -> u64 {
        self.body_len
    }
    pub(crate) fn body_offset(&self) -> u32 {
        self.body_offset
    }
    pub(crate) fn trailer_offset(&self) -> u64 {
        self.trailer_offset
    }
    pub(crate) fn extent_len(&self) -> u64 {
        self.extent_len
    }
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        self.has_digest.then_some(self.digest)
    }
}

/// Puts the segment's number into a header that is copied to another segment.
pub(crate) fn rewrite_seq(bytes: &mut [u8], seq: u64) -> Result<(), FormatError> {
    let (_, header_len) = checked_header(bytes)?;
    let header = &mut bytes[..header_len];
    header[SEQ_AT..SEQ_AT + 8].copy_from_slice(&seq.to_le_bytes());
    let (body, sum) = header.split_at_mut(header_len - 4);
    sum.copy_from_slice(&crc32c(body).to_le_bytes());
    Ok(())
}

/// Bytes of checksums for a body.
pub(crate) fn trailer_len(body_len: u64) -> u64 {
    body_len.div_ceil(CHUNK_BYTES as u64).saturating_mul(4)
}

/// Bytes that a large extent takes for a body.
pub(crate) fn large_extent_len(body_len: u64) -> u64 {
    LARGE_HEADER_BYTES
        .saturating_add(body_len)
        .saturating_add(trailer_len(body_len))
        .checked_next_multiple_of(LARGE_HEADER_BYTES)
        .unwrap_or(u64::MAX)
}

/// Puts a small body and its checksum into the room of its extent.
pub(crate) fn put_body(room: &mut [u8], shape: &Shape, body: &[u8]) {
    let start = shape.body_offset as usize;
    room[start..start + body.len()].copy_from_slice(body);
    if !body.is_empty() {
        let sum = crc32c(body).to_le_bytes();
        room[start + body.len()..start + body.len() + 4].copy_from_slice(&sum);
    }
}

/// The end of a large body with the checksums behind it.
pub(crate) fn large_tail(last: &[u8], checksums: &[u32]) -> Vec<u8> {
    let mut tail = Vec::with_capacity(last.len() + 4 * checksums.len());
    tail.extend_from_slice(last);
    tail.extend(checksums.iter().flat_map(|sum| sum.to_le_bytes()));
    tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta() -> impl Strategy<Value = ObjectMeta> {
        (
            "\\PC{1,200}",
            0..1u64 << 40,
            proptest::option::of("[a-z/]{1,40}"),
            proptest::collection::vec("\\PC{0,20}", 0..MAX_TAGS),
            any::<(u64, u64)>(),
            proptest::option::of(1..u64::MAX),
            any::<Option<[u8; 32]>>(),
        )
            .prop_map(
                |(
                    key,
                    len,
                    content_type,
                    tags,
                    (stored_ms, last_modified_ms),
                    expires_ms,
                    digest,
                )| ObjectMeta {
                    key,
                    len,
                    content_type,
                    tags,
                    stored_ms,
                    expires_ms,
                    last_modified_ms,
                    digest,
                },
            )
    }

    proptest! {
        #[test]
        fn a_header_comes_back(meta in meta(), hash in any::<u64>(), seq in any::<u64>()) {
            let header = ExtentHeader::new(&meta, hash, seq ^ 7);
            for shape in [header.needle_shape(), header.large_shape()] {
                let mut bytes = vec![0; 4096];
                header.encode_into(&mut bytes, seq, &shape).expect("fits");
                rewrite_seq(&mut bytes, seq ^ 1).expect("sound");
                let view = ExtentHeader::parse(&bytes).expect("sound");
                prop_assert_eq!((view.seq(), view.key_hash(), view.key()), (seq ^ 1, hash, meta.key.as_str()));
                prop_assert_eq!(view.generation(), seq ^ 7);
                prop_assert_eq!(view.content_type(), meta.content_type.as_deref());
                prop_assert_eq!(view.tags().collect::<Vec<_>>(), meta.tags.iter().map(String::as_str).collect::<Vec<_>>());
                prop_assert_eq!((view.expires_ms(), view.digest(), view.body_len()), (meta.expires_ms, meta.digest, meta.len));
                prop_assert_eq!((view.trailer_offset(), view.extent_len()), (shape.trailer_offset, shape.extent_len));
            }
        }

        #[test]
        fn any_flipped_bit_is_noticed(meta in meta(), bit in any::<prop::sample::Index>()) {
            let header = ExtentHeader::new(&meta, 7, 0);
            let shape = header.needle_shape();
            let mut bytes = vec![0; shape.header_len];
            header.encode_into(&mut bytes, 3, &shape).expect("fits");
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(ExtentHeader::parse(&bytes).is_err());
        }

        #[test]
        fn a_view_never_points_outside_itself(meta in meta(), at in 56..84usize, value: u8) {
            // Any byte of the lengths and offsets changed, under a right checksum.
            let header = ExtentHeader::new(&meta, 7, 0);
            let shape = header.needle_shape();
            let mut bytes = vec![0; shape.header_len];
            header.encode_into(&mut bytes, 3, &shape).expect("fits");
            bytes[at] = value;
            let end = bytes.len() - 4;
            let sum = crc32c(&bytes[..end]);
            bytes[end..].copy_from_slice(&sum.to_le_bytes());
            if let Ok(view) = ExtentHeader::parse(&bytes) {
                prop_assert!(view.body_offset() as usize >= bytes.len());
                prop_assert_eq!(u64::from(view.body_offset()) + view.body_len(), view.trailer_offset());
                prop_assert!(view.trailer_offset() + trailer_len(view.body_len()) <= view.extent_len());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), genuine in any::<bool>()) {
            if genuine && bytes.len() > 8 {
                bytes[..4].copy_from_slice(&MAGIC);
                let len = bytes.len();
                bytes[4..6].copy_from_slice(&u16::try_from(len).expect("short").to_le_bytes());
                let sum = crc32c(&bytes[..len - 4]);
                bytes[len - 4..].copy_from_slice(&sum.to_le_bytes());
            }
            drop(ExtentHeader::parse(&bytes));
            drop(rewrite_seq(&mut bytes, 1));
        }
    }

    #[test]
    fn the_longest_header_fits_its_block() {
        let tags = vec!["t".repeat(MAX_TAGS_BYTES / MAX_TAGS); MAX_TAGS];
        let meta = ObjectMeta {
            key: "k".repeat(2048),
            len: 1 << 40,
            content_type: Some("c".repeat(MAX_CONTENT_TYPE_BYTES)),
            tags,
            stored_ms: 1,
            expires_ms: None,
            last_modified_ms: 1,
            digest: None,
        };
        let header = ExtentHeader::new(&meta, 1, 0);
        let mut block = vec![0; 4096];
        header.encode_into(&mut block, 1, &header.large_shape()).expect("fits");
        ExtentHeader::parse(&block).expect("sound");
    }
}
