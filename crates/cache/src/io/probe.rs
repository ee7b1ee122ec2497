//! What the system can do, found out by doing it on the cache file itself at start.
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use straightway_buffer::PooledBuffer;

use crate::device::{CacheFile, Device};
use crate::zero_copy::FileRange;

/// What was found out about rewriting space that is read at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hazard {
    /// Reads see what was written past the page cache.
    pub(crate) coherent: bool,
    /// What `sendfile` left in a socket's queue survives the rewriting of the file.
    pub(crate) sendfile_safe: bool,
}

/// What is in the queue arrives, on a busy machine late: that is no reason to serve by copy from then on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends the scratch area by `sendfile` without reading it, rewrites it, then reads the socket: old bytes are right,
/// new ones would be somebody else's object.
pub(crate) fn rewrite_hazard(
    file: &CacheFile,
    buffer: &mut PooledBuffer,
    scratch: u64,
) -> io::Result<Hazard> {
    let len = buffer.capacity();
    buffer.set_len(len).map_err(io::Error::other)?;
    write_pattern(file, buffer, scratch, 0xa5)?;
    let mut back = vec![0; len];
    file.read_at(&mut back, scratch)?;
    let queued = queue_by_sendfile(file, FileRange { offset: scratch, len: len as u64 });
    write_pattern(file, buffer, scratch, 0x5a)?;
    file.read_at(&mut back, scratch)?;
    let coherent = back.iter().all(|byte| *byte == 0x5a);
    let sendfile_safe = match queued {
        Ok((mut socket, sent)) if sent > 0 => {
            let mut received = vec![0; sent];
            socket.read_exact(&mut received).is_ok() && received.iter().all(|byte| *byte == 0xa5)
        }
        _ => false,
    };
    Ok(Hazard { coherent, sendfile_safe: coherent && sendfile_safe })
}

fn write_pattern(
    file: &CacheFile,
    buffer: &mut PooledBuffer,
    offset: u64,
    byte: u8,
) -> io::Result<()> {
    buffer.fill(byte);
    file.write_at(buffer, offset)
}

fn queue_by_sendfile(file: &CacheFile, range: FileRange) -> io::Result<(TcpStream, usize)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    sender.set_nonblocking(true)?;
    let sent = file.sendfile(sender.as_fd(), range)?;
    Ok((receiver, sent))
}
