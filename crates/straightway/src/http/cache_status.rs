//! The `Cache-Status` response header (RFC 9211).
use http::{HeaderName, HeaderValue};

/// The header's name; `http` has no constant for it.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The object was served from the cache.
pub const HIT: HeaderValue = HeaderValue::from_static("straightway; hit");

/// There was no such object.
pub const MISS: HeaderValue = HeaderValue::from_static("straightway; fwd=miss");

/// The object was served from the cache of another member of the cluster.
pub const MEMBER_HIT: HeaderValue = HeaderValue::from_static("straightway; hit; detail=member");
