//! Asking a path how long a datagram it takes.
use std::net::UdpSocket;

use crate::error::PacketError;

/// Lets a socket send datagrams of any length, but none in fragments: what is too long for the path is refused
/// (`EMSGSIZE`) or lost, whatever the system has learnt of the path before. For probing (RFC 8899).
///
/// # Errors
/// [`PacketError::Unsupported`] where the system cannot do that, [`PacketError::Io`] when it refuses.
#[cfg(target_os = "linux")]
pub fn never_fragment(socket: &UdpSocket) -> Result<(), PacketError> {
    use crate::sys::sockopt::set_int;
    use std::os::fd::AsFd;
    let failed = |source| PacketError::Io {
        operation: "setting up a socket to probe failed".to_owned(),
        source,
    };
    let v6 = socket.local_addr().map_err(failed)?.is_ipv6();
    let (level, name, value) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    };
    set_int(socket.as_fd(), level, name, value).map_err(failed)
}

/// As on Linux.
///
/// # Errors
/// Always [`PacketError::Unsupported`].
#[cfg(not(target_os = "linux"))]
pub fn never_fragment(_socket: &UdpSocket) -> Result<(), PacketError> {
    Err(PacketError::Unsupported {
        what: "probing for the path MTU",
        instead: "take the interface's MTU",
    })
}
