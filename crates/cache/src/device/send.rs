//! `sendfile`: from the page cache to a socket without passing through user space.
//!
//! Linux sends by reference: bytes still in the socket's queue follow the page, which is why space is rewritten only
//! past the page cache (`io/probe.rs` proves at start that this keeps them). At most 0x7ffff000 bytes go in one call.
//! FreeBSD and macOS have calls of the same name with other arguments, **untested**: see `sys/sendfile.rs`.
use std::io;
use std::os::fd::BorrowedFd;

use crate::zero_copy::FileRange;

#[cfg(target_os = "linux")]
pub(super) fn sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    range: FileRange,
) -> io::Result<usize> {
    let mut offset = range.offset;
    let len = usize::try_from(range.len).unwrap_or(usize::MAX).min(0x7fff_f000);
    loop {
        match rustix::fs::sendfile(socket, file, Some(&mut offset), len) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

#[cfg(any(target_os = "macos", target_os = "freebsd"))]
pub(super) use crate::sys::sendfile::sendfile;

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
pub(super) fn sendfile(
    _socket: BorrowedFd<'_>,
    _file: BorrowedFd<'_>,
    _range: FileRange,
) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}
