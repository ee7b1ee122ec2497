//! A folder in memory that knows what was flushed, and can lose, tear and fail what was not.
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::volume::{SegmentFile, Volume};

/// What a crash keeps or loses as one.
pub(super) const SECTOR: usize = 512;

type Shared = Arc<Mutex<State>>;

/// The folder. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Shared);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    calls: Calls,
    faults: Faults,
}

#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// What was asked of it.
#[derive(Debug, Default, Clone)]
pub(super) struct Calls {
    pub(super) syncs: u64,
    pub(super) writes: u64,
    /// Where in memory the parts of the last write lay, and how long they were.
    pub(super) parts: Vec<(usize, usize)>,
}

/// What is to fail.
#[derive(Debug, Default, Clone)]
pub(super) struct Faults {
    pub(super) sync: Option<i32>,
    pub(super) create: Option<i32>,
    /// After as many bytes more.
    pub(super) write: Option<(usize, i32)>,
    /// No more bytes than these in one call.
    pub(super) short: Option<usize>,
}

impl Disk {
    pub(super) fn calls(&self) -> Calls {
        self.0.lock().calls.clone()
    }

    pub(super) fn fault(&self, set: impl FnOnce(&mut Faults)) {
        set(&mut self.0.lock().faults);
    }

    pub(super) fn names(&self, ending: &str) -> Vec<String> {
        self.0.lock().files.keys().filter(|name| name.ends_with(ending)).cloned().collect()
    }

    /// A copy on which nothing is pending.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::default();
        for (name, content) in &self.0.lock().files {
            let mut content = content.lock().clone();
            content.synced.clone_from(&content.now);
            copy.0.lock().files.insert(name.clone(), Arc::new(Mutex::new(content)));
        }
        copy
    }

    /// What is left after the power failed: of the sectors that were not flushed those for which `keep` says so.
    pub(super) fn crash(&self, mut keep: impl FnMut() -> bool) -> Self {
        let copy = self.copy();
        for (name, content) in &self.0.lock().files {
            let Content { now, synced } = content.lock().clone();
            let mut left = synced;
            for (old, new) in left.chunks_mut(SECTOR).zip(now.chunks(SECTOR)) {
                if old != new && keep() {
                    old.copy_from_slice(new);
                }
            }
            copy.edit(name, |bytes| *bytes = left);
        }
        copy
    }

    /// Changes a file behind everybody's back.
    pub(super) fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let content = Arc::clone(&self.0.lock().files[name]);
        let mut content = content.lock();
        change(&mut content.now);
        content.synced = content.now.clone();
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.0.lock().files[name].lock().now.clone()
    }

    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        let content = Content { synced: bytes.clone(), now: bytes };
        self.0.lock().files.insert(name.to_owned(), Arc::new(Mutex::new(content)));
    }

    fn file(&self, name: &str) -> io::Result<Arc<Mutex<Content>>> {
        self.0.lock().files.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Volume for Disk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/memory").join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names(""))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.file(name)?.lock().now.clone())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn SegmentFile>> {
        if let Some(error) = self.0.lock().faults.create {
            return Err(io::Error::from_raw_os_error(error));
        }
        self.put(name, vec![0; usize::try_from(len).unwrap()]);
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(Handle { disk: self.clone(), content: self.file(name)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().files.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    content: Arc<Mutex<Content>>,
}

impl SegmentFile for Handle {
    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let mut state = self.disk.0.lock();
        state.calls.writes += 1;
        state.calls.parts = parts.iter().map(|part| (part.as_ptr() as usize, part.len())).collect();
        bytes.truncate(state.faults.short.unwrap_or(usize::MAX));
        if let Some((room, error)) = &mut state.faults.write {
            if *room == 0 {
                return Err(io::Error::from_raw_os_error(*error));
            }
            bytes.truncate(*room);
            *room -= bytes.len();
        }
        drop(state);
        let at = usize::try_from(at).unwrap();
        // A segment never grows.
        self.content.lock().now[at..at + bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        if let Some(error) = state.faults.sync {
            return Err(io::Error::from_raw_os_error(error));
        }
        state.calls.syncs += 1;
        drop(state);
        let mut content = self.content.lock();
        content.synced = content.now.clone();
        Ok(())
    }
}
