//! Options of sockets.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use super::check;

/// `SOL_UDP`, `UDP_SEGMENT` and `UDP_GRO` of `linux/udp.h`.
#[cfg(target_os = "linux")]
pub(crate) const SOL_UDP: libc::c_int = 17;
#[cfg(target_os = "linux")]
pub(crate) const UDP_SEGMENT: libc::c_int = 103;
#[cfg(target_os = "linux")]
pub(crate) const UDP_GRO: libc::c_int = 104;

/// Sets an option whose value is an `int`.
pub(crate) fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set(fd, level, name, &value)
}

/// Sets an option whose value is any structure of integers.
pub(super) fn set<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let pointer = ptr::from_ref(value).cast();
    // SAFETY: setsockopt(2) reads `len` bytes at the pointer, which are those of `value`.
    let answer = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer, len) };
    check(answer).map(drop)
}

/// Reads an option whose value is any structure of integers.
#[cfg(target_os = "linux")]
pub(super) fn get<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let pointer = ptr::from_mut(value).cast();
    // SAFETY: getsockopt(2) writes at most `len` bytes at the pointer, which are those of `value`.
    let answer = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer, &raw mut len) };
    check(answer).map(drop)
}

/// The error that waits on a socket, which is told once.
#[cfg(target_os = "linux")]
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut error: libc::c_int = 0;
    get(fd, libc::SOL_SOCKET, libc::SO_ERROR, &mut error)?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Waits until a descriptor can be read (or written), or has an error to tell, for so long at the most; without a limit
/// if `None`. `false`: neither, yet; a signal ends the wait too.
pub(crate) fn poll(fd: BorrowedFd<'_>, write: bool, at_most: Option<Duration>) -> io::Result<bool> {
    // Rounded up, or the last millisecond would be spent asking.
    let timeout = at_most.map(|left| left.as_micros().div_ceil(1000));
    let timeout_ms = timeout.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
    let events = if write { libc::POLLOUT } else { libc::POLLIN };
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: poll(2) reads and writes one entry at the pointer.
    let answer = unsafe { libc::poll(&raw mut entry, 1, timeout_ms) };
    match check(answer) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        answered => answered.map(|ready| ready > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::sync::mpsc;

    extern "C" fn ignore(_: libc::c_int) {}

    #[test]
    fn a_signal_ends_a_wait_and_is_no_error() {
        let handler = ignore as extern "C" fn(libc::c_int);
        // SAFETY: the handler does nothing, which is safe at any moment.
        let before = unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
        assert_ne!(before, libc::SIG_ERR);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (ready, is_ready) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            // SAFETY: takes no argument.
            ready.send(unsafe { libc::pthread_self() }).expect("heard");
            poll(socket.as_fd(), false, None)
        });
        let thread = is_ready.recv().expect("it runs");
        // As often as it takes: the first ones may come before it waits.
        while !waiting.is_finished() {
            // SAFETY: the thread is not joined yet, so that its handle is valid.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
            std::thread::yield_now();
        }
        assert!(!waiting.join().expect("content").expect("no error"));
    }
}
