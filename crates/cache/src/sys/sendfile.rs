//! `sendfile` as FreeBSD and macOS have it: other arguments than Linux, the same purpose. **Untested**: written from the
//! man pages, for lack of such a machine.
//!
//! Both send from an offset, take a length, and tell through a pointer how much went out even when the call fails with
//! EAGAIN: then what went out is the answer, and only nothing at all is "would block".
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::zero_copy::FileRange;

/// Sends part of a file to a socket; may send less than asked.
pub(crate) fn sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    range: FileRange,
) -> io::Result<usize> {
    let offset = libc::off_t::try_from(range.offset).map_err(io::Error::other)?;
    let (result, sent) = call(socket, file, offset, range.len)?;
    let sent = usize::try_from(sent).map_err(io::Error::other)?;
    if result == 0 || sent > 0 { Ok(sent) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_os = "macos")]
fn call(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: libc::off_t,
    len: u64,
) -> io::Result<(libc::c_int, libc::off_t)> {
    let mut len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    // SAFETY: sendfile(2): "len" points to a value that is read and replaced by the number of bytes sent; a null "hdtr"
    // means no headers; flags are reserved and must be 0. Both descriptors are open, being borrowed.
    let result = unsafe {
        libc::sendfile(
            file.as_raw_fd(),
            socket.as_raw_fd(),
            offset,
            &raw mut len,
            std::ptr::null_mut(),
            0,
        )
    };
    Ok((result, len))
}

#[cfg(target_os = "freebsd")]
fn call(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: libc::off_t,
    len: u64,
) -> io::Result<(libc::c_int, libc::off_t)> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut sent: libc::off_t = 0;
    // SAFETY: sendfile(2): "sbytes" points to a value that receives the number of bytes sent; a null "hdtr" means no
    // headers; flags 0. Both descriptors are open, being borrowed.
    let result = unsafe {
        libc::sendfile(
            file.as_raw_fd(),
            socket.as_raw_fd(),
            offset,
            len,
            std::ptr::null_mut(),
            &raw mut sent,
            0,
        )
    };
    Ok((result, sent))
}
