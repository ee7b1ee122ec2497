//! Wakes a thread that waits on a channel, without ever blocking or queueing more than one wake-up.
use crossbeam_channel::{Receiver, Sender, bounded};

/// The waking end.
#[derive(Debug, Clone)]
pub(super) struct Wake(Sender<()>);

impl Wake {
    /// The waking end, and the one to wait on.
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (sender, receiver) = bounded(1);
        (Self(sender), receiver)
    }

    /// Wakes; if that has been done and not been noticed, once is enough.
    pub(super) fn wake(&self) {
        let _ = self.0.try_send(());
    }
}
