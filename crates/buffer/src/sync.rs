//! The only door to atomics and locks, so that loom can take the place of the standard ones.
#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Runs `act` with what the lock guards. Nothing that is locked here can be left half changed by a panic, so that a
/// poisoned lock is as good as any.
#[cfg(loom)]
pub(crate) fn with<T, R>(mutex: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    let mut guard = mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    act(&mut guard)
}

#[cfg(not(loom))]
pub(crate) use parking_lot::Mutex;

/// Runs `act` with what the lock guards.
#[cfg(not(loom))]
pub(crate) fn with<T, R>(mutex: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    act(&mut mutex.lock())
}
