//! Digest fields (RFC 9530): `Repr-Digest` on what goes out, `Repr-Digest` and `Content-Digest` checked on what comes in.
//!
//! No content coding is applied or stored, so that the content of a PUT and the representation are the same bytes and
//! both fields say the same thing.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use thiserror::Error;

/// The header's name; `http` has no constant for it.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The header's name; `http` has no constant for it.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// A digest header that names SHA-256 and holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the sha-256 digest is not 32 bytes in base64 between colons; send sha-256=:...:")]
pub struct MalformedDigest;

/// The field value for a body with this SHA-256.
pub fn format(digest: &[u8; 32]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(digest))
}

/// The SHA-256 that a request announces for its body. Other algorithms are ignored, as RFC 9530 §2 and §3 allow.
pub fn announced(headers: &HeaderMap) -> Result<Vec<[u8; 32]>, MalformedDigest> {
    let mut found = Vec::new();
    for value in headers.get_all(REPR_DIGEST).iter().chain(headers.get_all(CONTENT_DIGEST)) {
        for member in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if let Some(encoded) = member.strip_prefix(b"sha-256=") {
                found.push(decode(encoded)?);
            }
        }
    }
    Ok(found)
}

fn decode(encoded: &[u8]) -> Result<[u8; 32], MalformedDigest> {
    let inside = encoded
        .strip_prefix(b":")
        .and_then(|rest| rest.strip_suffix(b":"))
        .ok_or(MalformedDigest)?;
    let bytes = STANDARD.decode(inside).map_err(|_| MalformedDigest)?;
    bytes.try_into().map_err(|_| MalformedDigest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    // The SHA-256 of nothing, in base64: a value that can be looked up anywhere.
    const EMPTY: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

    fn headers(values: &[(&HeaderName, &'static str)]) -> HeaderMap {
        values
            .iter()
            .map(|(name, value)| ((*name).clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_formatted_is_understood() {
        let digest = announced(&headers(&[(&REPR_DIGEST, EMPTY)])).unwrap();
        assert_eq!(digest.iter().map(format).collect::<Vec<_>>(), [EMPTY]);
    }

    #[test]
    fn other_algorithms_are_skipped_and_both_fields_count() {
        let both =
            headers(&[(&CONTENT_DIGEST, "sha-512=:AA==:, unixsum=30637"), (&REPR_DIGEST, EMPTY)]);
        assert_eq!(announced(&both).unwrap().len(), 1);
        assert_eq!(announced(&HeaderMap::new()).unwrap().len(), 0);
    }

    #[test]
    fn a_malformed_sha_256_is_refused() {
        for bad in ["sha-256=47DE", "sha-256=:AA==:", "sha-256=:!:", "sha-256=:", "sha-256="] {
            assert_eq!(announced(&headers(&[(&REPR_DIGEST, bad)])), Err(MalformedDigest), "{bad}");
        }
    }
}
