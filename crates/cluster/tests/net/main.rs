//! The network on loopback: real QUIC, real handshakes.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]

mod doors;
mod joining;
mod lanes;
mod members;
#[path = "../ports/mod.rs"]
mod ports;
mod support;
mod transfers;
