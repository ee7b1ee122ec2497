//! Straightway: a cache node whose bytes go straight through, from disk to socket.
//!
//! This library is what the `straightway` program is made of, and a facade over its crates: [`cache`], [`packet`] and
//! [`buffer`].
//! [`node::run`] starts a node from checked settings; [`node::Node`] is the same for programs that hold one.
//!
//! Arrows point down: [`cli`] → [`node`], [`client`], [`mod@bench`], [`probe`] → [`mod@server`], [`admin`] → [`mod@http`] → [`state`] → [`counters`], [`config`].
#![forbid(unsafe_code)]

pub mod admin;
mod auth;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod counters;
pub mod feed;
pub mod http;
mod member;
pub mod node;
pub mod probe;
pub mod server;
pub mod state;

pub use straightway_buffer as buffer;
pub use straightway_cache as cache;
pub use straightway_cluster as cluster;
pub use straightway_codec as codec;
pub use straightway_packet as packet;
pub use straightway_wire as wire;
