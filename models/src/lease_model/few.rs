//! A few things in place: states are copied and compared by the million.
use std::ops::{Deref, DerefMut};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Few<T, const N: usize> {
    len: u8,
    /// Beyond `len` always the default, so that equal lists are equal.
    items: [T; N],
}

impl<T: Copy + Default + Ord, const N: usize> Few<T, N> {
    pub(super) fn new() -> Self {
        Self { len: 0, items: [T::default(); N] }
    }

    /// Adds one. More than `N` do not occur within the bounds that are explored.
    pub(super) fn push(&mut self, item: T) {
        self.items[usize::from(self.len)] = item;
        self.len += 1;
    }

    /// Keeps some, in order and each once.
    pub(super) fn keep(&mut self, mut which: impl FnMut(&T) -> bool) {
        if self.is_empty() {
            return;
        }
        let mut before = *self;
        before.sort_unstable();
        *self = Self::new();
        for item in before.iter() {
            if which(item) && self.last() != Some(item) {
                self.push(*item);
            }
        }
    }
}

impl<T, const N: usize> Deref for Few<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..usize::from(self.len)]
    }
}

impl<T, const N: usize> DerefMut for Few<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..usize::from(self.len)]
    }
}
