//! WebSocket (RFC 6455) without a socket: frames, closing, the handshake's decisions, and compression (RFC 7692).
//!
//! A server's frame is not masked, and therefore the same for every client: it is written once, in front of the message
//! in the same buffer ([`put_head`]), and shared. No library for Rust does that, which is why this layer is written here.
mod close;
mod deflate;
mod frame;
mod handshake;
mod reader;

pub use close::{CloseCode, close_payload};
pub use deflate::{deflate, inflate};
pub use frame::{MAX_HEAD_BYTES, Opcode, frame_head, mask, put_head, put_head_deflated};
pub use handshake::{
    DEFLATE_ANSWER, HandshakeError, accept_key, check_key, offers_deflate, tokens,
};
pub use reader::{FrameReader, Incoming, Limits, Role, Violation};
