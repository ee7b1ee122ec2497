//! What the headers of an upgrade say (RFC 6455 §4, RFC 7692 §5). Pure: strings in, decisions out.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use thiserror::Error;

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why an upgrade is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The key is not the base64 of 16 bytes.
    #[error("Sec-WebSocket-Key is not the base64 form of 16 bytes")]
    Key,
}

/// Checks a `Sec-WebSocket-Key`.
pub fn check_key(key: &str) -> Result<(), HandshakeError> {
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => Ok(()),
        _ => Err(HandshakeError::Key),
    }
}

/// The `Sec-WebSocket-Accept` that answers a key.
///
/// ```
/// let accept = straightway_codec::ws::accept_key("dGhlIHNhbXBsZSBub25jZQ==");
/// assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); // RFC 6455 §1.3
/// ```
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{GUID}")))
}

/// The items of a comma-separated header.
pub fn tokens(value: &str) -> impl Iterator<Item = &str> + Clone {
    value.split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Whether a `Sec-WebSocket-Extensions` header offers permessage-deflate in a form that is taken here. The answer is then
/// [`DEFLATE_ANSWER`].
///
/// An offer that limits our window is declined: the compressor has one size.
pub fn offers_deflate(value: &str) -> bool {
    tokens(value).any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        parts.next() == Some("permessage-deflate") && acceptable(parts)
    })
}

/// The extension as it is agreed on.
pub const DEFLATE_ANSWER: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

fn acceptable<'a>(parameters: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = Vec::new();
    for parameter in parameters {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (parameter, None),
        };
        if seen.contains(&name) {
            return false;
        }
        seen.push(name);
        let bits = |value: &str| {
            let plain = !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
            value.parse::<u8>().ok().filter(|bits| plain && (8..=15).contains(bits))
        };
        let good = match (name, value) {
            (
                "server_no_context_takeover"
                | "client_no_context_takeover"
                | "client_max_window_bits",
                None,
            ) => true,
            ("client_max_window_bits", Some(value)) => bits(value).is_some(),
            ("server_max_window_bits", Some(value)) => bits(value) == Some(15),
            _ => false,
        };
        if !good {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sixteen_bytes() {
        assert_eq!(check_key("dGhlIHNhbXBsZSBub25jZQ=="), Ok(()));
        for bad in ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25j", "!!!"] {
            assert_eq!(check_key(bad), Err(HandshakeError::Key), "{bad}");
        }
    }

    #[test]
    fn offers_of_deflate_are_taken_or_declined_one_by_one() {
        for good in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "x, permessage-deflate; server_max_window_bits=10, permessage-deflate",
            "permessage-deflate; client_max_window_bits=\"9\"; server_no_context_takeover",
        ] {
            assert!(offers_deflate(good), "{good}");
        }
        for bad in [
            "",
            "permessage-deflated",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=016",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; what",
            "permessage-deflate; server_no_context_takeover=1",
        ] {
            assert!(!offers_deflate(bad), "{bad}");
        }
    }
}
