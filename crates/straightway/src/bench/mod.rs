//! Load on a running node: requests on kept connections, counted and timed.
mod latency;
mod plan;
mod run;

pub use latency::Latencies;
pub use plan::{Mix, Options, Until};
pub use run::{Bench, Live, Outcome, Side};
