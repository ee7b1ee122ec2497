//! From a request's target to an object's key.
//!
//! The key is the path after its first slash, percent-decoded. A query belongs to the key as it stands: `?query` is
//! appended without decoding. `/a%3Fb` and `/a?b` therefore name the same object; nothing else is normalised.
use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use thiserror::Error;

use crate::member::is_object_key;

/// Longest key in bytes, after decoding.
pub const MAX_KEY_BYTES: usize = 2048;

/// Why a path names no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Nothing follows the slash.
    #[error("the path holds no key; put one after the slash")]
    Empty,
    /// The key is over [`MAX_KEY_BYTES`].
    #[error("the key has {len} bytes, over the limit of {MAX_KEY_BYTES}; use a shorter one")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The key holds a zero byte.
    #[error("the key holds a NUL byte; leave it out")]
    Nul,
    /// The key begins with U+0001, as a member of a cluster names objects in its cache.
    #[error("the key begins with U+0001, which is reserved; leave it out")]
    Reserved,
    /// A `%` is not followed by two hex digits.
    #[error("the path holds a '%' without two hex digits; write %25 for a percent sign")]
    Escape,
    /// The decoded bytes are not UTF-8.
    #[error("the decoded key is not UTF-8; percent-encode the UTF-8 form of the key")]
    NotUtf8,
}

/// The key that a request's path and query name. Borrows where nothing had to be decoded.
///
/// ```
/// use straightway::http::key::{from_target, KeyError};
/// assert_eq!(from_target("/a%20b", None).as_deref(), Ok("a b"));
/// assert_eq!(from_target("/a", Some("v=%201")).as_deref(), Ok("a?v=%201"));
/// assert_eq!(from_target("/", None), Err(KeyError::Empty));
/// ```
pub fn from_target<'a>(path: &'a str, query: Option<&str>) -> Result<Cow<'a, str>, KeyError> {
    let encoded = path.strip_prefix('/').unwrap_or(path);
    let mut key =
        if encoded.as_bytes().contains(&b'%') { decode(encoded)? } else { Cow::Borrowed(encoded) };
    if let Some(query) = query {
        let key = key.to_mut();
        key.push('?');
        key.push_str(query);
    }
    match key.len() {
        0 => Err(KeyError::Empty),
        len if len > MAX_KEY_BYTES => Err(KeyError::TooLong { len }),
        _ if key.as_bytes().contains(&0) => Err(KeyError::Nul),
        _ if is_object_key(&key) => Err(KeyError::Reserved),
        _ => Ok(key),
    }
}

fn decode(encoded: &str) -> Result<Cow<'_, str>, KeyError> {
    let bytes = encoded.as_bytes();
    let whole = |at: usize| {
        bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if !bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| whole(at)) {
        return Err(KeyError::Escape);
    }
    percent_decode_str(encoded).decode_utf8().map_err(|_| KeyError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_keys_are_told_apart() {
        assert_eq!(from_target("/%00", None), Err(KeyError::Nul));
        assert_eq!(from_target("/%010a", None), Err(KeyError::Reserved));
        assert_eq!(from_target("/%", None), Err(KeyError::Escape));
        assert_eq!(from_target("/%2", None), Err(KeyError::Escape));
        assert_eq!(from_target("/%+1", None), Err(KeyError::Escape));
        assert_eq!(from_target("/%ff", None), Err(KeyError::NotUtf8));
        let long = format!("/{}", "k".repeat(MAX_KEY_BYTES + 1));
        assert_eq!(from_target(&long, None), Err(KeyError::TooLong { len: MAX_KEY_BYTES + 1 }));
        assert!(from_target(&long[..=MAX_KEY_BYTES], None).is_ok());
    }

    #[test]
    fn slashes_dots_and_queries_stay_as_they_are() {
        assert_eq!(from_target("//a/../b/", None).as_deref(), Ok("/a/../b/"));
        assert_eq!(from_target("/a%3Fb", None), from_target("/a", Some("b")));
        assert_eq!(from_target("/", Some("q")).as_deref(), Ok("?q"));
        assert_eq!(from_target("/%E2%82%AC", None).as_deref(), Ok("€"));
    }

    #[test]
    fn a_plain_path_is_not_copied() {
        assert!(matches!(from_target("/plain/key", None), Ok(Cow::Borrowed("plain/key"))));
    }
}
