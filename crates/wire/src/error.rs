//! What can be wrong with bytes from the wire.
use thiserror::Error;

/// What can be wrong with bytes from the wire, or with their delivery.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WireError {
    /// Nothing yet.
    #[error("{0}")]
    Invalid(String),
}
