//! Errors as `application/problem+json` (RFC 9457).
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use straightway_cache::CacheError;

/// The media type of every error answer.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error answer: a status and a sentence that says what to do.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    extra: Option<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    /// An answer with this status and explanation.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), extra: None }
    }

    /// 404: nothing is stored under the key.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "nothing is stored under this key")
    }

    /// 412: a precondition of the request does not hold.
    pub fn precondition() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "a precondition does not hold; look the object up again",
        )
    }

    /// 401, with the challenge that it needs.
    pub fn unauthorized() -> Self {
        let detail = "this method needs the node's bearer token; send Authorization: Bearer TOKEN";
        let challenge = HeaderValue::from_static("Bearer realm=\"straightway\"");
        Self::new(StatusCode::UNAUTHORIZED, detail).with(WWW_AUTHENTICATE, challenge)
    }

    /// 405, with the methods that would do.
    pub fn method(allow: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("this resource answers {allow}"))
            .with(ALLOW, HeaderValue::from_static(allow))
    }

    /// 503 for a state that passes by itself.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
            .with(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// What a cache error means to a client.
    pub fn from_cache(error: &CacheError) -> Self {
        let status = match error {
            CacheError::InvalidKey { .. }
            | CacheError::MetadataTooLong { .. }
            | CacheError::LengthMismatch { .. }
            | CacheError::Body { .. } => StatusCode::BAD_REQUEST,
            CacheError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            CacheError::PreconditionFailed { .. } => return Self::precondition(),
            CacheError::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            CacheError::NoSpace { .. } | CacheError::DiskFull { .. } => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            CacheError::TooManyPurges { .. } | CacheError::Closed | CacheError::Buffer(_) => {
                return Self::busy(error.to_string());
            }
            // The rest is about files and devices; their names are for the log, not for clients.
            _ => {
                return Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the cache failed; the node's log says why",
                );
            }
        };
        Self::new(status, error.to_string())
    }

    /// Adds one header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.extra = Some((name, value));
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer itself.
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let document = Document {
            r#type: "about:blank",
            title,
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(B::from(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        // An error is about this moment; no cache in between may keep it.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = self.extra {
            headers.insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_errors_explain_themselves_and_server_errors_hide_paths() {
        let too_large = Problem::from_cache(&CacheError::TooLarge { len: 9, limit: 4 });
        assert_eq!(too_large.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(too_large.detail.contains('9') && too_large.detail.contains('4'));
        let io = CacheError::Io {
            what: "reading",
            path: "/secret".into(),
            source: std::io::ErrorKind::Other.into(),
        };
        let hidden = Problem::from_cache(&io);
        assert_eq!(hidden.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!hidden.detail.contains("secret"));
        assert_eq!(
            Problem::from_cache(&CacheError::NoSpace { len: 1 }).status(),
            StatusCode::INSUFFICIENT_STORAGE
        );
    }

    #[test]
    fn the_document_names_status_and_title() {
        let response: Response<Bytes> = Problem::method("GET, HEAD").into_response();
        assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        let json: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(json["status"], 405);
        assert_eq!(json["title"], "Method Not Allowed");
    }
}
