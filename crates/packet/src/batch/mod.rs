//! Many datagrams at once: by few system calls where the kernel has them (Linux), one by one elsewhere.
//!
//! ```text
//! push ──> queue ──group──> one message per destination and length ──sendmmsg──> the kernel cuts it (UDP_SEGMENT)
//!                  the route refuses that: the same packets, one message each
//! recvmmsg ──> pooled buffers, several datagrams in one (UDP_GRO) ──split──> datagrams, borrowed or shared
//! ```
//! Nothing here waits without a limit, and nothing is dropped without being told.
mod group;
mod mtu;
mod pacer;
mod portable;
mod receive;
mod send;

pub use mtu::never_fragment;
pub use pacer::Pacer;
pub use receive::{BatchReceiver, Datagram, ReceiveOptions, ReceiveStats};
pub use send::{BatchSender, Refused, SendOptions, SendStats, Sent};

/// Whether the kernel's help is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// Whatever the kernel has, tried and given up by route.
    #[default]
    Auto,
    /// Batches by one call, but no segmentation by the kernel.
    NoSegmentation,
    /// One datagram by one call, as on systems without batches.
    Portable,
}

/// Waits until a socket can be written to (or read from), for so long at the most; `None`: for ever.
#[cfg(unix)]
fn wait_for(
    socket: &std::net::UdpSocket,
    write: bool,
    at_most: Option<std::time::Duration>,
) -> std::io::Result<()> {
    use std::os::fd::AsFd;
    crate::sys::sockopt::poll(socket.as_fd(), write, at_most).map(drop)
}

/// The longest payload of a UDP datagram over IPv4.
pub const MAX_PAYLOAD: usize = 65_507;
