//! Packets recorded: files, and the kernel's ring.
pub mod pcap;
pub mod pcapng;
#[cfg(target_os = "linux")]
mod ring;

#[cfg(target_os = "linux")]
pub use ring::{Block, CaptureRing, CaptureStats, Captured, RingOptions};
