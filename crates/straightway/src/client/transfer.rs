//! Storing and fetching whole bodies: hashed on the way, resumed when interrupted, verified at the end.
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt};

use crate::client::connection::{Client, ClientError, Reply, refused, streamed};

/// Hears of bytes as they pass.
pub trait Progress: Send + Sync {
    /// The whole length became known.
    fn total(&self, bytes: u64);
    /// So many bytes are done.
    fn done(&self, bytes: u64);
}

/// What is said about a body that is stored.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// MIME type.
    pub content_type: Option<String>,
    /// Lifetime in seconds.
    pub max_age: Option<u64>,
    /// Tags.
    pub tags: Vec<String>,
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// Bytes of the body.
    pub bytes: u64,
    /// Bytes that an earlier, interrupted attempt had left.
    pub resumed: u64,
    /// The body's SHA-256 in hex.
    pub sha256: String,
}

/// What errors call standard output.
pub const STANDARD_OUTPUT: &str = "standard output";
const PIECE_BYTES: usize = 256 * 1024;
/// Attempts to go on after a broken connection without a byte of progress.
const MAX_RETRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Stores a file.
pub async fn put_file(
    client: &Client,
    path: &Path,
    key: &str,
    options: &PutOptions,
    progress: Arc<dyn Progress>,
) -> Result<Fetched, ClientError> {
    let failed = |source| ClientError::File { act: "opening", path: path.to_path_buf(), source };
    let file = File::open(path).await.map_err(failed)?;
    let metadata = file.metadata().await.map_err(failed)?;
    // Pipes, devices and the files of /proc have no length that could be announced.
    if metadata.is_file() && metadata.len() > 0 {
        let len = metadata.len();
        // A file that grows meanwhile is stored as it was.
        put(client, file.take(len), Some(len), key, options, progress).await
    } else {
        put(client, file, None, key, options, progress).await
    }
}

/// Stores what comes on standard input.
pub async fn put_stdin(
    client: &Client,
    key: &str,
    options: &PutOptions,
    progress: Arc<dyn Progress>,
) -> Result<Fetched, ClientError> {
    put(client, tokio::io::stdin(), None, key, options, progress).await
}

async fn put(
    client: &Client,
    source: impl AsyncRead + Send + Unpin + 'static,
    len: Option<u64>,
    key: &str,
    options: &PutOptions,
    progress: Arc<dyn Progress>,
) -> Result<Fetched, ClientError> {
    let mut headers = describe(options)?;
    if let Some(len) = len {
        progress.total(len);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    }
    let hash = Arc::new(Mutex::new((Sha256::new(), 0u64)));
    let state = (source, BytesMut::new(), hash.clone(), progress);
    let pieces = futures_util::stream::try_unfold(
        state,
        |(mut source, mut buffer, hash, progress)| async move {
            buffer.reserve(PIECE_BYTES);
            if source.read_buf(&mut buffer).await? == 0 {
                return Ok(None);
            }
            let piece = buffer.split().freeze();
            {
                let mut hash = hash.lock().unwrap_or_else(PoisonError::into_inner);
                hash.0.update(&piece);
                hash.1 += piece.len() as u64;
                progress.done(hash.1);
            }
            Ok(Some((piece, (source, buffer, hash, progress))))
        },
    );
    let reply = client
        .expect_success(Method::PUT, key, &Client::key_path(key), headers, Some(streamed(pieces)))
        .await?;
    let (sha256, bytes) = {
        let mut hash = hash.lock().unwrap_or_else(PoisonError::into_inner);
        (hex(&std::mem::take(&mut hash.0).finalize()), hash.1)
    };
    match reply.header(header::ETAG) {
        Some(etag) if etag.trim_matches('"') == &sha256[..32] => {
            Ok(Fetched { bytes, resumed: 0, sha256 })
        }
        Some(_) => Err(ClientError::Digest {
            key: key.to_owned(),
            what: "the node received other bytes than were sent",
        }),
        None => Err(ClientError::Answer { reason: "a stored object has no ETag" }),
    }
}

fn describe(options: &PutOptions) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    let mut insert = |name: header::HeaderName, what, value: String| {
        let value = HeaderValue::try_from(value).map_err(|_| ClientError::Header { what })?;
        headers.insert(name, value);
        Ok::<_, ClientError>(())
    };
    if let Some(content_type) = &options.content_type {
        insert(header::CONTENT_TYPE, "content type", content_type.clone())?;
    }
    if let Some(seconds) = options.max_age {
        insert(header::CACHE_CONTROL, "lifetime", format!("max-age={seconds}"))?;
    }
    if !options.tags.is_empty() {
        insert(header::HeaderName::from_static("cache-tag"), "tag", options.tags.join(", "))?;
    }
    Ok(headers)
}

/// What an interrupted download leaves beside the bytes it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Partial {
    key: String,
    etag: String,
    total: u64,
}

/// Fetches an object into a file. The bytes go to `FILE.part` first; an attempt that was interrupted is continued from
/// there when the object is still the same. The file appears under its name when it is whole and its digest is right.
pub async fn fetch_to_file(
    client: &Client,
    key: &str,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Fetched, ClientError> {
    let part = with_suffix(path, ".part");
    let note = with_suffix(path, ".part.json");
    let failed = |act, path: &Path| {
        let path = path.to_path_buf();
        move |source| ClientError::File { act, path, source }
    };
    if tokio::fs::metadata(path).await.is_ok_and(|found| !found.is_file()) {
        // A device or a pipe is written to, not replaced.
        let opened = OpenOptions::new().write(true).open(path).await;
        let file = opened.map_err(failed("opening", path))?;
        return fetch_to_writer(client, key, file, progress).await;
    }
    let mut file =
        open_alone(&part).await.map_err(failed("locking (does another get write it?)", &part))?;
    let mut hash = Sha256::new();
    let known = read_note(&note, key).await;
    let have = match &known {
        Some(_) => {
            hash_what_is_there(&mut file, &mut hash).await.map_err(failed("reading", &part))?
        }
        None => 0,
    };
    if known.is_none() {
        file.set_len(0).await.map_err(failed("emptying", &part))?;
    }
    let mut sink = FileSink { file, note: &note, key };
    let fetched = fetch(client, key, &mut sink, have, known, hash, progress).await;
    if let Err(ClientError::Digest { .. }) = fetched {
        // Nothing of it can be continued: the next attempt is to begin afresh.
        for useless in [&note, &part] {
            drop(tokio::fs::remove_file(useless).await);
        }
    }
    let fetched = fetched?;
    // A write that failed in the background is told by flush, not by sync.
    sink.file.flush().await.map_err(failed("writing", &part))?;
    sink.file.sync_all().await.map_err(failed("writing", &part))?;
    tokio::fs::rename(&part, path).await.map_err(failed("renaming", &part))?;
    drop(tokio::fs::remove_file(&note).await);
    Ok(fetched)
}

/// Opens a file for this process alone, made if need be; fails when another process has it open this way.
async fn open_alone(path: &Path) -> std::io::Result<File> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).await?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
            // Whoever had it may have renamed it meanwhile: then this is not the file of that name any more.
            let named = tokio::fs::metadata(path).await.map(|named| named.ino()).ok();
            if named != Some(file.metadata().await?.ino()) {
                continue;
            }
        }
        return Ok(file);
    }
}

/// Fetches an object into a writer that cannot go back, such as standard output.
pub async fn fetch_to_writer(
    client: &Client,
    key: &str,
    writer: impl AsyncWrite + Send + Unpin,
    progress: &dyn Progress,
) -> Result<Fetched, ClientError> {
    let mut sink = StreamSink { writer };
    let fetched = fetch(client, key, &mut sink, 0, None, Sha256::new(), progress).await?;
    let flushed = sink.writer.flush().await;
    flushed.map_err(|source| ClientError::File {
        act: "writing",
        path: PathBuf::from(STANDARD_OUTPUT),
        source,
    })?;
    Ok(fetched)
}

/// Where fetched bytes go.
trait Sink {
    async fn put(&mut self, bytes: &[u8]) -> Result<(), ClientError>;
    /// The object's identity is known; `restart`: what came before belongs to another one.
    async fn identify(&mut self, partial: &Partial, restart: bool) -> Result<(), ClientError>;
}

struct FileSink<'a> {
    file: File,
    note: &'a Path,
    key: &'a str,
}

impl Sink for FileSink<'_> {
    async fn put(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let failed = |source| ClientError::File {
            act: "writing",
            path: self.note.with_extension(""),
            source,
        };
        self.file.write_all(bytes).await.map_err(failed)
    }

    async fn identify(&mut self, partial: &Partial, restart: bool) -> Result<(), ClientError> {
        let failed =
            |source| ClientError::File { act: "writing", path: self.note.to_path_buf(), source };
        if restart {
            self.file.set_len(0).await.map_err(failed)?;
            self.file.rewind().await.map_err(failed)?;
        }
        debug_assert_eq!(self.key, partial.key);
        let text = serde_json::to_vec(partial).map_err(|error| failed(error.into()))?;
        tokio::fs::write(self.note, text).await.map_err(failed)
    }
}

struct StreamSink<W> {
    writer: W,
}

impl<W: AsyncWrite + Send + Unpin> Sink for StreamSink<W> {
    async fn put(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let failed = |source| ClientError::File {
            act: "writing",
            path: PathBuf::from(STANDARD_OUTPUT),
            source,
        };
        self.writer.write_all(bytes).await.map_err(failed)
    }

    async fn identify(&mut self, partial: &Partial, restart: bool) -> Result<(), ClientError> {
        if restart {
            let what = "the object changed while it was being fetched";
            return Err(ClientError::Digest { key: partial.key.clone(), what });
        }
        Ok(())
    }
}

async fn fetch(
    client: &Client,
    key: &str,
    sink: &mut impl Sink,
    mut have: u64,
    mut known: Option<Partial>,
    mut hash: Sha256,
    progress: &dyn Progress,
) -> Result<Fetched, ClientError> {
    let mut resumed = have;
    let (mut retries, mut pause) = (0, FIRST_PAUSE);
    loop {
        let before = have;
        let outcome = attempt(client, key, sink, &mut have, &mut known, &mut hash, progress).await;
        resumed = resumed.min(have);
        match outcome {
            Ok(()) => break,
            Err(
                error @ (ClientError::Broken { .. }
                | ClientError::Connect { .. }
                | ClientError::Silent { .. }),
            ) => {
                retries = if have > before { 0 } else { retries + 1 };
                if retries >= MAX_RETRIES
                    || (known.is_none() && matches!(error, ClientError::Connect { .. }))
                {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(error) => return Err(error),
        }
    }
    let sha256 = hex(&hash.finalize());
    let etag = known.map(|known| known.etag).unwrap_or_default();
    if etag.trim_matches('"') != &sha256[..32] {
        return Err(ClientError::Digest {
            key: key.to_owned(),
            what: "the bytes received do not match the object's digest",
        });
    }
    Ok(Fetched { bytes: have, resumed, sha256 })
}

/// One request for what is missing.
async fn attempt(
    client: &Client,
    key: &str,
    sink: &mut impl Sink,
    have: &mut u64,
    known: &mut Option<Partial>,
    hash: &mut Sha256,
    progress: &dyn Progress,
) -> Result<(), ClientError> {
    if let Some(complete) = known.as_ref().filter(|known| known.total == *have) {
        // All there; but it may have been replaced or removed since.
        let path = Client::key_path(key);
        let reply = client.send(Method::HEAD, &path, HeaderMap::new(), None).await?;
        if !reply.status.is_success() {
            return Err(refused(Method::HEAD, key, reply).await);
        }
        if reply.header(header::ETAG) == Some(&complete.etag) {
            return Ok(());
        }
    }
    let mut headers = HeaderMap::new();
    if let Some(known) = known.as_ref().filter(|known| *have > 0 && *have < known.total) {
        let range = HeaderValue::try_from(format!("bytes={have}-")).ok();
        let etag = HeaderValue::try_from(&known.etag).ok();
        if let Some((range, etag)) = range.zip(etag) {
            headers.insert(header::RANGE, range);
            headers.insert(header::IF_RANGE, etag);
        }
    }
    let mut reply = client.send(Method::GET, &Client::key_path(key), headers, None).await?;
    match reply.status {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::OK => {
            let partial = identity(&reply, key)?;
            let restart = *have > 0;
            (*have, *hash) = (0, Sha256::new());
            sink.identify(&partial, restart).await?;
            *known = Some(partial);
        }
        _ => return Err(refused(Method::GET, key, reply).await),
    }
    progress.total(known.as_ref().map_or(0, |known| known.total));
    while let Some(piece) = reply.chunk().await {
        let piece: Bytes = piece?;
        sink.put(&piece).await?;
        hash.update(&piece);
        *have += piece.len() as u64;
        progress.done(*have);
    }
    Ok(())
}

fn identity(reply: &Reply, key: &str) -> Result<Partial, ClientError> {
    let etag = reply
        .header(header::ETAG)
        .ok_or(ClientError::Answer { reason: "an object has no ETag" })?;
    let total = reply.header(header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
    let total = total.ok_or(ClientError::Answer { reason: "an object has no Content-Length" })?;
    Ok(Partial { key: key.to_owned(), etag: etag.to_owned(), total })
}

async fn read_note(note: &Path, key: &str) -> Option<Partial> {
    let text = tokio::fs::read(note).await.ok()?;
    serde_json::from_slice::<Partial>(&text).ok().filter(|partial| partial.key == key)
}

async fn hash_what_is_there(file: &mut File, hash: &mut Sha256) -> std::io::Result<u64> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut total = 0;
    loop {
        let read = file.read(&mut buffer).await?;
        if read == 0 {
            return Ok(total);
        }
        hash.update(&buffer[..read]);
        total += read as u64;
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        text
    })
}
