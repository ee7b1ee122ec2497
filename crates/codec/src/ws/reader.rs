//! Reading frames: bytes in, messages out, in pieces of any size.
//!
//! A message that arrives whole is unmasked where it lies and handed on from there; one that does not is gathered, up to
//! the limit. Nothing is kept while nothing is under way, so that an idle connection costs no buffer.
use std::fmt;

use super::close::{CloseCode, may_be_sent};
use super::deflate::inflate;
use super::frame::mask;

/// Which side this is: a server's peer masks its frames, a client's does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads what clients send.
    Server,
    /// Reads what servers send.
    Client,
}

/// What a peer may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a message, after decompression.
    pub max_message: usize,
    /// Frames of a message.
    pub max_fragments: u32,
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// Asks for a pong with the same payload.
    Ping(&'a [u8]),
    /// Answers a ping.
    Pong(&'a [u8]),
    /// Ends the connection, with a code and reason if it gave them.
    Close(Option<(u16, &'a str)>),
}

/// What a peer did that ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The code to close with.
    pub code: CloseCode,
    /// What it did.
    pub what: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.code as u16)
    }
}

impl std::error::Error for Violation {}

/// Reads one connection's frames.
#[derive(Debug)]
pub struct FrameReader {
    role: Role,
    limits: Limits,
    deflate: bool,
    head: [u8; 14],
    head_len: u8,
    /// The frame whose payload is being read.
    frame: Option<Frame>,
    /// Payload of a control frame that did not arrive whole.
    control: Vec<u8>,
    message: Vec<u8>,
    under_way: Option<Message>,
    /// What was gathered has been handed out: it goes with the next call.
    message_done: bool,
    control_done: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    fin: bool,
    opcode: u8,
    key: Option<[u8; 4]>,
    len: usize,
    done: usize,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    text: bool,
    deflated: bool,
    fragments: u32,
    /// Bytes of text found to be UTF-8.
    checked: usize,
}

fn protocol(what: &'static str) -> Violation {
    Violation { code: CloseCode::Protocol, what }
}

const NOT_UTF8: Violation =
    Violation { code: CloseCode::InvalidPayload, what: "text that is not UTF-8" };
const TOO_BIG: Violation = Violation { code: CloseCode::TooBig, what: "a message over the limit" };

impl FrameReader {
    /// A reader at the start of a connection. `deflate`: permessage-deflate was agreed on, without context takeover.
    pub fn new(role: Role, limits: Limits, deflate: bool) -> Self {
        Self {
            role,
            limits,
            deflate,
            head: [0; 14],
            head_len: 0,
            frame: None,
            control: Vec::new(),
            message: Vec::new(),
            under_way: None,
            message_done: false,
            control_done: false,
        }
    }

    /// The reader itself; what is left behind is one at the start of a connection. For owners that lend themselves while
    /// they look at what was read.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let fresh = Self::new(self.role, self.limits, self.deflate);
        std::mem::replace(self, fresh)
    }

    /// Whether a message or frame is incomplete.
    pub fn is_under_way(&self) -> bool {
        self.head_len > 0 || self.frame.is_some() || self.under_way.is_some()
    }

    /// Takes bytes from the front of `input`, at most to the end of one message or control frame. Answers with how many
    /// were taken and what they completed; is to be called again while there are bytes left. Unmasks `input` in place.
    ///
    /// # Errors
    /// A [`Violation`] ends the connection: nothing is to be read from it any more.
    pub fn read<'a>(
        &'a mut self,
        input: &'a mut [u8],
    ) -> Result<(usize, Option<Incoming<'a>>), Violation> {
        if std::mem::take(&mut self.message_done) {
            self.message = Vec::new();
        }
        if std::mem::take(&mut self.control_done) {
            self.control = Vec::new();
        }
        let mut taken = 0;
        loop {
            let mut frame = if let Some(frame) = self.frame {
                frame
            } else {
                let (used, frame) = self.read_head(&input[taken..])?;
                taken += used;
                let Some(frame) = frame else { return Ok((taken, None)) };
                frame
            };
            let start = taken;
            let len = (frame.len - frame.done).min(input.len() - start);
            taken += len;
            if let Some(key) = frame.key {
                mask(&mut input[start..taken], key, frame.done);
            }
            let whole_at_once = frame.done == 0 && len == frame.len;
            frame.done += len;
            let complete = frame.done == frame.len;
            self.frame = (!complete).then_some(frame);
            if frame.opcode >= 8 {
                if whole_at_once {
                    return control(frame.opcode, &input[start..taken]).map(|it| (taken, Some(it)));
                }
                self.control.extend_from_slice(&input[start..taken]);
                if !complete {
                    return Ok((taken, None));
                }
                self.control_done = true;
                return control(frame.opcode, &self.control).map(|it| (taken, Some(it)));
            }
            let Some(mut message) = self.under_way else { return Err(protocol("a lost message")) };
            let single = whole_at_once && frame.fin && self.message.is_empty();
            if single && !message.deflated {
                self.under_way = None;
                let payload = &input[start..taken];
                return Ok((taken, Some(data(message.text, payload)?)));
            }
            self.message.extend_from_slice(&input[start..taken]);
            if message.text && !message.deflated {
                message.checked = check_text(&self.message, message.checked)?;
            }
            self.under_way = Some(message);
            if complete && frame.fin {
                return self.finish(message).map(|it| (taken, Some(it)));
            }
            if !complete || taken == input.len() {
                return Ok((taken, None));
            }
        }
    }

    fn finish(&mut self, message: Message) -> Result<Incoming<'_>, Violation> {
        self.under_way = None;
        self.message_done = true;
        if message.deflated {
            self.message = inflate(&self.message, self.limits.max_message)?;
        } else if message.text && message.checked < self.message.len() {
            return Err(NOT_UTF8);
        }
        data(message.text, &self.message)
    }

    /// Gathers a frame's head; `None` while it is incomplete.
    fn read_head(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), Violation> {
        let mut taken = 0;
        loop {
            let have = usize::from(self.head_len);
            if have >= 2 {
                self.check_first_two()?;
            }
            let needed = head_len(&self.head[..have]);
            if have == needed {
                self.head_len = 0;
                let frame = self.parse_head(needed)?;
                return Ok((taken, Some(frame)));
            }
            let more = (needed - have).min(input.len() - taken);
            if more == 0 {
                return Ok((taken, None));
            }
            self.head[have..have + more].copy_from_slice(&input[taken..taken + more]);
            taken += more;
            self.head_len += u8::try_from(more).unwrap_or(0);
        }
    }

    /// What can be refused before the rest of the head is there.
    fn check_first_two(&self) -> Result<(), Violation> {
        let [first, second] = [self.head[0], self.head[1]];
        let (fin, rsv1, opcode) = (first & 0x80 != 0, first & 0x40 != 0, first & 0x0f);
        let control = opcode >= 8;
        if first & 0x30 != 0 || rsv1 && !self.deflate {
            return Err(protocol("a reserved bit without an extension that gives it a meaning"));
        }
        if !matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10) {
            return Err(protocol("a reserved opcode"));
        }
        if control && (!fin || rsv1) {
            return Err(protocol("a control frame in pieces or compressed"));
        }
        if control && second & 0x7f > 125 {
            return Err(protocol("a control frame of more than 125 bytes"));
        }
        match (opcode, &self.under_way) {
            (0, None) => return Err(protocol("a continuation of nothing")),
            (0, Some(_)) if rsv1 => return Err(protocol("a compressed bit inside a message")),
            (1 | 2, Some(_)) => return Err(protocol("a new message inside another")),
            _ => {}
        }
        match (self.role, second & 0x80 != 0) {
            (Role::Server, false) => Err(protocol("a frame that is not masked")),
            (Role::Client, true) => Err(protocol("a masked frame from a server")),
            _ => Ok(()),
        }
    }

    fn parse_head(&mut self, needed: usize) -> Result<Frame, Violation> {
        let head = &self.head[..needed];
        let (fin, rsv1, opcode) = (head[0] & 0x80 != 0, head[0] & 0x40 != 0, head[0] & 0x0f);
        let (len, key_at) = match head[1] & 0x7f {
            126 => (u64::from(u16::from_be_bytes([head[2], head[3]])), 4),
            127 => {
                let bytes: [u8; 8] = std::array::from_fn(|n| head[2 + n]);
                (u64::from_be_bytes(bytes), 10)
            }
            short => (u64::from(short), 2),
        };
        if len >> 63 != 0 {
            return Err(protocol("a length beyond 63 bits"));
        }
        if key_at == 4 && len < 126 || key_at == 10 && len <= 0xffff {
            return Err(protocol("a length that is not in its shortest form"));
        }
        let key = (head[1] & 0x80 != 0).then(|| std::array::from_fn(|n| head[key_at + n]));
        if opcode < 8 {
            // Before a byte of it is kept.
            let room = self.limits.max_message - self.message.len().min(self.limits.max_message);
            if len > room as u64 {
                return Err(TOO_BIG);
            }
            let mut message = self.under_way.unwrap_or(Message {
                text: opcode == 1,
                deflated: rsv1,
                fragments: 0,
                checked: 0,
            });
            message.fragments += 1;
            if message.fragments > self.limits.max_fragments {
                return Err(Violation {
                    code: CloseCode::Policy,
                    what: "a message in too many frames",
                });
            }
            self.under_way = Some(message);
        }
        let len = usize::try_from(len).map_err(|_| TOO_BIG)?;
        Ok(Frame { fin, opcode, key, len, done: 0 })
    }
}

/// Bytes of a head, as far as its first bytes tell.
fn head_len(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 != 0 { 4 } else { 0 }
}

fn data(text: bool, payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    if text {
        simdutf8::basic::from_utf8(payload).map(Incoming::Text).map_err(|_| NOT_UTF8)
    } else {
        Ok(Incoming::Binary(payload))
    }
}

fn control(opcode: u8, payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    match opcode {
        9 => Ok(Incoming::Ping(payload)),
        10 => Ok(Incoming::Pong(payload)),
        _ if payload.is_empty() => Ok(Incoming::Close(None)),
        _ => {
            let (code, reason) =
                payload.split_first_chunk::<2>().ok_or(protocol("a close frame of one byte"))?;
            let code = u16::from_be_bytes(*code);
            if !may_be_sent(code) {
                return Err(protocol("a close code that must not be sent"));
            }
            let reason = simdutf8::basic::from_utf8(reason).map_err(|_| NOT_UTF8)?;
            Ok(Incoming::Close(Some((code, reason))))
        }
    }
}

/// Checks text from where it was checked before; answers with how far it is good. An incomplete last character is.
fn check_text(text: &[u8], checked: usize) -> Result<usize, Violation> {
    match simdutf8::compat::from_utf8(&text[checked..]) {
        Ok(_) => Ok(text.len()),
        Err(error) if error.error_len().is_none() => Ok(checked + error.valid_up_to()),
        Err(_) => Err(NOT_UTF8),
    }
}
