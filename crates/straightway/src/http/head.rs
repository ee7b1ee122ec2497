//! The header values of a stored object, formatted once and kept for the next request of the same object.
//!
//! Formatting a date, two digests and a length costs about as much as finding the object. What one incarnation of an
//! object looks like in headers never changes (only `Age` does, once a second), so each
//! network thread keeps the values of the objects it met last in a table of its own, found by [`Version`] and replaced
//! by whatever falls into the same slot. No lock, no eviction order, at most [`SLOTS`] entries.
use std::cell::RefCell;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use http::HeaderValue;
use http::header::{
    ACCEPT_RANGES, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, LAST_MODIFIED,
};
use straightway_cache::{Object, ObjectMeta, Version};

use super::conditional::{Current, format_date};
use super::{digest, etag};
use crate::member::is_object_key;

/// Objects whose headers a network thread remembers; a power of two.
const SLOTS: usize = 1024;

thread_local! {
    static HEADS: RefCell<Box<[Option<Head>]>> = RefCell::new((0..SLOTS).map(|_| None).collect());
}

/// Runs `with` on the header values of an object.
pub(crate) fn of<R>(object: &Object, with: impl FnOnce(&mut Head) -> R) -> R {
    let version = object.version();
    HEADS.with_borrow_mut(|heads| {
        let slot = &mut heads[slot_of(version)];
        match slot {
            Some(head) if head.version == Some(version) => with(head),
            _ => with(slot.insert(Head::new(Some(version), object.meta()))),
        }
    })
}

/// The headers of one incarnation of an object.
#[derive(Debug)]
pub(crate) struct Head {
    version: Option<Version>,
    etag: HeaderValue,
    last_modified: HeaderValue,
    content_type: HeaderValue,
    repr_digest: Option<HeaderValue>,
    length: HeaderValue,
    /// The whole lifetime, as counted from the time of storing: with `Age` beside it, what is left is what a reader
    /// works out (RFC 9111 §4.2).
    lifetime: Option<HeaderValue>,
    stored_ms: u64,
    last_modified_ms: u64,
    /// The second that `age` is right for.
    second: u64,
    age: HeaderValue,
}

impl Head {
    fn new(version: Option<Version>, meta: &ObjectMeta) -> Self {
        // Members of a cluster get their copies at different times; its age is that of the object.
        let stored_ms =
            if is_object_key(&meta.key) { meta.last_modified_ms } else { meta.stored_ms };
        Self {
            version,
            etag: value(etag::of(meta)),
            last_modified: value(format_date(meta.last_modified_ms)),
            content_type: meta
                .content_type
                .as_deref()
                .map_or(OCTET_STREAM, |kind| value(kind.to_owned())),
            repr_digest: meta.digest.as_ref().map(|bytes| value(digest::format(bytes))),
            length: HeaderValue::from(meta.len),
            lifetime: meta.expires_ms.map(|end_ms| {
                value(format!("max-age={}", end_ms.saturating_sub(stored_ms) / 1000))
            }),
            stored_ms,
            last_modified_ms: meta.last_modified_ms,
            second: u64::MAX,
            age: ZERO,
        }
    }

    /// The headers of an object that is not here.
    pub(crate) fn of_meta(meta: &ObjectMeta) -> Self {
        Self::new(None, meta)
    }

    /// The object as conditional requests see it.
    pub(crate) fn current(&self) -> Current<'_> {
        Current { etag: self.etag.as_bytes(), last_modified_ms: self.last_modified_ms }
    }

    /// What the object is sent as.
    pub(crate) fn content_type(&self) -> &HeaderValue {
        &self.content_type
    }

    /// Adds the headers that 200, 206 and 304 have in common.
    pub(crate) fn validators(&mut self, headers: &mut HeaderMap, now_ms: u64) {
        self.turn_to(now_ms);
        headers.insert(ETAG, self.etag.clone());
        headers.insert(LAST_MODIFIED, self.last_modified.clone());
        headers.insert(AGE, self.age.clone());
        if let Some(lifetime) = &self.lifetime {
            headers.insert(CACHE_CONTROL, lifetime.clone());
        }
    }

    /// Adds the headers that describe the representation.
    pub(crate) fn representation(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.insert(ACCEPT_RANGES, BYTES);
        if let Some(digest) = &self.repr_digest {
            headers.insert(digest::REPR_DIGEST, digest.clone());
        }
    }

    /// Adds the length of the whole representation.
    pub(crate) fn whole_length(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_LENGTH, self.length.clone());
    }

    fn turn_to(&mut self, now_ms: u64) {
        let second = now_ms / 1000;
        if second == self.second {
            return;
        }
        self.second = second;
        self.age = HeaderValue::from(now_ms.saturating_sub(self.stored_ms) / 1000);
    }
}

const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
const ZERO: HeaderValue = HeaderValue::from_static("0");

/// A header value from text; what cannot stand in a header (a stored content type, at worst) becomes the default type.
fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(OCTET_STREAM)
}

fn slot_of(version: Version) -> usize {
    let mut hasher = Mixer(0);
    version.hash(&mut hasher);
    usize::try_from(hasher.finish() >> 32).unwrap_or(0) & (SLOTS - 1)
}

/// Versions are places on disk and counts, chosen by the node: a multiplication spreads them well enough, and there is
/// nobody to attack a table that only forgets.
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
