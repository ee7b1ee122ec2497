//! One HTTP/1.1 request to a node.
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::config::settings::Secret;

/// Why a request to a node failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL is not usable.
    #[error("{url:?} is no URL of a node: {reason}; write one such as http://127.0.0.1:8080")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The node cannot be reached.
    #[error("no node answers at {authority}; is it running?")]
    Connect {
        /// Host and port.
        authority: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Certificates that cannot be used or trusted.
    #[error(
        "TLS with {authority} cannot be set up; give the certificate that signed the node's with --ca-file"
    )]
    Tls {
        /// Host and port.
        authority: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection to {authority} broke")]
    Broken {
        /// Host and port.
        authority: String,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// Nothing was heard for too long.
    #[error("{authority} has not {what} for {seconds} s; is the node, or the network, stuck?")]
    Silent {
        /// Host and port.
        authority: String,
        /// What it was to do.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A value that no HTTP header can hold.
    #[error("the {what} holds a line break or another control character; take it out")]
    Header {
        /// Which value.
        what: &'static str,
    },
    /// The node answered, but not with what was asked for.
    #[error("{method} {key:?}: {status}: {detail}")]
    Refused {
        /// The method.
        method: Method,
        /// The key.
        key: String,
        /// The node's answer.
        status: StatusCode,
        /// The node's words.
        detail: String,
    },
    /// The body is not what its digest says.
    #[error("{key:?}: {what}; fetch or store it again")]
    Digest {
        /// The key.
        key: String,
        /// What differs.
        what: &'static str,
    },
    /// A local file failed.
    #[error("{act} {} failed", path.display())]
    File {
        /// What was done.
        act: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The node is there, but does not make a WebSocket of the connection.
    #[error("{authority} does not open its feed: {reason}; is it the admin listener of a node?")]
    Upgrade {
        /// Host and port.
        authority: String,
        /// What went wrong.
        reason: String,
    },
    /// The node does not take what [`FeedClient::subscribe`](super::FeedClient::subscribe) asked for.
    #[error("the node does not take the subscription: {reason}; ask for something else")]
    Subscription {
        /// The node's words.
        reason: String,
    },
    /// A message of the feed cannot be read.
    #[error("the feed cannot be read")]
    Codec(#[source] straightway_codec::CodecError),
    /// The node's answer makes no sense.
    #[error("the node's answer is not understood: {reason}; is it a Straightway node?")]
    Answer {
        /// What is missing.
        reason: &'static str,
    },
}

/// A request body.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An answer, whose body may still be on its way.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    authority: String,
}

/// How long connecting may take, encryption included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the node may be silent while it is to answer.
pub(super) const SILENCE: Duration = Duration::from_mins(1);

/// Waits for something that the node is to do, but not for ever.
pub(super) async fn heard<T>(
    authority: &str,
    what: &'static str,
    at_most: Duration,
    act: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(at_most, act).await.unwrap_or_else(|_| {
        let authority = authority.to_owned();
        Err(ClientError::Silent { authority, what, seconds: at_most.as_secs() })
    })
}

impl Reply {
    /// The next piece of the body; waited for a minute at the most.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, ClientError>> {
        loop {
            let Self { body, authority, .. } = self;
            let frame = heard(authority, "sent more of its answer", SILENCE, async {
                let frame = body.frame().await.transpose();
                frame.map_err(|source| ClientError::Broken { authority: authority.clone(), source })
            });
            match frame.await.transpose()? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The whole body, if it is not larger than `limit` bytes.
    pub async fn text(mut self, limit: usize) -> String {
        let mut bytes = Vec::new();
        while let Some(Ok(chunk)) = self.chunk().await {
            let room = limit - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if bytes.len() == limit {
                break;
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A header as text.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A node's address and what it takes to talk to it. Each request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    base: Uri,
    token: Option<Secret>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// What stays as it is in a path: RFC 3986's unreserved characters and the slash.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Client {
    /// A client for the node at `url`; `ca_file` holds the certificates to trust for `https`.
    pub fn new(
        url: &str,
        token: Option<Secret>,
        ca_file: Option<&std::path::Path>,
    ) -> Result<Self, ClientError> {
        let refuse = |reason: String| ClientError::Url { url: url.to_owned(), reason };
        let base: Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| refuse(error.to_string()))?;
        let tls = match base.scheme_str() {
            Some("http") => None,
            Some("https") => Some(Arc::new(trust(ca_file).map_err(&refuse)?)),
            _ => return Err(refuse("it must begin with http:// or https://".to_owned())),
        };
        let Some(authority) = base.authority() else {
            return Err(refuse("it has no host".to_owned()));
        };
        // Neither would reach the node as it was meant.
        if authority.as_str().contains('@') {
            return Err(refuse("it names a user; give the token with --token-file".to_owned()));
        }
        if base.path() != "/" || base.query().is_some() {
            return Err(refuse("it has a path; leave that out".to_owned()));
        }
        Ok(Self { base, token, tls })
    }

    /// The path under which a key is stored.
    pub fn key_path(key: &str) -> String {
        format!("/{}", utf8_percent_encode(key, PATH))
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Body>,
    ) -> Result<Reply, ClientError> {
        let (io, authority) = self.open().await?;
        let broken = |source| ClientError::Broken { authority: authority.clone(), source };
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .writev(true)
            .handshake(TokioIo::new(io))
            .await
            .map_err(broken)?;
        tokio::spawn(async move {
            // What breaks the connection also breaks the answer's body, which reports it.
            drop(connection.await);
        });
        let has_body = body.is_some();
        let body =
            body.unwrap_or_else(|| Full::default().map_err(|never| match never {}).boxed_unsync());
        let mut request =
            Request::builder().method(method).uri(path).body(body).map_err(|error| {
                ClientError::Url { url: path.to_owned(), reason: error.to_string() }
            })?;
        *request.headers_mut() = headers;
        let insert = |map: &mut HeaderMap, name, value: String| {
            if let Ok(value) = value.parse() {
                map.insert(name, value);
            }
        };
        insert(request.headers_mut(), header::HOST, authority.clone());
        if let Some(Ok(bearer)) = self.bearer() {
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        let answer = async { sender.send_request(request).await.map_err(broken) };
        // A body takes as long as it takes; the network's own limits watch over it.
        let answer = if has_body {
            answer.await?
        } else {
            heard(&authority, "answered", SILENCE, answer).await?
        };
        let (head, body) = answer.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, body, authority })
    }

    /// As [`Self::send`]; an answer outside 200 to 299 is an error that repeats the node's words.
    pub async fn expect_success(
        &self,
        method: Method,
        key: &str,
        path: &str,
        headers: HeaderMap,
        body: Option<Body>,
    ) -> Result<Reply, ClientError> {
        let reply = self.send(method.clone(), path, headers, body).await?;
        if reply.status.is_success() { Ok(reply) } else { Err(refused(method, key, reply).await) }
    }

    /// A connection of its own, and the authority to name on it.
    pub(super) async fn open(&self) -> Result<(Pin<Box<dyn Io>>, String), ClientError> {
        let authority = self.base.authority().map(ToString::to_string).unwrap_or_default();
        let connecting = self.connect(&authority);
        let io = heard(&authority, "taken the connection", CONNECT_TIMEOUT, connecting).await?;
        Ok((io, authority))
    }

    /// The `Authorization` header, if there is a token.
    pub(super) fn bearer(
        &self,
    ) -> Option<Result<http::HeaderValue, http::header::InvalidHeaderValue>> {
        self.token.as_ref().map(|token| format!("Bearer {}", token.expose()).parse())
    }

    async fn connect(&self, authority: &str) -> Result<Pin<Box<dyn Io>>, ClientError> {
        let host = self.base.host().unwrap_or_default();
        let port = self.base.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let connected = TcpStream::connect((bare, port)).await;
        let stream = connected
            .map_err(|source| ClientError::Connect { authority: authority.to_owned(), source })?;
        // A request's small head must not wait for its body.
        drop(stream.set_nodelay(true));
        let Some(tls) = &self.tls else { return Ok(Box::pin(stream)) };
        let failed = |source| ClientError::Tls { authority: authority.to_owned(), source };
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let encrypted = tokio_rustls::TlsConnector::from(tls.clone())
            .connect(name, stream)
            .await
            .map_err(failed)?;
        Ok(Box::pin(encrypted))
    }
}

/// Turns an answer into the error that it means.
pub(super) async fn refused(method: Method, key: &str, reply: Reply) -> ClientError {
    let status = reply.status;
    let detail = detail_of(&reply.text(64 * 1024).await);
    ClientError::Refused { method, key: key.to_owned(), status, detail }
}

/// What the body of a refusal says: a problem's title and detail, or the beginning of any other text.
pub(super) fn detail_of(text: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let field = |name| {
        problem.as_ref().and_then(|problem| problem.get(name)).and_then(|text| text.as_str())
    };
    match (field("title"), field("detail")) {
        (Some(title), Some(detail)) => format!("{title}: {detail}"),
        (Some(title), None) => title.to_owned(),
        _ => text.chars().take(200).collect(),
    }
}

/// A body that comes piece by piece.
pub(super) fn streamed<S>(stream: S) -> Body
where
    S: futures_core::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    BodyExt::boxed_unsync(StreamBody::new(futures_util::StreamExt::map(stream, |piece| {
        piece.map(Frame::data)
    })))
}

pub(super) trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

fn trust(ca_file: Option<&std::path::Path>) -> Result<rustls::ClientConfig, String> {
    let path = ca_file.ok_or("https needs --ca-file, the certificates to trust")?;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| format!("{}: {error}", path.display()))?;
        roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_nodes() {
        for good in ["http://127.0.0.1:8080", "http://[::1]:8080/", "http://node"] {
            assert!(Client::new(good, None, None).is_ok(), "{good}");
        }
        for bad in [
            "127.0.0.1:8080",
            "ftp://node",
            "http://user:secret@node",
            "http://node/cache",
            "http://node?x=1",
            "https://node",
        ] {
            let refused = Client::new(bad, None, None);
            assert!(matches!(refused, Err(ClientError::Url { .. })), "{bad}");
        }
    }
}
