//! What the catalogue knows of one object.
use std::sync::Arc;

use rkyv::{Archive, Serialize};

use super::archive::{ArchivedObjectId, ObjectIdDef, Text};
use crate::ids::{ObjectId, RaftId};
use crate::store::ObjectInfo;

/// What is under a key. Shared by reference; a change makes another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The object that holds the bytes.
    pub object: ObjectId,
    /// Body length in bytes.
    pub len: u64,
    /// SHA-256 of the body.
    pub digest: [u8; 32],
    /// MIME type.
    pub content_type: Arc<str>,
    /// Content coding, empty if none.
    pub content_encoding: Arc<str>,
    /// Tags.
    pub tags: Arc<[Arc<str>]>,
    /// When it stops being served, in milliseconds since the Unix epoch; 0: never.
    pub expires_ms: u64,
    /// When it was last changed, in milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
    /// The members that hold the bytes, in the order of their numbers; at least one.
    pub holders: Arc<[RaftId]>,
    /// How many holders its put asked for.
    pub copies: u8,
    /// How many of them there need not be any more, because as many had no room for it: no copy is made because of that.
    pub evicted: u8,
    /// The index of the command that put it there.
    pub index: u64,
}

impl Entry {
    /// How many holders there should be.
    pub fn due(&self) -> usize {
        usize::from(self.copies.saturating_sub(self.evicted))
    }

    /// Copies that there should be and are not: they have not been made yet, went with a member that was removed, or are damaged.
    pub fn missing(&self) -> usize {
        self.due().saturating_sub(self.holders.len())
    }

    /// Whether it may be served at that time.
    pub fn live(&self, now_ms: u64) -> bool {
        self.expires_ms == 0 || self.expires_ms > now_ms
    }
}

impl From<&Entry> for ObjectInfo {
    fn from(entry: &Entry) -> Self {
        Self {
            key: entry.key.to_string(),
            len: Some(entry.len),
            digest: Some(entry.digest),
            content_type: entry.content_type.to_string(),
            content_encoding: entry.content_encoding.to_string(),
            tags: entry.tags.iter().map(ToString::to_string).collect(),
            expires_ms: entry.expires_ms,
            last_modified_ms: entry.last_modified_ms,
        }
    }
}

/// An [`Entry`] on the disk. The key is the row's key.
#[derive(Debug, Archive, Serialize)]
pub(super) struct EntryRecord<'a> {
    #[rkyv(with = ObjectIdDef)]
    object: ObjectId,
    len: u64,
    digest: [u8; 32],
    content_type: Text<'a>,
    content_encoding: Text<'a>,
    tags: Vec<Text<'a>>,
    expires_ms: u64,
    last_modified_ms: u64,
    holders: Vec<RaftId>,
    copies: u8,
    evicted: u8,
    index: u64,
}

impl<'a> From<&'a Entry> for EntryRecord<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            object: entry.object,
            len: entry.len,
            digest: entry.digest,
            content_type: Text(&entry.content_type),
            content_encoding: Text(&entry.content_encoding),
            tags: entry.tags.iter().map(|tag| Text(tag)).collect(),
            expires_ms: entry.expires_ms,
            last_modified_ms: entry.last_modified_ms,
            holders: entry.holders.to_vec(),
            copies: entry.copies,
            evicted: entry.evicted,
            index: entry.index,
        }
    }
}

impl ArchivedEntryRecord<'_> {
    /// The entry. `share` gives text that many entries have in common.
    pub(super) fn entry(&self, key: Arc<str>, mut share: impl FnMut(&str) -> Arc<str>) -> Entry {
        Entry {
            key,
            object: ArchivedObjectId::get(&self.object),
            len: self.len.to_native(),
            digest: self.digest,
            content_type: share(&self.content_type),
            content_encoding: share(&self.content_encoding),
            tags: self.tags.iter().map(|tag| share(tag)).collect(),
            expires_ms: self.expires_ms.to_native(),
            last_modified_ms: self.last_modified_ms.to_native(),
            holders: self.holders.iter().map(|holder| holder.to_native()).collect(),
            copies: self.copies,
            evicted: self.evicted,
            index: self.index.to_native(),
        }
    }
}
