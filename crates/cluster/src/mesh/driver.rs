//! A mesh with a socket and a clock.
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use straightway_packet::PacketError;
use straightway_packet::batch::{BatchReceiver, BatchSender, Offload, ReceiveOptions, SendOptions};
use tokio::io::Interest;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::{Datagram, Event, Mesh, MeshConfig, Out, PeerStatus, Rejected};
use crate::error::ClusterError;
use crate::ids::{NodeKey, RaftId};
use crate::lease::{BootTime, boot_clock};

/// Events that may wait for whoever takes them; more are dropped and counted.
const MAX_EVENTS: usize = 256;
/// Datagrams that may wait to be sent; more are dropped and counted. Twice what a tick of a full mesh sends.
const MAX_WAITING: usize = 256;
/// Batches that are received before anybody else has a turn.
const BATCHES_A_TURN: usize = 8;

/// What the socket has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MeshStats {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that came.
    pub received: u64,
    /// Datagrams that could not be sent: too many waited, or the system refused them.
    pub unsent: u64,
    /// Events that nobody took in time.
    pub events_lost: u64,
    /// Times that the socket failed.
    pub failures: u64,
    /// What was refused, by reason.
    pub rejected: Rejected,
}

#[derive(Debug)]
struct Shared {
    mesh: Mesh,
    stats: MeshStats,
}

/// A mesh over a socket, to be driven by hand: nothing here waits.
#[derive(Debug)]
pub struct Pump {
    shared: Arc<Mutex<Shared>>,
    receiver: BatchReceiver,
    sender: BatchSender<Datagram>,
    events: mpsc::Sender<Event>,
}

struct Sending<'a> {
    sender: &'a mut BatchSender<Datagram>,
    events: &'a mpsc::Sender<Event>,
    stats: &'a mut MeshStats,
}

impl Out for Sending<'_> {
    fn datagram(&mut self, to: SocketAddr, datagram: Datagram) {
        self.stats.unsent += u64::from(self.sender.push(to, datagram).is_err());
    }

    fn event(&mut self, event: Event) {
        self.stats.events_lost += u64::from(self.events.try_send(event).is_err());
    }
}

impl Pump {
    /// A mesh over a socket, which becomes non-blocking, and the events that it tells.
    ///
    /// # Errors
    /// [`ClusterError::Config`] when the socket cannot be used.
    pub fn new(
        socket: Arc<UdpSocket>,
        config: MeshConfig,
    ) -> Result<(Self, mpsc::Receiver<Event>), ClusterError> {
        // Datagrams are short, and each is one message: the kernel has nothing to join.
        let offload = Offload::NoSegmentation;
        let receive = ReceiveOptions { mtu: 256, batch: 32, offload, ..ReceiveOptions::default() };
        let receiver =
            BatchReceiver::new(socket.clone(), receive).map_err(|error| unusable(&error))?;
        let sending = SendOptions { queue: MAX_WAITING, offload };
        let sender = BatchSender::new(socket, sending).map_err(|error| unusable(&error))?;
        let (events, told) = mpsc::channel(MAX_EVENTS);
        let shared = Shared { mesh: Mesh::new(config), stats: MeshStats::default() };
        let shared = Arc::new(Mutex::new(shared));
        Ok((Self { shared, receiver, sender, events }, told))
    }

    /// A period has passed.
    pub fn tick(&mut self, now: BootTime) {
        {
            let Shared { mesh, stats } = &mut *self.shared.lock();
            let (sender, events) = (&mut self.sender, &self.events);
            mesh.tick(now, &mut Sending { sender, events, stats });
        }
        self.flush();
    }

    /// Takes what has come, up to a bound, and answers it; `false`: nothing is left.
    pub fn receive(&mut self, now: BootTime) -> bool {
        for _ in 0..BATCHES_A_TURN {
            match self.receiver.try_receive() {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => {
                    self.failed(&error);
                    return false;
                }
            }
            {
                let Shared { mesh, stats } = &mut *self.shared.lock();
                let (sender, events) = (&mut self.sender, &self.events);
                let mut out = Sending { sender, events, stats };
                for datagram in self.receiver.datagrams() {
                    out.stats.received += 1;
                    let bytes = if datagram.truncated { &[] } else { datagram.bytes };
                    // Counted by the mesh.
                    let _refused = mesh.received(bytes, datagram.from, now, &mut out);
                }
            }
            self.flush();
        }
        true
    }

    fn flush(&mut self) {
        match self.sender.try_flush() {
            Ok(sent) => {
                let stats = &mut self.shared.lock().stats;
                stats.sent += sent.datagrams as u64;
                stats.unsent += sent.refused as u64;
                if sent.refused > 0 {
                    drop(self.sender.take_refused());
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &PacketError) {
        let failures = &mut self.shared.lock().stats.failures;
        *failures += 1;
        if failures.is_power_of_two() {
            tracing::warn!(%error, failures = *failures, "the mesh's socket failed");
        }
    }

    /// The same mesh, for others.
    pub fn handle(&self) -> MeshHandle {
        MeshHandle { shared: self.shared.clone(), task: None }
    }
}

/// A running mesh. When the last handle of [`start`] is dropped, it stops.
#[derive(Debug, Clone)]
pub struct MeshHandle {
    shared: Arc<Mutex<Shared>>,
    task: Option<Arc<Task>>,
}

#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a mesh over a socket, as one task of the runtime that this is called in.
///
/// # Errors
/// [`ClusterError::Config`] when the socket cannot be used, or outside of a runtime.
pub fn start(
    socket: UdpSocket,
    config: MeshConfig,
) -> Result<(MeshHandle, mpsc::Receiver<Event>), ClusterError> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|error| unusable(&error))?;
    // The runtime's own handle of the same socket: it only tells when there is something to receive.
    let ready = socket.try_clone().map_err(|error| unusable(&error))?;
    let (pump, told) = Pump::new(Arc::new(socket), config)?;
    let _entered = runtime.enter();
    let ready = tokio::net::UdpSocket::from_std(ready).map_err(|error| unusable(&error))?;
    let shared = pump.shared.clone();
    let task = runtime.spawn(run(pump, ready, config.period)).abort_handle();
    Ok((MeshHandle { shared, task: Some(Arc::new(Task(task))) }, told))
}

async fn run(mut pump: Pump, socket: tokio::net::UdpSocket, period: Duration) {
    let mut ticks = tokio::time::interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                pump.tick(boot_clock());
                // What an error of the socket may have left behind.
                let _more = pump.receive(boot_clock());
            }
            ready = socket.readable() => {
                let Ok(()) = ready else { return };
                // Nothing left means: wait for the next readiness.
                let _drained = socket.try_io(Interest::READABLE, || {
                    if pump.receive(boot_clock()) { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
                });
            }
        }
    }
}

impl MeshHandle {
    /// As [`Mesh::peer`].
    ///
    /// # Errors
    /// As there.
    pub fn peer(
        &self,
        id: RaftId,
        key: &NodeKey,
        addr: Option<SocketAddr>,
    ) -> Result<(), ClusterError> {
        self.shared.lock().mesh.peer(id, key, addr)
    }

    /// As [`Mesh::secret`].
    pub fn secret(&self, id: RaftId, secret: [u8; 32]) {
        self.shared.lock().mesh.secret(id, secret);
    }

    /// As [`Mesh::forget`].
    pub fn forget(&self, id: RaftId) {
        self.shared.lock().mesh.forget(id);
    }

    /// As [`Mesh::nearest`].
    pub fn nearest(&self, ids: &mut [RaftId]) {
        self.shared.lock().mesh.nearest(ids);
    }

    /// As [`Mesh::status`].
    pub fn status(&self, id: RaftId) -> Option<PeerStatus> {
        self.shared.lock().mesh.status(id)
    }

    /// As [`Mesh::statuses`].
    pub fn statuses(&self) -> Vec<(RaftId, PeerStatus)> {
        self.shared.lock().mesh.statuses()
    }

    /// What the socket has done, and what was refused.
    pub fn stats(&self) -> MeshStats {
        let shared = self.shared.lock();
        MeshStats { rejected: shared.mesh.rejected(), ..shared.stats }
    }

    /// Stops the task, if there is one.
    pub fn stop(&self) {
        if let Some(task) = &self.task {
            task.0.abort();
        }
    }
}

fn unusable(error: &dyn std::error::Error) -> ClusterError {
    ClusterError::Config { what: format!("the mesh cannot use its UDP socket: {error}") }
}
