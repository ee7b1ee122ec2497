//! Transfers that this node begins.
use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use straightway_buffer::MemoryPool;
use straightway_wire::CHUNK_BYTES;
use tokio::sync::OwnedSemaphorePermit;

use super::parts::Part;
use super::stream::{Body, PROGRESS, Piece, Receiver, Sender};
use super::talk::{Answer, Opening, Trailer, decode_answer, encode_opening, invalid};
use super::{ChunkSource, SnapshotMark};
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};
use crate::net::{Network, TransferSort};
use crate::store::{ObjectInfo, StoreError};

/// Sends to other members and fetches from them: at most [`crate::net::NetLimits::transfers`] at once to each, the others wait.
/// Dropping a future, or a [`Pull`], gives the transfer up.
#[derive(Debug, Clone)]
pub struct Transfers {
    network: Network,
    pool: MemoryPool,
}

/// An open stream.
struct Open {
    sender: Sender,
    receiver: Receiver,
    permit: OwnedSemaphorePermit,
}

impl Transfers {
    /// Over this network.
    pub fn new(network: Network) -> Self {
        Self { network, pool: MemoryPool::new(CHUNK_BYTES) }
    }

    /// Sends an object; when it is stored over there, answers with its digest. `info` says as much as is known now.
    ///
    /// # Errors
    /// [`ClusterError::Store`] with [`StoreError::Full`] when there is no room over there, [`ClusterError::Refused`],
    /// [`ClusterError::Unreachable`], [`ClusterError::Timeout`].
    pub async fn push(
        &self,
        peer: RaftId,
        id: ObjectId,
        info: &ObjectInfo,
        source: &mut dyn ChunkSource,
    ) -> Result<[u8; 32], ClusterError> {
        let opening = Opening::Push { id: id.to_bytes(), info: info.clone() };
        let (trailer, digest) = self.send(peer, opening, source).await?;
        if trailer.digest.is_some_and(|sent| sent != digest) {
            return Err(StoreError::Digest.into());
        }
        Ok(digest)
    }

    /// Fetches an object, from `offset` on, at most `len` bytes. `sort`: whether a store takes it or a client.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] when the peer has not got it, [`ClusterError::Unreachable`], [`ClusterError::Timeout`].
    pub async fn pull(
        &self,
        peer: RaftId,
        id: ObjectId,
        (offset, len): (u64, Option<u64>),
        sort: TransferSort,
    ) -> Result<Pull<ObjectInfo>, ClusterError> {
        let opening = Opening::Pull { id: id.to_bytes(), offset, len };
        match self.fetch(peer, &opening, sort).await? {
            (Answer::Found { info: about }, body, permit) => {
                let rest = about.len.map(|whole| whole.saturating_sub(offset));
                let whole = offset == 0 && len.is_none();
                let promised = Promised {
                    len: rest.map(|rest| len.map_or(rest, |len| len.min(rest))),
                    digest: about.digest.filter(|_| whole),
                };
                Ok(Pull::new(peer, about, promised, whole, body, permit))
            }
            (other, ..) => Err(other.into_error()),
        }
    }

    /// Fetches the snapshot at `index`; 0: the newest.
    ///
    /// # Errors
    /// As [`Transfers::pull`].
    pub async fn pull_snapshot(
        &self,
        peer: RaftId,
        index: u64,
    ) -> Result<Pull<SnapshotMark>, ClusterError> {
        let opening = Opening::PullSnapshot { index };
        match self.fetch(peer, &opening, TransferSort::Snapshot).await? {
            (Answer::FoundSnapshot { mark }, body, permit) => {
                let promised = Promised { len: mark.len, digest: None };
                Ok(Pull::new(peer, mark, promised, true, body, permit))
            }
            (other, ..) => Err(other.into_error()),
        }
    }

    async fn open(
        &self,
        peer: RaftId,
        opening: &Opening,
        sort: TransferSort,
    ) -> Result<Open, ClusterError> {
        let permit = self.network.transfer_permit(peer, sort).await?;
        let connection = Box::pin(self.network.open_bulk(peer)).await?;
        let unreachable = |reason: String| ClusterError::Unreachable { peer, reason };
        // It waits where the peer still serves older ones.
        let opened = tokio::time::timeout(PROGRESS, connection.open_bi()).await;
        let opened = opened.map_err(|_| unreachable(format!("no stream within {PROGRESS:?}")))?;
        let (send, receive) = opened.map_err(|error| unreachable(error.to_string()))?;
        let mut sender = Sender::new(send);
        let receiver = Receiver::new(receive, self.pool.clone());
        encode_opening(&mut sender.out, opening)?;
        Ok(Open { sender, receiver, permit })
    }

    /// Opens a stream, sends a body, and waits for the word that it is stored.
    async fn send(
        &self,
        peer: RaftId,
        opening: Opening,
        source: &mut dyn ChunkSource,
    ) -> Result<(Trailer, [u8; 32]), ClusterError> {
        let Open { mut sender, mut receiver, permit } =
            self.open(peer, &opening, TransferSort::Store).await?;
        let sent = {
            let answer = receiver.next(FOR_EVER);
            tokio::pin!(answer);
            tokio::select! {
                biased;
                // It has seen enough: no room, or something wrong.
                answer = &mut answer => Err(Some(answer)),
                sent = sender.body(source) => match sent {
                    Ok(trailer) => Ok(trailer),
                    Err(error @ ClusterError::Store(_)) => return Err(error),
                    // It does not read on: perhaps it says why.
                    Err(error) => match tokio::time::timeout(PROGRESS, answer).await {
                        Ok(Ok(part)) => Err(Some(Ok(part))),
                        _ => return Err(at(peer, error)),
                    },
                },
            }
        };
        let (trailer, answer) = match sent {
            Ok(trailer) => {
                sender.finish();
                // The peer makes it durable first.
                (Some(trailer), receiver.next(PROGRESS * 3).await)
            }
            Err(answer) => (None, answer.unwrap_or_else(|| Err(invalid(&"no answer")))),
        };
        drop(permit);
        let Part::Response(answer) = answer.map_err(|error| at(peer, error))? else {
            return Err(invalid(&"something else where its answer should be"));
        };
        match (decode_answer(&answer)?, trailer) {
            (Answer::Stored { digest }, Some(trailer)) => Ok((trailer, digest)),
            (other, _) => Err(other.into_error()),
        }
    }

    async fn fetch(
        &self,
        peer: RaftId,
        opening: &Opening,
        sort: TransferSort,
    ) -> Result<(Answer, Body, OwnedSemaphorePermit), ClusterError> {
        let Open { mut sender, mut receiver, permit } = self.open(peer, opening, sort).await?;
        sender.flush().await.map_err(|error| at(peer, error))?;
        sender.finish();
        let answer = receiver.next(PROGRESS).await.map_err(|error| at(peer, error))?;
        let Part::Response(answer) = answer else {
            return Err(invalid(&"something else where its answer should be"));
        };
        Ok((decode_answer(&answer)?, Body::new(receiver), permit))
    }
}

/// A time-out where another one counts.
const FOR_EVER: std::time::Duration = std::time::Duration::from_hours(24);

/// Says which peer was lost.
fn at(peer: RaftId, error: ClusterError) -> ClusterError {
    match error {
        ClusterError::Wire(straightway_wire::WireError::Invalid { what: _, reason }) => {
            ClusterError::Unreachable { peer, reason }
        }
        other => other,
    }
}

/// What the whole is to be, as far as it is known before.
struct Promised {
    len: Option<u64>,
    digest: Option<[u8; 32]>,
}

/// An object or a snapshot on its way: `About` says which. What has come can be served, and stored, before the rest has.
pub struct Pull<About> {
    peer: RaftId,
    about: About,
    promised: Promised,
    body: Body,
    /// Of what comes whole.
    hasher: Option<Sha256>,
    /// Given back at the end: what has ended may be held for long.
    permit: Option<OwnedSemaphorePermit>,
}

impl<About: fmt::Debug> fmt::Debug for Pull<About> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pull")
            .field("peer", &self.peer)
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

impl<About> Pull<About> {
    fn new(
        peer: RaftId,
        about: About,
        promised: Promised,
        whole: bool,
        body: Body,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let hasher = whole.then(Sha256::new);
        Self { peer, about, promised, body, hasher, permit: Some(permit) }
    }

    /// What is known of it; of an object, length and digest are.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The next bytes, each chunk checked; `None`: that was all, and of what came whole length and digest are right.
    ///
    /// # Errors
    /// [`ClusterError::Store`] with [`StoreError::Digest`] where what came is not what was announced: nothing of it may be kept.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ClusterError> {
        if self.permit.is_none() {
            return Ok(None);
        }
        let promised = self.promised.len;
        match self.body.next().await.map_err(|error| at(self.peer, error))? {
            Piece::Chunk(chunk) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&chunk);
                }
                if promised.is_some_and(|len| self.body.len() > len) {
                    return Err(StoreError::Digest.into());
                }
                Ok(Some(chunk))
            }
            Piece::End(trailer) => {
                self.permit = None;
                let short = promised.is_some_and(|len| self.body.len() < len);
                let other = self.hasher.take().is_some_and(|hasher| {
                    let found: [u8; 32] = hasher.finalize().into();
                    let promised = self.promised.digest.or(trailer.digest);
                    promised.is_some_and(|digest| digest != found)
                });
                if short || other { Err(StoreError::Digest.into()) } else { Ok(None) }
            }
        }
    }
}
