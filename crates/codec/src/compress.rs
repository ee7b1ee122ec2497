//! Compression that can be shared by all readers: zstd against a dictionary that both sides have.
//!
//! A single event is too short for a compressor to learn anything from: deflate without context takes 424 B of JSON to 403,
//! a dictionary trained on events takes an archive to two fifths, and the result is the same for every subscriber.
use std::sync::LazyLock;

use parking_lot::Mutex;
use straightway_buffer::PooledBuffer;
use zstd::bulk::{Compressor, Decompressor};

use crate::error::CodecError;

/// The dictionary that is bundled, trained by `cargo run -p straightway-codec --example train_dictionary`.
pub static EVENTS: LazyLock<Dictionary> =
    LazyLock::new(|| Dictionary::new(1, include_bytes!("../dictionary/events-1.zdict")));

const LEVEL: i32 = 1;

/// The length of the plain form, if the compressed one tells: a claim, which [`Dictionary::decompress`] holds it to.
pub fn plain_len(packed: &[u8]) -> Option<usize> {
    let len = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten()?;
    usize::try_from(len).ok()
}

/// A dictionary, ready for use. Compressing is serialised: it happens once an event.
pub struct Dictionary {
    number: u32,
    compressor: Mutex<Option<Compressor<'static>>>,
    decompressor: Mutex<Option<Decompressor<'static>>>,
}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dictionary").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Dictionary {
    /// A dictionary from its bytes. One that zstd does not take compresses nothing, and every use says so.
    pub fn new(number: u32, bytes: &[u8]) -> Self {
        let compressor = Compressor::with_dictionary(LEVEL, bytes).ok();
        let decompressor = Decompressor::with_dictionary(bytes).ok();
        Self { number, compressor: Mutex::new(compressor), decompressor: Mutex::new(decompressor) }
    }

    /// Its number, which the sides compare.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Appends the compressed form; `None`: it would not be smaller, and nothing was appended.
    pub fn compress(
        &self,
        plain: &[u8],
        into: &mut PooledBuffer,
    ) -> Result<Option<usize>, CodecError> {
        let failed = || CodecError::Compression { what: "message", act: "compressed" };
        let start = into.len();
        let mut compressor = self.compressor.lock();
        let compressor = compressor.as_mut().ok_or_else(failed)?;
        // What does not fit into less than the plain length is no gain.
        let end = (start + plain.len().saturating_sub(1)).min(into.capacity());
        let room = &mut into.as_mut_capacity()[start..end];
        match compressor.compress_to_buffer(plain, room) {
            Ok(len) => {
                into.set_len(start + len)?;
                Ok(Some(len))
            }
            Err(_) => Ok(None),
        }
    }

    /// Appends the plain form, which may take at most what is free in the buffer.
    pub fn decompress(&self, packed: &[u8], into: &mut PooledBuffer) -> Result<usize, CodecError> {
        let failed = || CodecError::Compression { what: "message", act: "decompressed" };
        let start = into.len();
        let mut decompressor = self.decompressor.lock();
        let decompressor = decompressor.as_mut().ok_or_else(failed)?;
        let room = &mut into.as_mut_capacity()[start..];
        let len = decompressor.decompress_to_buffer(packed, room).map_err(|_| failed())?;
        into.set_len(start + len)?;
        Ok(len)
    }
}
