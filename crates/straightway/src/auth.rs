//! The bearer token that changing methods must show (RFC 6750).
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

/// A token to compare with: only its digest is kept.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    digest: [u8; 32],
}

impl Token {
    /// Remembers a token.
    pub(crate) fn new(secret: &str) -> Self {
        Self { digest: digest(secret.as_bytes()) }
    }

    /// Whether the request shows the token.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, shown)) = value.as_bytes().split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && self.is(shown.trim_ascii())
    }

    /// Whether this is the token.
    ///
    /// The digests are compared as a whole, so that the time it takes says nothing about where they differ.
    pub(crate) fn is(&self, shown: &[u8]) -> bool {
        let differing = digest(shown)
            .iter()
            .zip(&self.digest)
            .fold(0, |differing, (shown, own)| differing | (shown ^ own));
        std::hint::black_box(differing) == 0
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_the_whole_token_under_the_right_scheme_is_admitted() {
        let token = Token::new("s3cret");
        let admits = |value: &'static str| {
            token.admits(&HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]))
        };
        assert!(admits("Bearer s3cret") && admits("bearer  s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer", ""] {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(!token.admits(&HeaderMap::new()));
        let mut headers = HeaderMap::new();
        for _ in 0..2 {
            headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer s3cret"));
        }
        assert!(!token.admits(&headers), "two headers are ambiguous");
    }
}
