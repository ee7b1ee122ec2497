//! What needs unsafe code: the mapping, and the system calls that no safe crate wraps.
pub(crate) mod mapping;
pub(crate) mod residency;
#[cfg(target_os = "linux")]
pub(crate) mod ring;
#[cfg(any(target_os = "macos", target_os = "freebsd"))]
pub(crate) mod sendfile;
