//! The only door to atomics and locks, so that loom can take the place of the standard ones.
#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use parking_lot::Mutex;
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
};

/// Runs `act` with what the lock guards. Nothing that is locked here can be left half changed by a panic, so that a
/// poisoned lock is as good as any.
#[cfg(loom)]
pub(crate) fn with<T, R>(mutex: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    let mut guard = mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    act(&mut guard)
}

/// Runs `act` with what the lock guards.
#[cfg(not(loom))]
pub(crate) fn with<T, R>(mutex: &Mutex<T>, act: impl FnOnce(&mut T) -> R) -> R {
    act(&mut mutex.lock())
}

/// Stands for a block's bytes under loom, which cannot watch raw memory: a read and a write that could meet are a
/// failure of the model. Nothing otherwise.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    #[cfg(loom)]
    cell: loom::cell::UnsafeCell<()>,
}

#[cfg_attr(
    not(loom),
    expect(clippy::unused_self, reason = "there is something to watch under loom only")
)]
impl Witness {
    pub(crate) fn read(&self) {
        #[cfg(loom)]
        self.cell.with(|_| ());
    }

    pub(crate) fn write(&self) {
        #[cfg(loom)]
        self.cell.with_mut(|_| ());
    }
}
