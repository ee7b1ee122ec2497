//! Objects in memory, and an observer that does nothing: for tests, and to see what a store has to do.
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::catalogue::Event;
use crate::ids::{ObjectId, RaftId};
use crate::node::Observer;
use crate::store::{BoxFuture, ObjectInfo, ObjectReader, ObjectSink, ObjectStore, StoreError};

/// An [`Observer`] that does nothing with what it is told: for a member whose bytes nobody serves.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn event(&self, _: u64, _: &Event) {}
    fn skipped(&self) {}
    fn leader(&self, _: u64, _: RaftId) {}
    fn forget(&self, _: Vec<ObjectId>) {}
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// There is room for so many more bytes.
    Full(u64),
    /// Each read and write takes so long.
    Slow(Duration),
    /// No read and no write comes to its end before there is another fault, or none.
    Held,
    /// What is read is not what was written.
    Corrupt,
}

#[derive(Debug, Default)]
struct Inner {
    objects: HashMap<ObjectId, (ObjectInfo, Bytes)>,
    fault: Fault,
    /// Sinks that were dropped before they were whole.
    aborted: u64,
    /// Reads and writes that have been held.
    held: u64,
}

impl Inner {
    /// Takes room, if there is a bound on it.
    fn take(&mut self, len: u64) -> Result<(), StoreError> {
        if let Fault::Full(room) = &mut self.fault {
            *room = room.checked_sub(len).ok_or(StoreError::Full { len: Some(len) })?;
        }
        Ok(())
    }
}

/// An [`ObjectStore`] in memory. Clones are the same one.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.len()).finish()
    }
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on this goes wrong.
    pub fn fail(&self, fault: Fault) {
        self.inner.lock().fault = fault;
        self.changed.notify_waiters();
    }

    /// Objects.
    pub fn len(&self) -> usize {
        self.inner.lock().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is stored.
    pub fn get(&self, id: ObjectId) -> Option<(ObjectInfo, Bytes)> {
        self.inner.lock().objects.get(&id).cloned()
    }

    /// Sinks that were dropped before they were whole.
    pub fn aborted(&self) -> u64 {
        self.inner.lock().aborted
    }

    /// Reads and writes that have been held ([`Fault::Held`]), whatever became of them.
    pub fn held(&self) -> u64 {
        self.inner.lock().held
    }

    /// Stores at once.
    pub fn insert(&self, id: ObjectId, info: ObjectInfo, body: Bytes) -> ObjectInfo {
        let digest = Some(Sha256::digest(&body).into());
        let info = ObjectInfo { len: Some(body.len() as u64), digest, ..info };
        self.inner.lock().objects.insert(id, (info.clone(), body));
        info
    }

    async fn pause(&self) {
        loop {
            let changed = self.changed.notified();
            let fault = {
                let mut inner = self.inner.lock();
                inner.held += u64::from(inner.fault == Fault::Held);
                inner.fault
            };
            match fault {
                Fault::Slow(time) => return tokio::time::sleep(time).await,
                Fault::Held => changed.await,
                _ => return,
            }
        }
    }
}

impl ObjectStore for MemoryStore {
    fn open(
        &self,
        id: ObjectId,
    ) -> BoxFuture<'_, Result<Option<Box<dyn ObjectReader>>, StoreError>> {
        Box::pin(async move {
            let found = self.get(id);
            let reader = found.map(|(info, body)| Reader { store: self.clone(), info, body });
            Ok(reader.map(|reader| Box::new(reader) as Box<dyn ObjectReader>))
        })
    }

    fn create<'a>(
        &'a self,
        id: ObjectId,
        info: &'a ObjectInfo,
    ) -> BoxFuture<'a, Result<Box<dyn ObjectSink>, StoreError>> {
        Box::pin(async move {
            if let (Some(len), Fault::Full(room)) = (info.len, self.inner.lock().fault)
                && len > room
            {
                return Err(StoreError::Full { len: info.len });
            }
            let (store, info) = (self.clone(), info.clone());
            let sink = Sink { store, id, info, body: BytesMut::new(), whole: false };
            Ok(Box::new(sink) as Box<dyn ObjectSink>)
        })
    }

    fn forget(&self, ids: Vec<ObjectId>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut inner = self.inner.lock();
            for id in ids {
                inner.objects.remove(&id);
            }
        })
    }
}

#[derive(Debug)]
struct Reader {
    store: MemoryStore,
    info: ObjectInfo,
    body: Bytes,
}

impl ObjectReader for Reader {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            self.store.pause().await;
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.body.len());
            let end = start.saturating_add(max).min(self.body.len());
            let chunk = self.body.slice(start..end);
            if self.store.inner.lock().fault == Fault::Corrupt {
                return Ok(chunk.iter().map(|byte| byte ^ 0x40).collect());
            }
            Ok(chunk)
        })
    }
}

#[derive(Debug)]
struct Sink {
    store: MemoryStore,
    id: ObjectId,
    info: ObjectInfo,
    body: BytesMut,
    whole: bool,
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.whole {
            self.store.inner.lock().aborted += 1;
        }
    }
}

impl ObjectSink for Sink {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.store.pause().await;
            self.store.inner.lock().take(chunk.len() as u64)?;
            self.body.extend_from_slice(&chunk);
            Ok(())
        })
    }

    fn finish(
        mut self: Box<Self>,
        digest: Option<[u8; 32]>,
    ) -> BoxFuture<'static, Result<[u8; 32], StoreError>> {
        Box::pin(async move {
            let found: [u8; 32] = Sha256::digest(&self.body).into();
            let announced = digest.or(self.info.digest);
            let lies = self.info.len.is_some_and(|len| len != self.body.len() as u64);
            if lies || announced.is_some_and(|announced| announced != found) {
                return Err(StoreError::Digest);
            }
            self.whole = true;
            let (info, body) = (std::mem::take(&mut self.info), std::mem::take(&mut self.body));
            self.store.insert(self.id, info, body.freeze());
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ObjectId = ObjectId { node: 1, serial: 1 };

    async fn store(
        store: &MemoryStore,
        info: &ObjectInfo,
        body: &[u8],
    ) -> Result<[u8; 32], StoreError> {
        let mut sink = store.create(ID, info).await?;
        for piece in body.chunks(3) {
            sink.write(Bytes::copy_from_slice(piece)).await?;
        }
        sink.finish(None).await
    }

    #[tokio::test]
    async fn what_was_written_is_read_and_forgotten() {
        let memory = MemoryStore::new();
        let digest = store(&memory, &ObjectInfo::default(), b"straightway").await.expect("stored");
        let reader = memory.open(ID).await.expect("no fault").expect("there");
        assert_eq!((reader.info().len, reader.info().digest), (Some(11), Some(digest)));
        assert_eq!(&reader.read(8, 100).await.expect("read")[..], b"way");
        assert!(reader.read(11, 1).await.expect("the end").is_empty());
        assert!(memory.get(ID).is_some());
        memory.forget(vec![ID]).await;
        assert!(memory.open(ID).await.expect("no fault").is_none());
    }

    #[tokio::test]
    async fn faults_are_those_that_were_asked_for() {
        let memory = MemoryStore::new();
        memory.fail(Fault::Full(7));
        let full = store(&memory, &ObjectInfo::default(), b"straightway").await;
        assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
        assert_eq!((memory.len(), memory.aborted()), (0, 1));
        let info = ObjectInfo { len: Some(8), ..ObjectInfo::default() };
        assert!(matches!(memory.create(ID, &info).await, Err(StoreError::Full { len: Some(8) })));
        memory.fail(Fault::None);
        let short = store(&memory, &info, b"short").await;
        assert!(matches!(short, Err(StoreError::Digest)), "{short:?}");
        store(&memory, &ObjectInfo::default(), b"straightway").await.expect("stored");
        memory.fail(Fault::Corrupt);
        let reader = memory.open(ID).await.expect("opened").expect("there");
        assert_ne!(&reader.read(0, 100).await.expect("read")[..], b"straightway");
    }
}
