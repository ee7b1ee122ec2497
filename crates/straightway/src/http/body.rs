//! Response bodies: slices of the mapping where the socket can send those, copies where it cannot.
//!
//! A body larger than a window leaves window by window. Each window is verified and in memory before it is handed on,
//! and while it is being sent the next one is warmed in the background. What cannot be verified, or is wanted back, ends
//! the connection: a reader gets the right bytes or too few, never a mix.
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use straightway_cache::{CacheError, Object};
use straightway_cluster::ClusterError;

use super::arriving::ArrivingBody;
use super::exchange::{Exchange, Phase};

/// Bytes that are checked and handed on together; the cache verifies in steps of the same size.
pub(crate) const WINDOW_BYTES: u64 = 1 << 20;
/// Bytes that are copied at a time where a body has to be: the largest pooled buffer.
pub(crate) const COPY_BYTES: u64 = 64 * 1024;

/// The body of an answer. One concrete type, so that a hot answer needs no box.
#[derive(Debug, Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// Everything in one piece.
    Once(Bytes),
    /// An object in several pieces.
    Object(Box<ObjectBody>),
    /// An object on its way here from another member of the cluster.
    Arriving(Box<ArrivingBody>),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Once(bytes) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Once(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Object(object) => {
                object.poll_piece(cx).map(|piece| piece.map(|result| result.map(Frame::data)))
            }
            Self::Arriving(arriving) => {
                arriving.poll_chunk(cx).map(|chunk| chunk.map(|result| result.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(_) => false,
            Self::Object(object) => object.remaining == 0,
            Self::Arriving(arriving) => arriving.remaining() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Object(object) => SizeHint::with_exact(object.remaining),
            Self::Arriving(arriving) => SizeHint::with_exact(arriving.remaining()),
        }
    }
}

/// Why a body broke off. hyper closes the connection then.
#[derive(Debug)]
pub enum BodyError {
    /// The cache could not give the bytes.
    Cache(CacheError),
    /// The space was wanted by others for longer than the reader may hold it.
    Revoked,
    /// The member that the bytes came from is gone, and no other one has them.
    Lost(Option<ClusterError>),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cache(_) => {
                f.write_str("the rest of the object could not be read; the connection is closed")
            }
            Self::Revoked => f.write_str(
                "the reader was too slow for space that is wanted; the connection is closed",
            ),
            Self::Lost(_) => f.write_str(
                "the rest of the object could not be had from any member; the connection is closed",
            ),
        }
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Cache(error) => Some(error),
            Self::Revoked => None,
            Self::Lost(error) => error.as_ref().map(|error| error as &(dyn Error + 'static)),
        }
    }
}

/// A part of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes of the multipart framing.
    Framing(Bytes),
    /// Bytes of the object.
    Span(Range<u64>),
}

type Job = Pin<Box<dyn Future<Output = Result<Bytes, CacheError>> + Send>>;

/// An object on its way out, piece by piece.
pub struct ObjectBody {
    exchange: Arc<Exchange>,
    object: Object,
    /// The whole object in the mapping; `None` where bytes have to be copied.
    mapped: Option<Bytes>,
    span: Range<u64>,
    rest: VecDeque<Piece>,
    remaining: u64,
    /// The window in preparation: always the next one to go out.
    job: Option<Job>,
}

impl fmt::Debug for ObjectBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectBody")
            .field("object", &self.object)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl ObjectBody {
    /// A body of one range.
    pub(crate) fn single(
        exchange: Arc<Exchange>,
        object: Object,
        mapped: Option<Bytes>,
        range: Range<u64>,
    ) -> Self {
        let remaining = range.end - range.start;
        Self { exchange, object, mapped, span: range, rest: VecDeque::new(), remaining, job: None }
    }

    /// A body of several pieces.
    pub(crate) fn several(
        exchange: Arc<Exchange>,
        object: Object,
        mapped: Option<Bytes>,
        pieces: VecDeque<Piece>,
    ) -> Self {
        let remaining = pieces.iter().map(Piece::len).sum();
        Self { exchange, object, mapped, span: 0..0, rest: pieces, remaining, job: None }
    }

    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.object.is_revoked() {
            return Poll::Ready(Some(Err(BodyError::Revoked)));
        }
        while self.span.is_empty() {
            match self.rest.pop_front() {
                Some(Piece::Framing(bytes)) => {
                    self.remaining -= bytes.len() as u64;
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Some(Piece::Span(range)) => self.span = range,
                None => return Poll::Ready(None),
            }
        }
        let window = window_of(&self.span, self.step());
        let bytes = match ready!(self.poll_window(cx, &window)) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(key = %self.object.meta().key, %error, "an answer broke off");
                return Poll::Ready(Some(Err(BodyError::Cache(error))));
            }
        };
        self.span.start = window.end;
        self.remaining -= window.end - window.start;
        self.look_ahead(cx);
        Poll::Ready(Some(Ok(bytes)))
    }

    /// The window's bytes, once they are verified and in memory.
    fn poll_window(
        &mut self,
        cx: &mut Context<'_>,
        window: &Range<u64>,
    ) -> Poll<Result<Bytes, CacheError>> {
        if self.job.is_none() {
            if let Some(bytes) = self.mapped_window(window)
                && self.object.is_ready(window.clone())
            {
                return Poll::Ready(Ok(bytes));
            }
            self.job = Some(self.start(window.clone()));
        }
        let Some(job) = &mut self.job else { return Poll::Pending };
        let result = ready!(job.as_mut().poll(cx));
        self.job = None;
        Poll::Ready(result)
    }

    fn start(&self, window: Range<u64>) -> Job {
        let object = self.object.clone();
        let reason = self.exchange.copy_reason();
        match self.mapped_window(&window) {
            Some(bytes) => Box::pin(async move { object.prepare(window).await.map(|()| bytes) }),
            None => Box::pin(async move { object.read(window, reason).await }),
        }
    }

    fn mapped_window(&self, window: &Range<u64>) -> Option<Bytes> {
        let range = usize::try_from(window.start).ok()?..usize::try_from(window.end).ok()?;
        self.mapped.as_ref().map(|mapped| mapped.slice(range))
    }

    /// Starts to warm the next window while this one is being sent, where it is not warm already.
    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        if self.span.is_empty() {
            return;
        }
        let next = window_of(&self.span, self.step());
        if self.mapped.is_none() {
            self.object.prefetch(next);
        } else if !self.object.is_ready(next.clone()) {
            let mut job = self.start(next.clone());
            // Polled once so that the work starts; the waker it leaves behind wakes this body's own connection.
            if let Poll::Ready(result) = job.as_mut().poll(cx) {
                job = Box::pin(std::future::ready(result));
            }
            self.job = Some(job);
            let after = next.end..self.span.end;
            if !after.is_empty() {
                self.object.prefetch(window_of(&after, WINDOW_BYTES));
            }
        }
    }

    fn step(&self) -> u64 {
        if self.mapped.is_some() { WINDOW_BYTES } else { COPY_BYTES }
    }
}

impl Drop for ObjectBody {
    fn drop(&mut self) {
        self.exchange.enter(Phase::Flushing);
    }
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Framing(bytes) => bytes.len() as u64,
            Self::Span(range) => range.end - range.start,
        }
    }
}

/// The first part of a span, ending at a multiple of `step` so that later windows line up with what the cache verifies.
fn window_of(span: &Range<u64>, step: u64) -> Range<u64> {
    let end = (span.start / step).saturating_add(1).saturating_mul(step);
    span.start..end.min(span.end)
}
