//! Members in one process, on stores in memory that fail as they are told to.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod fetches;
#[path = "../ports/mod.rs"]
mod ports;
mod puts;
mod repairs;
mod support;
