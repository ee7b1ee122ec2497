//! Packets recorded: files, and the kernel's ring.
pub mod pcap;
#[cfg(target_os = "linux")]
mod ring;

#[cfg(target_os = "linux")]
pub use ring::{Block, CaptureRing, CaptureStats, Captured, RingOptions};
