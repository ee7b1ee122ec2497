//! The memory itself: the only place in this crate with unsafe code.
pub(crate) mod block;
