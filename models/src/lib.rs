//! The lock-free parts of the crates, explored by loom in every interleaving.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --package models
//! ```
//! The sources are the crates' own files; each holds its model beside the code. They are compiled here alone, because
//! async runtimes change under `--cfg loom`.
//!
//! `lease_model` is no source of a crate: it is the protocol of the serve lease, explored in every order of events.
#![forbid(unsafe_code)]

#[cfg(test)]
mod lease_model;

#[cfg(all(test, loom))]
#[path = "../../crates/cache/src/index.rs"]
#[allow(dead_code, reason = "the cache calls what the models do not")]
mod index;

#[cfg(all(test, loom))]
#[path = "../../crates/cache/src/format/location.rs"]
#[allow(dead_code, reason = "the cache calls what the models do not")]
mod location;

#[cfg(all(test, loom))]
#[path = "../../crates/cache/src/segment/pin.rs"]
#[allow(dead_code, reason = "the cache calls what the models do not")]
mod pin;

#[cfg(all(test, loom))]
#[path = "../../crates/cache/src/sync.rs"]
mod sync;

#[cfg(all(test, loom))]
#[path = "../../crates/cluster/src/lease/gate.rs"]
#[allow(dead_code, unreachable_pub, reason = "the cluster calls what the models do not")]
mod gate;

#[cfg(all(test, loom))]
#[path = "../../crates/cluster/src/lease/time.rs"]
#[allow(dead_code, unreachable_pub, reason = "the cluster calls what the models do not")]
mod time;

// The paths by which the sources know each other in their crate.
#[cfg(all(test, loom))]
mod format {
    pub(crate) use crate::location;
}

#[cfg(all(test, loom))]
mod segment {
    pub(crate) use crate::pin;
}
