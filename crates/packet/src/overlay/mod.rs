//! Overlay messages: how nodes find each other's distance, and carry frames for each other.
//!
//! A message is an Ethernet frame of its own kind. All numbers are big-endian.
//!
//! ```text
//! 0  6 to       6  6 from     12  2 marker 0x3030     14  1 type: 0 control, 1 data      15  1 subtype
//! control 0  heartbeat        16 16 duration, ms     32  4 id    36  4 hops    40  6 source             46 bytes
//! control 1  heartbeat reply  as a heartbeat, then   46  6 sender                                       52 bytes
//! data    0  to upstream      16  6 origin           22  n payload                                  22 + n bytes
//! data    1  to downstream    16  6 origin           22  6 destination         28  n payload        28 + n bytes
//! ```
//! Parsing borrows the payload from the input; writing goes once over the output. The nested form (a vector of the
//! fields' vectors) is kept for those who have it, and gives the same bytes.
mod control;
mod data;
mod message;
mod nested;
mod reply;

pub use control::{Control, Heartbeat, HeartbeatReply};
pub use data::{Data, ToDownstream, ToUpstream};
pub use message::{MARKER, Message, PacketType};
pub use reply::{Destination, ReplyType};

use crate::error::PacketError;

#[cold]
fn too_short(layer: &'static str, needed: usize, have: usize) -> PacketError {
    PacketError::Truncated { layer, needed, have }
}
