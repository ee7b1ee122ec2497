//! PUT: a body of any length, streamed into the cache and hashed on the way.
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use straightway_cache::{CacheError, Expect, ObjectWriter, StoreOptions};
use straightway_cluster::{Cluster, ObjectInfo};

use super::body::Body;
use super::conditional::{self, Action, Current, Outcome};
use super::exchange::{Exchange, Phase};
use super::problem::Problem;
use super::{bad_key, digest, etag, key, require_token};
use crate::counters::bump;
use crate::feed::now_ms;
use crate::member;

/// Tags of the object, comma-separated.
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// Answers PUT.
pub(crate) async fn answer(
    exchange: &Arc<Exchange>,
    parts: Parts,
    body: Incoming,
) -> Result<Response<Body>, Problem> {
    let mut upload = Upload { ended: body.is_end_stream(), body };
    let result = store(exchange, &parts, &mut upload).await;
    if upload.ended {
        return result;
    }
    // Part of the body is unread: what follows on this connection would be taken for a request. The client hears the
    // answer only if its bytes are still taken in for a while (RFC 9112 §9.6).
    exchange.linger();
    let mut response = result.unwrap_or_else(Problem::into_response);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

/// The body of the request, and whether all of it has been read.
struct Upload {
    body: Incoming,
    ended: bool,
}

async fn store(
    exchange: &Arc<Exchange>,
    parts: &Parts,
    upload: &mut Upload,
) -> Result<Response<Body>, Problem> {
    let headers = &parts.headers;
    require_token(exchange.node(), headers)?;
    let key = key::from_target(parts.uri.path(), parts.uri.query()).map_err(bad_key)?;
    refuse_partial(headers)?;
    let announced = digest::announced(headers).map_err(|error| bad_request(error.to_string()))?;
    let len = upload.body.size_hint().exact();
    let described = Described {
        content_type: content_type(headers)?,
        ttl: lifetime(headers)?,
        tags: tags(headers)?,
    };
    if let Some(cluster) = exchange.node().cluster() {
        let put = ClusterPut { cluster, key: &key, headers, announced: &announced };
        return put.store(exchange, described, len, upload).await;
    }
    let options = StoreOptions {
        content_type: described.content_type,
        ttl: described.ttl,
        tags: described.tags,
        expect: expectation(exchange, headers, &key).await?,
        last_modified_ms: None,
    };
    let guarded = headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE);
    let cache_error = |error: CacheError| Problem::from_cache(&error);
    let mut writer = exchange.node().cache.writer(&key, len, options).await.map_err(cache_error)?;
    let digest = take_in(exchange, upload, &mut writer).await?;
    check_digest(&announced, &digest)?;
    match writer.finish(Some(digest)).await {
        Ok(stored) => Ok(created(stored.replaced, &digest)),
        Err(CacheError::PreconditionFailed { .. }) if guarded => {
            Err(judge_again(exchange, headers, &key).await)
        }
        Err(error) => Err(cache_error(error)),
    }
}

/// Streams the body into the writer; its SHA-256 is the result.
async fn take_in(
    exchange: &Arc<Exchange>,
    upload: &mut Upload,
    writer: &mut ObjectWriter,
) -> Result<[u8; 32], Problem> {
    let mut hasher = Sha256::new();
    loop {
        exchange.enter(Phase::Receiving);
        let frame = upload.body.frame().await;
        exchange.enter(Phase::Handling);
        let Some(frame) = frame else {
            upload.ended = true;
            return Ok(hasher.finalize().into());
        };
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, received = writer.written(), "a body broke off");
            bad_request(format!(
                "the body broke off after {} bytes; nothing was stored",
                writer.written()
            ))
        })?;
        // Trailers say nothing that is stored.
        let Ok(chunk) = frame.into_data() else { continue };
        bump(&exchange.counters().received_bytes, chunk.len() as u64);
        hasher.update(&chunk);
        writer.write(&chunk).await.map_err(|error| Problem::from_cache(&error))?;
    }
}

fn check_digest(announced: &[[u8; 32]], digest: &[u8; 32]) -> Result<(), Problem> {
    if announced.iter().any(|expected| expected != digest) {
        return Err(bad_request("the body does not have the announced digest; nothing was stored"));
    }
    Ok(())
}

/// What a request says of its body.
struct Described {
    content_type: Option<String>,
    ttl: Option<Duration>,
    tags: Vec<String>,
}

/// A PUT to a member of a cluster: stored here under the object's own name, then on a majority, then announced.
struct ClusterPut<'a> {
    cluster: &'a Cluster,
    key: &'a str,
    headers: &'a HeaderMap,
    announced: &'a [[u8; 32]],
}

impl ClusterPut<'_> {
    async fn store(
        self,
        exchange: &Arc<Exchange>,
        described: Described,
        len: Option<u64>,
        upload: &mut Upload,
    ) -> Result<Response<Body>, Problem> {
        let Self { cluster, key, headers, announced } = self;
        let condition = member::condition(cluster, headers, key, is_conditional(headers)).await?;
        let now_ms = now_ms();
        let ttl = described.ttl.or_else(|| exchange.node().default_ttl());
        let lifetime_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let mut info = ObjectInfo {
            key: key.to_owned(),
            len,
            digest: None,
            content_type: described.content_type.unwrap_or_default(),
            content_encoding: String::new(),
            tags: described.tags,
            expires_ms: lifetime_ms
                .map_or(0, |lifetime_ms| now_ms.saturating_add(lifetime_ms).max(1)),
            last_modified_ms: now_ms,
        };
        cluster.check(&info).map_err(|error| bad_request(error.to_string()))?;
        let object = cluster.new_object();
        let options = member::options(&info, now_ms);
        let cache = &exchange.node().cache;
        let cache_error = |error: CacheError| Problem::from_cache(&error);
        let name = member::object_key(object.id());
        let mut writer = cache.writer(&name, len, options).await.map_err(cache_error)?;
        let digest = take_in(exchange, upload, &mut writer).await?;
        check_digest(announced, &digest)?;
        let stored = writer.finish(Some(digest)).await.map_err(cache_error)?;
        info.len = Some(stored.len);
        info.digest = Some(digest);
        let replaced = member::put(cluster, object.id(), info, condition).await?;
        Ok(created(replaced, &digest))
    }
}

fn is_conditional(headers: &HeaderMap) -> bool {
    [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE].iter().any(|name| headers.contains_key(name))
}

fn created(replaced: bool, digest: &[u8; 32]) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = if replaced { StatusCode::NO_CONTENT } else { StatusCode::CREATED };
    if let Ok(tag) = HeaderValue::try_from(etag::of_digest(digest)) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// The conditions of the request, as the cache can check them at the moment of storing; refused here when they do not
/// hold already, before the body is read.
async fn expectation(
    exchange: &Arc<Exchange>,
    headers: &HeaderMap,
    key: &str,
) -> Result<Expect, Problem> {
    if !is_conditional(headers) {
        return Ok(Expect::Any);
    }
    let object =
        exchange.node().cache.open(key).await.map_err(|error| Problem::from_cache(&error))?;
    let tag = object.as_ref().map(|object| etag::of(object.meta()));
    let current = object.as_ref().zip(tag.as_ref()).map(|(object, tag)| Current {
        etag: tag.as_bytes(),
        last_modified_ms: object.meta().last_modified_ms,
    });
    match conditional::evaluate(Action::Change, headers, current) {
        Outcome::Proceed => {
            Ok(object.map_or(Expect::Absent, |object| Expect::Version(object.version())))
        }
        Outcome::NotModified | Outcome::Failed => Err(Problem::precondition()),
    }
}

/// The object is not the incarnation that the conditions were checked on. Either it changed, and they fail; or the
/// cache moved it on disk while the body came in, and the client's request was right and may simply be sent again.
async fn judge_again(exchange: &Arc<Exchange>, headers: &HeaderMap, key: &str) -> Problem {
    match expectation(exchange, headers, key).await {
        Ok(_) => Problem::busy(
            "the object was moved while the body came in; nothing was stored, send it again",
        ),
        Err(problem) => problem,
    }
}

/// A part of an object, or an encoded form of it, is not what the key stands for (RFC 9110 §14.5, §8.4).
fn refuse_partial(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(CONTENT_RANGE) {
        return Err(bad_request("Content-Range has no meaning here; send the whole object"));
    }
    match headers.get(CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let detail = "content codings are not kept; send the object as it is to be served";
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
        }
        _ => Ok(()),
    }
}

fn content_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let text = value.to_str().map_err(|_| bad_request("Content-Type is not ASCII"))?;
    Ok(Some(text.to_owned()))
}

/// The lifetime that `Cache-Control` sets: `s-maxage` before `max-age`, as for any shared cache (RFC 9111 §5.2.2.10).
/// `no-store` contradicts the request and is refused.
fn lifetime(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let (mut shared, mut general) = (None, None);
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let (name, argument) = match directive.iter().position(|byte| *byte == b'=') {
                Some(at) => (&directive[..at], &directive[at + 1..]),
                None => (directive, &[][..]),
            };
            if name.eq_ignore_ascii_case(b"no-store") {
                return Err(bad_request(
                    "Cache-Control: no-store asks not to store what PUT asks to store",
                ));
            } else if name.eq_ignore_ascii_case(b"s-maxage") {
                shared = Some(delta_seconds(argument)?);
            } else if name.eq_ignore_ascii_case(b"max-age") {
                general = Some(delta_seconds(argument)?);
            }
        }
    }
    Ok(shared.or(general))
}

/// Seconds, with or without quotes; more than 2^31 counts as 2^31 (RFC 9111 §1.2.2).
fn delta_seconds(argument: &[u8]) -> Result<Duration, Problem> {
    let digits =
        argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(bad_request("max-age is not a number of seconds"));
    }
    let seconds = digits
        .iter()
        .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Ok(Duration::from_secs(seconds.min(1 << 31)))
}

fn tags(headers: &HeaderMap) -> Result<Vec<String>, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all(CACHE_TAG) {
        let text = value.to_str().map_err(|_| bad_request("Cache-Tag is not ASCII"))?;
        tags.extend(
            text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned),
        );
    }
    Ok(tags)
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache_control(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(value))])
    }

    #[test]
    fn lifetimes_come_from_the_most_specific_directive() {
        let seconds =
            |value| lifetime(&cache_control(value)).ok().flatten().map(|ttl| ttl.as_secs());
        assert_eq!(seconds("max-age=60"), Some(60));
        assert_eq!(seconds("public, Max-Age=\"60\", S-MaxAge=5"), Some(5));
        assert_eq!(seconds("max-age=99999999999999999999999"), Some(1 << 31));
        assert_eq!(seconds("max-age=0"), Some(0));
        assert_eq!(seconds("no-cache"), None);
        assert!(lifetime(&HeaderMap::new()).is_ok_and(|ttl| ttl.is_none()));
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for bad in ["no-store", "max-age=60, no-store", "max-age=", "max-age=-1", "max-age=1s"] {
            assert!(lifetime(&cache_control(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_trimmed_and_collected_from_all_lines() {
        let mut headers = HeaderMap::new();
        headers.append(CACHE_TAG, HeaderValue::from_static(" a , b,"));
        headers.append(CACHE_TAG, HeaderValue::from_static("c"));
        assert_eq!(tags(&headers).unwrap_or_default(), ["a", "b", "c"]);
    }
}
