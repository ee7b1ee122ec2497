//! Packets recorded: files, and the kernel's ring.
pub mod pcap;
