//! Segments made ahead: one stands ready while another is filled, so that no batch waits for room to be found or zeroed.
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never, select_biased};
use parking_lot::Mutex;

use super::header::Header;
use super::volume::{SegmentFile, Volume, write_all};
use crate::error::ClusterError;
use crate::ids::StorageId;

/// The name of a file while it is made.
const UNFINISHED: &str = "unfinished";
/// How the names of files end that are kept to be used again.
const SPARE: &str = ".spare";
/// Files kept to be used again.
const MAX_SPARES: usize = 2;
/// Segments that may wait to be put away, and as many again of which that failed.
const MAX_ORDERS: usize = 64;

/// The name of the segment of a generation.
pub(super) fn segment_name(generation: u64) -> String {
    format!("{generation:016x}.log")
}

/// The generation of a segment of this name, if it is one.
pub(super) fn generation_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().filter(|generation| segment_name(*generation) == name)
}

/// A segment with a header, and no record.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) file: Box<dyn SegmentFile>,
    pub(super) header: Header,
}

/// Makes segments, and puts old ones away to be used again.
#[derive(Debug)]
pub(super) struct Maker {
    volume: Arc<dyn Volume>,
    storage: StorageId,
    len: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    spares: Vec<String>,
    /// Spares that there ever were: a generation may be put away more than once.
    put_away: u64,
}

impl Maker {
    /// Makes segments of generation `next` and up; leftovers of an earlier process are taken in or removed.
    pub(super) fn new(
        volume: Arc<dyn Volume>,
        storage: StorageId,
        len: u64,
        next: u64,
    ) -> Result<Self, ClusterError> {
        let maker = Self {
            volume,
            storage,
            len,
            state: Mutex::new(State { next, spares: Vec::new(), put_away: 0 }),
        };
        let names =
            maker.volume.list().map_err(ClusterError::file("list", maker.volume.path("")))?;
        for name in names {
            if name == UNFINISHED || name.ends_with(SPARE) {
                // Their length is not known without reading them.
                maker
                    .volume
                    .remove(&name)
                    .map_err(ClusterError::file("remove", maker.volume.path(&name)))?;
            }
        }
        Ok(maker)
    }

    fn file(&self, act: &'static str, name: &str) -> impl FnOnce(io::Error) -> ClusterError {
        ClusterError::file(act, self.volume.path(name))
    }

    /// Makes one of the usual length.
    pub(super) fn make_usual(&self) -> Result<Prepared, ClusterError> {
        self.make(self.len)
    }

    /// Makes one, of the usual length or of another one.
    pub(super) fn make(&self, len: u64) -> Result<Prepared, ClusterError> {
        let mut state = self.state.lock();
        let spare = if len == self.len { state.spares.pop() } else { None };
        let made = self.make_from(spare.as_deref(), state.next, len);
        if made.is_ok() {
            state.next += 1;
        }
        made
    }

    fn make_from(
        &self,
        spare: Option<&str>,
        generation: u64,
        len: u64,
    ) -> Result<Prepared, ClusterError> {
        let act = "reserve room for the log in";
        let (from, file) = match spare {
            Some(spare) => (spare, self.volume.open(spare).map_err(self.file("open", spare))?),
            None => (
                UNFINISHED,
                self.volume.create(UNFINISHED, len).map_err(self.file(act, UNFINISHED))?,
            ),
        };
        let salt = getrandom::u64().map_err(|error| ClusterError::File {
            act: "get random bytes for",
            path: self.volume.path(from),
            source: io::Error::other(error),
        })?;
        let storage = self.storage;
        let header = Header { generation, storage, salt, len, recycled: spare.is_some() };
        let written = write_all(&*file, &mut [IoSlice::new(&header.encode())], 0);
        written.map_err(|(_, error)| self.file(act, from)(error))?;
        file.sync_data().map_err(self.file("flush", from))?;
        file.forget();
        let name = segment_name(generation);
        self.volume.rename(from, &name).map_err(self.file("rename", from))?;
        self.volume.sync().map_err(self.file("flush the folder of", &name))?;
        Ok(Prepared { file, header })
    }

    /// Puts a segment away; afterwards it is none, also after a crash.
    pub(super) fn retire(&self, header: &Header) -> Result<(), ClusterError> {
        let name = segment_name(header.generation);
        let mut state = self.state.lock();
        let keep = header.len == self.len && state.spares.len() < MAX_SPARES;
        let spare = format!("{:016x}{SPARE}", state.put_away);
        let (act, gone) = if keep {
            state.put_away += 1;
            ("put away", self.volume.rename(&name, &spare))
        } else {
            ("remove", self.volume.remove(&name))
        };
        let there = match gone {
            Ok(()) => keep,
            // An earlier attempt came so far, and could not flush the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(self.file(act, &name)(error)),
        };
        // A spare whose old name might come back must not be used: it would have another segment's header.
        self.volume.sync().map_err(self.file("flush the folder of", &name))?;
        if there {
            state.spares.push(spare);
        }
        Ok(())
    }

    fn has_spare(&self) -> bool {
        !self.state.lock().spares.is_empty()
    }

    /// Puts away the newest segment, which holds no record: the next one takes its place in the order.
    pub(super) fn withdraw(&self, header: &Header) -> Result<(), ClusterError> {
        self.retire(header)?;
        self.state.lock().next = header.generation;
        Ok(())
    }
}

/// The thread that makes segments.
#[derive(Debug)]
pub(super) struct Preparer {
    maker: Arc<Maker>,
    /// Orders to make one, and segments to be put away.
    orders: Option<(Sender<()>, Sender<Header>)>,
    ready: Receiver<Result<Prepared, ClusterError>>,
    /// Whether one is being made, or waits in `ready`.
    ordered: bool,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub(super) fn start(maker: Maker) -> Result<Self, ClusterError> {
        let maker = Arc::new(maker);
        let (make, to_make) = bounded(1);
        let (retire, to_retire) = bounded(MAX_ORDERS);
        let (done, ready) = bounded(1);
        let mut thread = Thread {
            maker: Arc::clone(&maker),
            to_make,
            to_retire,
            done,
            retiring: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("log-segments".to_owned())
            .spawn(move || thread.run())
            .map_err(ClusterError::file(
                "start the thread that makes segments in",
                maker.volume.path(""),
            ))?;
        Ok(Self {
            maker,
            orders: Some((make, retire)),
            ready,
            ordered: false,
            thread: Some(thread),
        })
    }

    pub(super) fn maker(&self) -> &Maker {
        &self.maker
    }

    /// Asks for one, unless one is on its way.
    pub(super) fn order(&mut self) {
        // There is room: one is ordered at a time.
        self.ordered =
            self.ordered || self.orders.as_ref().is_some_and(|(make, _)| make.try_send(()).is_ok());
    }

    /// The next segment, and whether it had to be waited for.
    pub(super) fn take(&mut self) -> (Result<Prepared, ClusterError>, bool) {
        self.order();
        let gone = || {
            Err(ClusterError::Poisoned {
                first: "the thread that makes segments is gone".to_owned(),
            })
        };
        let (made, waited) = match self.ready.try_recv() {
            Ok(made) => (made, false),
            Err(TryRecvError::Disconnected) => (gone(), false),
            Err(TryRecvError::Empty) => (self.ready.recv().unwrap_or_else(|_| gone()), true),
        };
        self.ordered = false;
        (made, waited)
    }

    #[cfg(test)]
    pub(super) fn settle(&self) {
        while self.ordered && self.ready.is_empty() {
            std::thread::yield_now();
        }
    }

    /// Puts a segment away soon; `false` if too many wait for it: then ask again later.
    pub(super) fn retire(&self, header: Header) -> bool {
        self.orders.as_ref().is_some_and(|(_, retire)| retire.try_send(header).is_ok())
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It panics only if it is broken, and is of no more use then either.
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Thread {
    maker: Arc<Maker>,
    to_make: Receiver<()>,
    to_retire: Receiver<Header>,
    done: Sender<Result<Prepared, ClusterError>>,
    /// Segments to be put away of which that has failed or has not been tried. In their order: while one stays, all behind it
    /// do, so that there never is a gap.
    retiring: VecDeque<Header>,
}

impl Thread {
    fn run(&mut self) {
        let full = never();
        loop {
            let to_retire = if self.retiring.len() < MAX_ORDERS { &self.to_retire } else { &full };
            // Somebody may wait for a segment; nobody waits for those that are put away.
            select_biased! {
                recv(self.to_make) -> order => {
                    if order.is_err() {
                        break;
                    }
                    if !self.maker.has_spare() {
                        // Makes one that need not be filled with zeros.
                        self.retiring.extend(self.to_retire.try_recv());
                        self.retire();
                    }
                    if self.done.send(self.maker.make_usual()).is_err() {
                        break;
                    }
                }
                recv(to_retire) -> header => self.retiring.extend(header),
            }
            while self.to_make.is_empty() && self.retire() {}
        }
        self.retiring.extend(self.to_retire.try_iter());
        while self.retire() {}
    }

    /// Puts the first one away. One that stays is read again at the next start, and does no harm.
    fn retire(&mut self) -> bool {
        let Some(header) = self.retiring.front() else { return false };
        if let Err(error) = self.maker.retire(header) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "a segment of the log stays for now");
            return false;
        }
        self.retiring.pop_front();
        true
    }
}
