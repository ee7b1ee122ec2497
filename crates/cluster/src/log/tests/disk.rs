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

type Files = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Debug, Default)]
struct State {
    files: Files,
    /// What the folder is on the medium, and what became of it since it was flushed, in this order.
    flushed: Files,
    pending: Vec<Change>,
    calls: Calls,
    faults: Faults,
}

/// Of names.
#[derive(Debug, Clone)]
enum Change {
    Made(String, Arc<Mutex<Content>>),
    Renamed(String, String),
    Removed(String),
}

impl Change {
    fn apply(self, files: &mut Files) {
        match self {
            Self::Made(name, content) => drop(files.insert(name, content)),
            Self::Renamed(from, to) => {
                if let Some(content) = files.remove(&from) {
                    files.insert(to, content);
                }
            }
            Self::Removed(name) => drop(files.remove(&name)),
        }
    }
}

impl State {
    fn change(&mut self, change: Change) {
        change.clone().apply(&mut self.files);
        self.pending.push(change);
    }
}

#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// A flush failed: the cache takes for clean what is on no medium.
    lost: bool,
}

impl Content {
    fn of(bytes: Vec<u8>) -> Self {
        Self { synced: bytes.clone(), now: bytes, lost: false }
    }

    fn sync(&mut self) {
        if !self.lost {
            self.synced = self.now.clone();
        }
    }

    /// What is not clean stays.
    fn forget(&mut self) {
        if self.lost {
            *self = Self::of(std::mem::take(&mut self.synced));
        }
    }
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
    /// The process ends instead of flushing: nothing else is wrong.
    pub(super) killed: bool,
    pub(super) folder_sync: Option<i32>,
    /// The next so many.
    pub(super) renames: Vec<i32>,
    pub(super) removals: Vec<i32>,
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

    fn holding(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let disk = Self::default();
        for (name, bytes) in files {
            disk.put(&name, bytes);
        }
        disk
    }

    /// A copy on which nothing is pending.
    pub(super) fn copy(&self) -> Self {
        let state = self.0.lock();
        let files = state.files.iter();
        Self::holding(files.map(|(name, content)| (name.clone(), content.lock().now.clone())))
    }

    /// What is left after the power failed: of the sectors that were not flushed those for which `keep` says so, and of the
    /// changes of names those before the first for which it says no.
    pub(super) fn crash(&self, mut keep: impl FnMut() -> bool) -> Self {
        let state = self.0.lock();
        let mut files = state.flushed.clone();
        for change in state.pending.iter().take_while(|_| keep()) {
            change.clone().apply(&mut files);
        }
        Self::holding(files.into_iter().map(|(name, content)| {
            let Content { now, synced: mut left, .. } = content.lock().clone();
            for (old, new) in left.chunks_mut(SECTOR).zip(now.chunks(SECTOR)) {
                if old != new && keep() {
                    old.copy_from_slice(new);
                }
            }
            (name, left)
        }))
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
        let content = Arc::new(Mutex::new(Content::of(bytes)));
        let mut state = self.0.lock();
        state.files.insert(name.to_owned(), Arc::clone(&content));
        state.flushed.insert(name.to_owned(), content);
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
        let file = self.file(name)?;
        let mut content = file.lock();
        content.sync();
        content.forget();
        Ok(content.now.clone())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn SegmentFile>> {
        let mut state = self.0.lock();
        if let Some(error) = state.faults.create {
            return Err(io::Error::from_raw_os_error(error));
        }
        let content = Content::of(vec![0; usize::try_from(len).unwrap()]);
        state.change(Change::Made(name.to_owned(), Arc::new(Mutex::new(content))));
        drop(state);
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(Handle { disk: self.clone(), content: self.file(name)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.file(from)?;
        let mut state = self.0.lock();
        fail(&mut state.faults.renames)?;
        state.change(Change::Renamed(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.file(name)?;
        let mut state = self.0.lock();
        fail(&mut state.faults.removals)?;
        state.change(Change::Removed(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if let Some(error) = state.faults.folder_sync {
            return Err(io::Error::from_raw_os_error(error));
        }
        state.flushed = state.files.clone();
        state.pending.clear();
        Ok(())
    }
}

fn fail(faults: &mut Vec<i32>) -> io::Result<()> {
    faults.pop().map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
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
        if state.faults.killed {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if let Some(error) = state.faults.sync {
            self.content.lock().lost = true;
            return Err(io::Error::from_raw_os_error(error));
        }
        state.calls.syncs += 1;
        drop(state);
        self.content.lock().sync();
        Ok(())
    }

    fn forget(&self) {
        self.content.lock().forget();
    }
}
