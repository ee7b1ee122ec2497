//! Many datagrams at once.
mod pacer;

pub use pacer::Pacer;
