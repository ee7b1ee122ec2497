//! Ports for members that are started again at their places.
#![allow(unreachable_pub, reason = "a module of each test binary")]
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

/// A UDP port, and one beside it, that are free and that the system gives to nobody who does not ask for them.
pub fn quiet_port() -> u16 {
    let free = |port: u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed = u64::from(std::process::id()) * 7919 + u64::from(since.subsec_nanos());
    let ports = (seed..).map(|n| 12_000 + u16::try_from(n % 10_000).expect("small") * 2);
    ports.into_iter().find(|port| free(*port) && free(port + 1)).expect("a port")
}
