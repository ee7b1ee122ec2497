//! The cache's own threads, and the order in which they stop.
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use crate::checkpoint;
use crate::commit::{self, CommitQueue};
use crate::core::Core;
use crate::error::CacheError;
use crate::pack::{self, Needle};
use crate::reclaim;
use crate::scrub;
use crate::sweep;

/// The running threads.
#[derive(Debug)]
pub(crate) struct Threads {
    running: Mutex<Option<Running>>,
}

/// The ends of the queues that the threads drain.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) commits: CommitQueue,
    pub(crate) needles: Receiver<Needle>,
}

#[derive(Debug)]
struct Running {
    committer: JoinHandle<()>,
    packer: JoinHandle<()>,
    reclaimer: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
    scrubber: JoinHandle<()>,
    sweeper: JoinHandle<()>,
}

impl Threads {
    pub(crate) fn start(core: &Arc<Core>, queues: Queues) -> Result<Self, CacheError> {
        let Queues { commits, needles } = queues;
        let start = || -> io::Result<Running> {
            Ok(Running {
                committer: spawn("sw-commit", core, move |core| commit::run(&core, &commits))?,
                packer: spawn("sw-pack", core, move |core| pack::run(&core, &needles))?,
                reclaimer: spawn("sw-reclaim", core, |core| reclaim::run(&core))?,
                checkpointer: spawn("sw-checkpoint", core, |core| checkpoint::run(&core))?,
                scrubber: spawn("sw-scrub", core, |core| scrub::run(&core))?,
                sweeper: spawn("sw-sweep", core, |core| sweep::run(&core))?,
            })
        };
        match start() {
            Ok(running) => Ok(Self { running: Mutex::new(Some(running)) }),
            Err(source) => {
                signal(core);
                Err(core.io_error("starting a thread", source))
            }
        }
    }

    /// Stops the threads that make work first, the committer once all of it is done, and writes a last checkpoint.
    pub(crate) fn stop(&self, core: &Core) -> Result<(), CacheError> {
        let Some(running) = self.running.lock().take() else { return Ok(()) };
        core.packer.stop();
        core.reclaim.stop();
        core.scrub.stop();
        core.rules.stop();
        join(running.packer);
        join(running.reclaimer);
        join(running.scrubber);
        join(running.sweeper);
        core.committer.stop();
        join(running.committer);
        core.committer.journal.stop();
        join(running.checkpointer);
        checkpoint::write(core)
            .map_err(|source| core.io_error("writing the last checkpoint", source))
    }
}

fn signal(core: &Core) {
    core.packer.stop();
    core.reclaim.stop();
    core.scrub.stop();
    core.rules.stop();
    core.committer.stop();
    core.committer.journal.stop();
}

fn spawn(
    name: &str,
    core: &Arc<Core>,
    body: impl FnOnce(Arc<Core>) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let core = core.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || body(core))
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the cache panicked");
    }
}
