//! The live feed: what happens to objects, told to any number of subscribers as it happens.
//!
//! The log is the queue. An event is encoded and framed once (`ring`); a subscriber is a cursor into the ring
//! (`conn`), so that history, resuming, lag and bounded memory are one mechanism. One thread (`hub`) gives each
//! subscriber what it has not seen in one write, and never waits for any of them.
//!
//! *Knows:* the codec, sockets that were handed over. *Does not know:* the cache, but for its observer; HTTP.
mod conn;
mod filter;
mod hub;
mod limits;
mod publish;
mod ring;
mod seats;
mod session;
mod view;

pub(crate) use filter::from_query;
pub use filter::{BadFilter, Filter};
pub use limits::FeedLimits;
pub use publish::{Feed, FeedError};
pub(crate) use publish::{FeedObserver, StreamSeat, now_ms};
pub use seats::Reserved;
pub use seats::{FeedStats, Subscriber};
