//! The lock-free parts of the crates, explored by loom in every interleaving.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --package models
//! ```
//! The sources are the crates' own files; each holds its model beside the code. They are compiled here alone, because
//! async runtimes change under `--cfg loom`.
#![forbid(unsafe_code)]

#[cfg(all(test, loom))]
#[path = "../../crates/cache/src/segment/pin.rs"]
mod pin;

#[cfg(all(test, loom))]
#[path = "../../crates/cache/src/sync.rs"]
mod sync;
