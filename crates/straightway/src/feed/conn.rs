//! One subscriber: a socket, a cursor, a filter, and what is left of a write that did not go out whole.
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use straightway_buffer::SharedPacket;
use straightway_codec::event::OnLag;
use straightway_codec::ws::{
    CloseCode, FrameReader, Limits, Opcode, Role, close_payload, frame_head,
};
use straightway_codec::{Encoding, Peer};

use super::publish::Seat;
use super::ring::Form;

/// Fragments of a subscriber's message.
const MAX_FRAGMENTS: u32 = 16;
/// Frames that may wait behind a write that did not go out whole.
const MAX_WAITING: usize = 96;
/// Frames that one write takes.
const MAX_SLICES: usize = 64;

/// See the module's text.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Conn {
    pub(super) socket: TcpStream,
    pub(super) reader: FrameReader,
    pub(super) peer: Peer,
    pub(super) zstd: bool,
    pub(super) deflate: bool,
    /// Index of the filter among the hub's.
    pub(super) filter: u32,
    /// The offset of the next event that it gets.
    pub(super) cursor: u64,
    /// Offsets of urgent events that were sent ahead of others and whose turn has not come.
    pub(super) ahead: Vec<u64>,
    /// Urgent events up to this offset were looked at for being sent ahead.
    pub(super) ahead_to: u64,
    /// It is among those who are listened to again.
    pub(super) talkative: bool,
    /// How far behind it may be: more than usual while it catches up from where it resumed.
    pub(super) may_lag: u64,
    /// Its place among the hub's connections.
    pub(super) index: usize,
    pub(super) stats_seen: u64,
    pub(super) on_lag: OnLag,
    /// The kernel takes nothing at the moment.
    pub(super) blocked: bool,
    out: VecDeque<SharedPacket>,
    /// Bytes of the first that are gone.
    out_at: usize,
    pub(super) closing: Option<Closing>,
    /// Sweeps since anything came from it.
    pub(super) silent_for: u16,
    pub(super) pinged: bool,
    /// Sweeps that a message of its has been incomplete.
    pub(super) partial_for: u16,
    /// Commands and pings that it may still send before the next sweep.
    pub(super) budget: u16,
    _seat: Seat,
}

/// A connection that ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// Sweeps until it is dropped whatever the peer does.
    pub(super) sweeps_left: u8,
    /// Nothing more is to be written: the write side is shut down.
    pub(super) shut: bool,
    /// The peer has said that it ends, too.
    pub(super) agreed: bool,
    /// What it says is not understood any more, and thrown away.
    pub(super) deaf: bool,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// All of it.
    All,
    /// As much as the kernel takes; the rest waits.
    Some,
}

impl Conn {
    pub(super) fn new(
        socket: TcpStream,
        index: usize,
        encoding: Encoding,
        zstd: bool,
        deflate: bool,
        max_message: usize,
        seat: Seat,
    ) -> Self {
        let limits = Limits { max_message, max_fragments: MAX_FRAGMENTS };
        Self {
            socket,
            reader: FrameReader::new(Role::Server, limits, deflate),
            peer: Peer::new(encoding),
            zstd,
            deflate,
            filter: 0,
            cursor: 0,
            ahead: Vec::new(),
            ahead_to: 0,
            talkative: false,
            may_lag: 0,
            index,
            stats_seen: 0,
            on_lag: OnLag::Drop,
            blocked: false,
            out: VecDeque::new(),
            out_at: 0,
            closing: None,
            silent_for: 0,
            pinged: false,
            partial_for: 0,
            budget: 0,
            _seat: seat,
        }
    }

    /// The form in which it gets events at the moment.
    pub(super) fn form(&self) -> Form {
        match (self.peer.encoding(), self.zstd, self.deflate) {
            (Encoding::Rkyv, true, _) => Form::Zstd,
            (Encoding::Rkyv, false, _) => Form::Rkyv,
            (Encoding::Json, _, true) => Form::JsonDeflated,
            (Encoding::Json, _, false) => Form::Json,
        }
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_clear(&self) -> bool {
        self.out.is_empty()
    }

    /// Queues a frame of a few bytes, such as a pong.
    ///
    /// # Errors
    /// When too many wait already: the peer asks and does not read.
    pub(super) fn queue(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let (head, used) = frame_head(opcode, payload.len());
        let mut frame = Vec::with_capacity(used + payload.len());
        frame.extend_from_slice(&head[head.len() - used..]);
        frame.extend_from_slice(payload);
        self.queue_frame(SharedPacket::from(frame))
    }

    /// Queues a frame.
    pub(super) fn queue_frame(&mut self, frame: SharedPacket) -> io::Result<()> {
        if self.out.len() >= MAX_WAITING {
            return Err(io::Error::other("the peer does not take the answers to what it sends"));
        }
        self.out.push_back(frame);
        Ok(())
    }

    /// Begins to close: what was queued and the close frame still go out.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Closing { sweeps_left: 3, shut: false, agreed: false, deaf: false });
        // A full queue means that the peer does not read: it learns nothing then.
        drop(self.queue(Opcode::Close, &close_payload(code, reason)));
    }

    /// As [`Self::close`], of a peer of whom nothing more can be understood.
    pub(super) fn close_deaf(&mut self, code: CloseCode, reason: &str) {
        self.close(code, reason);
        if let Some(closing) = &mut self.closing {
            closing.deaf = true;
        }
    }

    /// Answers a peer that ends the connection.
    pub(super) fn agree(&mut self, code: Option<u16>) {
        if let Some(closing) = &mut self.closing {
            (closing.agreed, closing.deaf) = (true, true);
            return;
        }
        self.closing = Some(Closing { sweeps_left: 3, shut: false, agreed: true, deaf: true });
        let payload = code.map(u16::to_be_bytes);
        drop(self.queue(Opcode::Close, payload.as_ref().map_or(&[][..], |code| &code[..])));
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> io::Result<Wrote> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.out) {
                let skip = if count == 0 { self.out_at } else { 0 };
                *slice = IoSlice::new(&frame[skip..]);
                count += 1;
            }
            let written = write(|| self.socket.write_vectored(&slices[..count]))?;
            let Some(mut written) = written else {
                self.blocked = true;
                return Ok(Wrote::Some);
            };
            while let Some(first) = self.out.front() {
                let left = first.len() - self.out_at;
                if written < left {
                    self.out_at += written;
                    break;
                }
                written -= left;
                self.out_at = 0;
                self.out.pop_front();
            }
        }
        if let Some(closing) = &mut self.closing
            && !closing.shut
        {
            closing.shut = true;
            drop(self.socket.shutdown(Shutdown::Write));
        }
        // An idle subscriber keeps no queue.
        self.out = VecDeque::new();
        Ok(Wrote::All)
    }

    /// Writes one run of bytes; what does not go out waits, by reference. Nothing may be waiting already.
    pub(super) fn send(&mut self, frame: &SharedPacket) -> io::Result<Wrote> {
        let written = write(|| self.socket.write(frame))?;
        match written {
            Some(written) if written == frame.len() => Ok(Wrote::All),
            _ => {
                self.blocked = true;
                self.out.push_back(frame.clone());
                self.out_at = written.unwrap_or(0);
                Ok(Wrote::Some)
            }
        }
    }

    /// Writes several frames by reference.
    pub(super) fn send_all(&mut self, frames: &[SharedPacket]) -> io::Result<Wrote> {
        self.out.extend(frames.iter().cloned());
        self.flush()
    }

    /// Whether it has ended on both sides.
    pub(super) fn is_over(&self) -> bool {
        self.closing.is_some_and(|closing| closing.shut && closing.agreed)
    }
}

/// `None`: the kernel takes nothing.
fn write(mut attempt: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match attempt() {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(Some(written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
