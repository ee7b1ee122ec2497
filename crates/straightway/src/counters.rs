//! What the data listeners count. Each network thread has its own counters, so that counting never makes two cores
//! share a cache line; a reader adds them up.
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, StatusCode};

/// Methods that are counted by name; all others go under `other`.
pub const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "DELETE", "PURGE", "other"];

/// Statuses that are counted by number; all others go under `0`.
pub const STATUSES: [u16; 19] =
    [200, 201, 204, 206, 304, 400, 401, 404, 405, 411, 412, 413, 415, 416, 431, 500, 503, 507, 0];

/// Upper bounds of the latency histogram's buckets, in seconds. One more bucket takes what is slower.
pub const LATENCY_BOUNDS: [f64; 14] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3, 500e-3, 1.0, 5.0, 30.0,
];

const LATENCY_BOUNDS_NS: [u64; 14] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
];

/// The upper bound of a bucket in microseconds; a minute for the last, which has none.
pub(crate) fn latency_bound_us(bucket: usize) -> u64 {
    LATENCY_BOUNDS_NS.get(bucket).map_or(60_000_000, |ns| ns / 1000)
}

/// Why the node ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// No request came.
    Idle,
    /// A request head took too long.
    Header,
    /// A transfer made no progress.
    Stalled,
    /// The bytes being sent were no longer wanted there, or found damaged.
    Revoked,
}

/// Adds to a counter that only the calling thread writes: no locked instruction, which a hot path would feel.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// The counters of one network thread, kept apart from its neighbours' by a whole pair of cache lines. Only that thread
/// writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Shard {
    requests: [[AtomicU64; STATUSES.len()]; METHODS.len()],
    latency: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    latency_sum_ns: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) closed: AtomicU64,
    cuts: [AtomicU64; 4],
    pub(crate) flattened_bytes: AtomicU64,
    pub(crate) mapped_bytes_refused: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) aborted_responses: AtomicU64,
    pub(crate) tls_failures: AtomicU64,
}

impl Shard {
    pub(crate) fn count_request(&self, method: &Method, status: StatusCode) {
        let method = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::PUT => 2,
            Method::DELETE => 3,
            _ if method.as_str() == "PURGE" => 4,
            _ => 5,
        };
        let status = STATUSES
            .iter()
            .position(|known| *known == status.as_u16())
            .unwrap_or(STATUSES.len() - 1);
        bump(&self.requests[method][status], 1);
    }

    pub(crate) fn count_latency(&self, ns: u64) {
        let bucket = LATENCY_BOUNDS_NS.partition_point(|bound| *bound < ns);
        bump(&self.latency[bucket], 1);
        bump(&self.latency_sum_ns, ns);
    }

    pub(crate) fn count_cut(&self, cut: Cut) {
        bump(&self.cuts[cut as usize], 1);
    }

    pub(crate) fn add_to(&self, total: &mut HttpStats) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (sums, counters) in total.requests.iter_mut().zip(&self.requests) {
            for (sum, counter) in sums.iter_mut().zip(counters) {
                *sum += read(counter);
            }
        }
        for (sum, counter) in total.latency.iter_mut().zip(&self.latency) {
            *sum += read(counter);
        }
        total.latency_sum_ns += read(&self.latency_sum_ns);
        // Closed first: a connection that closes in between is then counted as open, never as minus one.
        total.connections_closed += read(&self.closed);
        total.connections_accepted += read(&self.accepted);
        let [idle, header, stalled, revoked] = &self.cuts;
        total.cut_idle += read(idle);
        total.cut_header += read(header);
        total.cut_stalled += read(stalled);
        total.cut_revoked += read(revoked);
        total.flattened_bytes += read(&self.flattened_bytes);
        total.mapped_bytes_refused += read(&self.mapped_bytes_refused);
        total.received_bytes += read(&self.received_bytes);
        total.sent_bytes += read(&self.sent_bytes);
        total.aborted_responses += read(&self.aborted_responses);
        total.tls_failures += read(&self.tls_failures);
    }
}

/// The data listeners' counters at one moment.
#[derive(Debug, Clone, Default)]
pub struct HttpStats {
    /// Requests by method ([`METHODS`]) and status ([`STATUSES`]).
    pub requests: [[u64; STATUSES.len()]; METHODS.len()],
    /// Answers by time taken, one bucket for each of [`LATENCY_BOUNDS`] and one for what is slower.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// Sum of the time taken, in nanoseconds.
    pub latency_sum_ns: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections ended.
    pub connections_closed: u64,
    /// Connections closed because no request came.
    pub cut_idle: u64,
    /// Connections closed because a request head took too long.
    pub cut_header: u64,
    /// Connections closed because a transfer made no progress.
    pub cut_stalled: u64,
    /// Connections closed because their bytes were taken back or found damaged.
    pub cut_revoked: u64,
    /// Body bytes that hyper copied together with a head although they lay in the mapping. Must stay 0.
    pub flattened_bytes: u64,
    /// Mapped bytes that reached the TLS layer and were refused there. Must stay 0.
    pub mapped_bytes_refused: u64,
    /// Body bytes taken in by PUT.
    pub received_bytes: u64,
    /// Bytes handed to sockets, heads included.
    pub sent_bytes: u64,
    /// Answers that ended before their last byte.
    pub aborted_responses: u64,
    /// TLS handshakes that failed.
    pub tls_failures: u64,
}

impl HttpStats {
    /// Requests of all methods and statuses.
    pub fn requests_total(&self) -> u64 {
        self.requests.iter().flatten().sum()
    }

    /// Connections that are open.
    pub fn connections_open(&self) -> u64 {
        self.connections_accepted.saturating_sub(self.connections_closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_say_the_same_in_both_units() {
        for (seconds, ns) in LATENCY_BOUNDS.into_iter().zip(LATENCY_BOUNDS_NS) {
            assert!((seconds * 1e9 - ns as f64).abs() < 1.0, "{seconds} s and {ns} ns");
        }
    }

    #[test]
    fn a_request_lands_in_one_cell_and_one_bucket() {
        let shard = Shard::default();
        shard.count_request(&Method::PUT, StatusCode::CREATED);
        shard.count_request(&Method::PATCH, StatusCode::IM_A_TEAPOT);
        shard.count_latency(50_000);
        shard.count_latency(u64::MAX / 2);
        let mut total = HttpStats::default();
        shard.add_to(&mut total);
        assert_eq!(total.requests[2][1], 1);
        assert_eq!(total.requests[5][STATUSES.len() - 1], 1);
        assert_eq!(total.requests_total(), 2);
        assert_eq!((total.latency[0], total.latency[LATENCY_BOUNDS.len()]), (1, 1));
    }
}
