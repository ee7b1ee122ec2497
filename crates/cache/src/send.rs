//! Sending a whole object to a socket that the caller owns.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use crate::cache::RawDiskCache;
use crate::error::CacheError;
use crate::meta::WINDOW_BYTES;
use crate::read::Object;
use crate::zero_copy::{FileRange, ReadPath};

/// Sends the body by `sendfile`, window by window, each verified first. Waits on a thread that may block, so that the
/// socket's own mode does not matter.
pub(crate) async fn send_object(
    cache: &RawDiskCache,
    object: &Object,
    socket: BorrowedFd<'_>,
) -> Result<u64, CacheError> {
    let failed = |source| cache.io_error("sending an object", source);
    // A duplicate: the caller may close its descriptor whenever it likes.
    let socket = Arc::new(socket.try_clone_to_owned().map_err(failed)?);
    let mut sent = 0;
    while sent < object.len() {
        let end = (sent + WINDOW_BYTES).min(object.len());
        object.prepare(sent..end).await?;
        let range = FileRange { offset: object.body_offset() + sent, len: end - sent };
        let (cache, socket, pinned) = (cache.clone(), socket.clone(), object.clone());
        let job = tokio::task::spawn_blocking(move || {
            // The pin must outlive the call, even if the caller stops waiting for it.
            let _pinned = pinned;
            send_range(&cache, &socket, range)
        });
        job.await.map_err(io::Error::other).and_then(|result| result).map_err(failed)?;
        sent = end;
    }
    cache.record(ReadPath::Sendfile, sent);
    Ok(sent)
}

fn send_range(cache: &RawDiskCache, socket: &OwnedFd, mut range: FileRange) -> io::Result<()> {
    while range.len > 0 {
        match cache.try_sendfile(socket.as_fd(), range) {
            Ok(step) => {
                range =
                    FileRange { offset: range.offset + step as u64, len: range.len - step as u64 }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(socket, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
