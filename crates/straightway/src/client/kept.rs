//! One connection that is kept, for many requests one after another.
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;

use super::connection::{Client, ClientError, SILENCE, detail_of, heard};

/// So much of what a node says of a refusal is kept.
const WORDS: usize = 4096;

/// A connection to a node that is used again and again. After an error it is of no more use.
#[derive(Debug)]
pub struct Kept {
    authority: String,
    host: HeaderValue,
    bearer: Option<HeaderValue>,
    sender: SendRequest<Full<Bytes>>,
}

/// An answer, received whole and not kept.
#[derive(Debug)]
pub struct Answered {
    /// Status code.
    pub status: StatusCode,
    /// Bytes of the body.
    pub bytes: u64,
    /// The node's words, where it refused.
    pub detail: String,
    /// The node closes the connection: the next request needs another one.
    pub closes: bool,
}

impl Client {
    /// Opens a connection for many requests.
    pub async fn keep(&self) -> Result<Kept, ClientError> {
        let (io, authority) = self.open().await?;
        let broken = |source| ClientError::Broken { authority: authority.clone(), source };
        let made = Builder::new().writev(true).handshake(TokioIo::new(io)).await;
        let (sender, connection) = made.map_err(broken)?;
        tokio::spawn(async move {
            // What breaks the connection also breaks the request that is under way, which reports it.
            drop(connection.await);
        });
        let header = |_| ClientError::Header { what: "host or token" };
        let bearer = self.bearer().transpose().map_err(header)?;
        let host = HeaderValue::from_str(&authority).map_err(header)?;
        Ok(Kept { authority, host, bearer, sender })
    }
}

impl Kept {
    /// Sends a request and takes in the whole answer, of which only the length is kept.
    pub async fn request(
        &mut self,
        method: Method,
        path: &Uri,
        body: Bytes,
    ) -> Result<Answered, ClientError> {
        let Self { authority, host, bearer, sender } = self;
        let broken = |source| ClientError::Broken { authority: authority.clone(), source };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.clone();
        request.headers_mut().insert(header::HOST, host.clone());
        if let Some(bearer) = bearer {
            request.headers_mut().insert(header::AUTHORIZATION, bearer.clone());
        }
        heard(authority, "answered", SILENCE, async {
            sender.ready().await.map_err(broken)?;
            let (head, mut body) = sender.send_request(request).await.map_err(broken)?.into_parts();
            let mut words = Vec::new();
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
                bytes += data.len() as u64;
                if !head.status.is_success() {
                    let room = WORDS - words.len();
                    words.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
            let detail = detail_of(&String::from_utf8_lossy(&words));
            let closes = head.headers.get(header::CONNECTION).is_some_and(|said| said == "close");
            Ok(Answered { status: head.status, bytes, detail, closes })
        })
        .await
    }
}
