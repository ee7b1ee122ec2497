//! Segments made ahead: one stands ready while another is filled, so that no batch waits for room to be found or zeroed.
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
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
/// Segments that may wait to be put away.
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
        if header.len == self.len && state.spares.len() < MAX_SPARES {
            let spare = format!("{:016x}{SPARE}", state.put_away);
            state.put_away += 1;
            self.volume.rename(&name, &spare).map_err(self.file("put away", &name))?;
            self.volume.sync().map_err(self.file("flush the folder of", &spare))?;
            state.spares.push(spare);
        } else {
            self.volume.remove(&name).map_err(self.file("remove", &name))?;
            self.volume.sync().map_err(self.file("flush the folder of", &name))?;
        }
        Ok(())
    }

    /// Puts away the newest segment, which holds no record: the next one takes its place in the order.
    pub(super) fn withdraw(&self, header: &Header) -> Result<(), ClusterError> {
        self.retire(header)?;
        self.state.lock().next = header.generation;
        Ok(())
    }
}

enum Order {
    Make,
    Retire(Header),
}

/// The thread that makes segments.
#[derive(Debug)]
pub(super) struct Preparer {
    maker: Arc<Maker>,
    orders: Option<Sender<Order>>,
    ready: Receiver<Result<Prepared, ClusterError>>,
    /// Whether one is being made, or waits in `ready`.
    ordered: bool,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub(super) fn start(maker: Maker) -> Result<Self, ClusterError> {
        let maker = Arc::new(maker);
        let (orders, todo) = bounded(MAX_ORDERS);
        let (done, ready) = bounded(1);
        let own = Arc::clone(&maker);
        let thread = std::thread::Builder::new()
            .name("log-segments".to_owned())
            .spawn(move || run(&own, &todo, &done))
            .map_err(ClusterError::file(
                "start the thread that makes segments in",
                maker.volume.path(""),
            ))?;
        Ok(Self { maker, orders: Some(orders), ready, ordered: false, thread: Some(thread) })
    }

    pub(super) fn maker(&self) -> &Maker {
        &self.maker
    }

    /// Asks for one, unless one is on its way.
    pub(super) fn order(&mut self) {
        // Waits only behind segments that are put away.
        let send = |orders: &Sender<Order>| orders.send(Order::Make).is_ok();
        self.ordered = self.ordered || self.orders.as_ref().is_some_and(send);
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
        self.orders.as_ref().is_some_and(|orders| orders.try_send(Order::Retire(header)).is_ok())
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

fn run(maker: &Maker, todo: &Receiver<Order>, done: &Sender<Result<Prepared, ClusterError>>) {
    for order in todo {
        match order {
            Order::Make => {
                if done.send(maker.make_usual()).is_err() {
                    return;
                }
            }
            // A segment that stays is read again at the next start, and does no harm.
            Order::Retire(header) => {
                if let Err(error) = maker.retire(&header) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a segment of the log stays"
                    );
                }
            }
        }
    }
}
