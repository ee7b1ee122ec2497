//! Response bodies that come from another member of the cluster.
//!
//! A reader that does not keep up with what arrives goes on from this node's cache if all is there soon; otherwise, or where there
//! is no room for it, it goes on with what another fetch brings, at the reader's pace. It notices neither.
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use straightway_cluster::catalogue::Entry;
use straightway_cluster::{Arriving, Cluster, ClusterError};

use super::body::{BodyError, ObjectBody};
use super::exchange::{Exchange, Phase};
use crate::member::{self, Rest};

/// Bytes that arrive while they are served.
pub struct ArrivingBody {
    exchange: Arc<Exchange>,
    cluster: Cluster,
    entry: Arc<Entry>,
    first: Option<Bytes>,
    source: Source,
    /// What of the object is still to be sent.
    rest: Range<u64>,
    /// Where it went on last.
    resumed: Option<u64>,
}

type Job = Pin<Box<dyn Future<Output = Result<Rest, ClusterError>> + Send>>;

enum Source {
    Arriving(Arriving),
    Resuming(Job),
    Here(Box<ObjectBody>),
    Over,
}

impl fmt::Debug for ArrivingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrivingBody").field("rest", &self.rest).finish_non_exhaustive()
    }
}

impl ArrivingBody {
    /// A body of this range of an object, whose `first` bytes have come.
    pub(crate) fn new(
        exchange: Arc<Exchange>,
        cluster: Cluster,
        entry: Arc<Entry>,
        range: Range<u64>,
        (first, arriving): (Bytes, Arriving),
    ) -> Self {
        let (first, source) = (Some(first), Source::Arriving(arriving));
        Self { exchange, cluster, entry, first, source, rest: range, resumed: None }
    }

    pub(super) fn remaining(&self) -> u64 {
        self.rest.end - self.rest.start
    }

    pub(super) fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(self.sent(first)));
        }
        loop {
            match &mut self.source {
                Source::Arriving(arriving) => match ready!(arriving.poll_next(cx)) {
                    Some(Ok(chunk)) => return Poll::Ready(Some(self.sent(chunk))),
                    Some(Err(error)) => return self.lost(Some(error)),
                    // It was left behind; where that happens twice in a row nothing comes any more.
                    None if self.resumed == Some(self.rest.start) => return self.lost(None),
                    None => self.resume(),
                },
                Source::Resuming(job) => match ready!(job.as_mut().poll(cx)) {
                    Ok(Rest::Arriving(arriving)) => self.source = Source::Arriving(arriving),
                    Ok(Rest::Here(object)) => {
                        let (exchange, rest) = (self.exchange.clone(), self.rest.clone());
                        let body = ObjectBody::single(exchange, object, None, rest);
                        self.source = Source::Here(Box::new(body));
                    }
                    Err(error) => return self.lost(Some(error)),
                },
                Source::Here(body) => {
                    let piece = ready!(body.poll_piece(cx));
                    if let Some(Ok(bytes)) = &piece {
                        self.rest.start += bytes.len() as u64;
                    }
                    return Poll::Ready(piece);
                }
                Source::Over => return self.lost(None),
            }
        }
    }

    fn sent(&mut self, chunk: Bytes) -> Result<Bytes, BodyError> {
        let len = chunk.len() as u64;
        if len > self.remaining() {
            return Err(BodyError::Lost(None));
        }
        self.rest.start += len;
        Ok(chunk)
    }

    fn lost(&mut self, why: Option<ClusterError>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.source = Source::Over;
        Poll::Ready(Some(Err(BodyError::Lost(why))))
    }

    fn resume(&mut self) {
        if let Source::Arriving(arriving) = std::mem::replace(&mut self.source, Source::Over) {
            self.resumed = Some(self.rest.start);
            let cache = self.exchange.node().cache.clone();
            let (cluster, entry) = (self.cluster.clone(), self.entry.clone());
            let rest = member::rest(cluster, cache, entry, self.rest.clone(), arriving);
            self.source = Source::Resuming(Box::pin(rest));
        }
    }
}

impl Drop for ArrivingBody {
    fn drop(&mut self) {
        self.exchange.enter(Phase::Flushing);
    }
}
