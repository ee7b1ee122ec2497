//! Packets that are built, sent, received and parsed without a copy.
//!
//! ```text
//! view      bytes ──parse──> Frame, Ethernet, Ipv4, Tcp, ...   borrowed, nothing allocated
//! build     TcpPacketBuilder, UdpPacketBuilder ──build_into──> a buffer that the caller has
//! overlay   the node's own messages, flat
//! fragment  IPv4 and IPv6 fragments, made and put together again within bounds
//! batch     many datagrams by one system call (Linux), one by one elsewhere
//! capture   the kernel's ring of packets, and files of them: pcap, and pcapng to read
//! xdp       frames past the kernel's stack (Linux, feature `xdp`)
//! ```
//! *Knows:* packets, and the system calls that move them. *Does not know:* what they are for. `view`, `build`,
//! `overlay` and `fragment` take bytes and a clock in and give bytes out: no socket, no file.
#![deny(unsafe_code)]

mod addr;
pub mod batch;
pub mod build;
pub mod capture;
pub mod checksum;
mod error;
mod field;
pub mod fragment;
pub mod overlay;
#[allow(unsafe_code, reason = "system calls; each block is argued")]
mod sys;
#[cfg(target_os = "linux")]
mod tap;
pub mod view;
#[cfg(all(target_os = "linux", feature = "xdp"))]
pub mod xdp;

pub use addr::MacAddr;
pub use checksum::{Checksum, checksum};
pub use error::PacketError;
#[cfg(target_os = "linux")]
pub use tap::Tap;
