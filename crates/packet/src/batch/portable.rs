//! One datagram by one call, with nothing but the standard library.
use std::io;
use std::net::{SocketAddr, UdpSocket};

use straightway_buffer::PooledBuffer;

use super::receive::Received;

/// Sends packets until the socket is full; gives how many were taken.
pub(super) fn send<'a, P: AsRef<[u8]> + 'a>(
    socket: &UdpSocket,
    packets: impl Iterator<Item = (&'a SocketAddr, &'a P)>,
) -> (usize, usize, io::Result<()>) {
    let (mut sent, mut calls) = (0, 0);
    for (to, packet) in packets {
        calls += 1;
        match socket.send_to(packet.as_ref(), to) {
            Ok(_) => sent += 1,
            Err(error) => return (sent, calls, Err(error)),
        }
    }
    (sent, calls, Ok(()))
}

/// Receives what is there, one datagram into each buffer.
pub(super) fn receive(
    socket: &UdpSocket,
    buffers: &mut [PooledBuffer],
    into: &mut Vec<Received>,
) -> io::Result<u64> {
    for (n, buffer) in buffers.iter_mut().enumerate() {
        match socket.recv_from(buffer.as_mut_capacity()) {
            Ok((len, from)) => {
                // Without the kernel's word for it: buffers have room for more than is expected.
                let truncated = len == buffer.capacity();
                into.push(Received {
                    from: Some(from),
                    len,
                    truncated,
                    segment: None,
                    dropped: None,
                });
            }
            // What was received is not thrown away for an error: the next call will meet it again, or it has passed.
            Err(_) if n > 0 => return Ok(n as u64 + 1),
            Err(error) => return Err(error),
        }
    }
    Ok(buffers.len() as u64)
}
