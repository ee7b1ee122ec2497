//! The page at `/`, and what it is made of: built in, and complete without the network.
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response};

use super::api::{Answer, full};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Nothing from elsewhere, nothing inline, not inside other pages.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Path, media type, content.
const FILES: [(&str, &str, &str); 5] = [
    ("/", HTML, include_str!("dashboard/index.html")),
    ("/dashboard.js", SCRIPT, include_str!("dashboard/dashboard.js")),
    ("/dashboard.css", STYLE, include_str!("dashboard/dashboard.css")),
    ("/members.js", SCRIPT, include_str!("dashboard/members.js")),
    ("/feed.js", SCRIPT, include_str!("dashboard/feed.js")),
];

/// The file at a path, if it is one of the page's.
pub(super) fn file(path: &str) -> Option<Response<Answer>> {
    let (_, content_type, text) = FILES.into_iter().find(|(known, ..)| *known == path)?;
    let mut response = Response::new(full(Bytes::from_static(text.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The next version of the program has another page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Some(response)
}
