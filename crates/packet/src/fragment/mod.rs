//! Fragments of IP packets: made, and put together again within bounds.
mod pieces;
mod reassemble;
mod rules;
mod split;

pub use reassemble::{Limits, Outcome, Reassembler, ReassemblyStats};
pub use split::{fragment_v4, fragment_v6};
