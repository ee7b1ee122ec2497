//! System calls: the only place in this crate with unsafe code. Each function is safe to call with any arguments.
#[cfg(target_os = "linux")]
pub(crate) mod address;
#[cfg(all(target_os = "linux", feature = "xdp"))]
mod bpf;
#[cfg(target_os = "linux")]
pub(crate) mod mmsg;
#[cfg(target_os = "linux")]
pub(crate) mod ring;
pub(crate) mod sockopt;
#[cfg(target_os = "linux")]
pub(crate) mod tun;
#[cfg(all(target_os = "linux", feature = "xdp"))]
pub(crate) mod xsk;

use std::io;

/// The answer of a system call as a count, or the error if it is -1.
fn check(answer: libc::c_int) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}
