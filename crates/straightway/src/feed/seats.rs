//! Places for subscribers: promised before a connection is upgraded, taken with the socket.
use std::net::{IpAddr, TcpStream as StdTcpStream};

use bytes::Bytes;
use straightway_codec::Agreed;
use straightway_codec::event::Subscribe;

use super::filter::{BadFilter, Filter};
use super::publish::{Feed, Seat};

/// What the feed does, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedStats {
    /// Subscribers now.
    pub subscribers: u64,
    /// Server-sent event streams now.
    pub streams: u64,
    /// The offset that the next event gets.
    pub head: u64,
    /// Events published.
    pub events: u64,
    /// Events kept for those who resume.
    pub history_events: u64,
    /// Their bytes.
    pub history_bytes: u64,
    /// Subscribers accepted.
    pub accepted: u64,
    /// Subscribers refused for want of room.
    pub refused: u64,
    /// Events handed to sockets.
    pub deliveries: u64,
    /// Bytes handed to sockets.
    pub sent_bytes: u64,
    /// Writes that took.
    pub writes: u64,
    /// Gaps told.
    pub gaps: u64,
    /// Events not sent because their lifetime had ended.
    pub expired: u64,
    /// Urgent events that went ahead of others.
    pub overtaken: u64,
    /// Subscribers disconnected because they fell behind and had asked for it.
    pub lagging_closed: u64,
    /// Subscribers disconnected because they broke the protocol or a limit.
    pub violations: u64,
    /// Subscribers disconnected because nothing was heard of them.
    pub silent: u64,
    /// Events written as JSON.
    pub json_encoded: u64,
    /// JSON texts deflated.
    pub deflated: u64,
    /// Events compressed.
    pub zstd_encoded: u64,
    /// Times that JSON was used in place of rkyv.
    pub fallbacks: u64,
    /// Peers that went back to rkyv.
    pub fallbacks_recovered: u64,
}

/// A connection that was upgraded, with what was agreed on.
#[derive(Debug)]
pub struct Subscriber {
    /// The socket.
    pub stream: StdTcpStream,
    /// Bytes that were read beyond the request.
    pub unread: Bytes,
    /// Encoding and compression.
    pub agreed: Agreed,
    /// Whether permessage-deflate was agreed on.
    pub deflate: bool,
    /// What it wants to hear.
    pub wanted: Subscribe,
}

#[derive(Debug)]
pub(super) struct Joining {
    pub(super) subscriber: Subscriber,
    pub(super) filter: Filter,
    /// The offset of the next event when the place was promised: from then on nothing is missed.
    pub(super) since: u64,
    pub(super) seat: Seat,
}

/// A place that was promised to a subscriber before its connection was upgraded.
#[derive(Debug)]
pub struct Reserved {
    filter: Filter,
    since: u64,
    seat: Seat,
}

impl Reserved {
    /// The offset of the first event that its holder hears, unless it asks for earlier ones.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }
}

impl Feed {
    /// Promises a place to a subscriber from `address`; it hears everything that happens from now on.
    ///
    /// # Errors
    /// The filter makes no sense. `Ok(None)`: there is no room.
    pub fn reserve(
        &self,
        wanted: &Subscribe,
        address: Option<IpAddr>,
    ) -> Result<Option<Reserved>, BadFilter> {
        let filter = Filter::of(wanted)?;
        if self.is_stopping() {
            return Ok(None);
        }
        let since = self.head();
        Ok(self.shared.seat(address).map(|seat| Reserved { filter, since, seat }))
    }

    /// Hands a subscriber to the feed's thread.
    pub fn join(&self, reserved: Reserved, subscriber: Subscriber) {
        let Reserved { filter, since, seat } = reserved;
        // Bounded by the seats.
        if let Some(joining) = self.shared.joining.lock().as_mut() {
            joining.push(Joining { subscriber, filter, since, seat });
        }
        self.shared.wake();
    }
}
