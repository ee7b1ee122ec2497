//! Segments: runs of regions that are filled, pinned and freed as one.
pub(crate) mod pin;
pub(crate) mod space;
