//! Size classes.

/// The sizes that a [`crate::LargeBufferPool`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BufferTier {
    /// 4 KiB.
    Small,
    /// 16 KiB.
    Medium,
    /// 64 KiB.
    Large,
}

impl BufferTier {
    /// All tiers, smallest first.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// Bytes in a buffer of this tier.
    pub const fn size(self) -> usize {
        match self {
            Self::Small => 4 * 1024,
            Self::Medium => 16 * 1024,
            Self::Large => 64 * 1024,
        }
    }

    /// The smallest tier that holds `len` bytes; a length equal to a tier's size fits it. `None` above 64 KiB.
    ///
    /// ```
    /// # use straightway_buffer::BufferTier;
    /// assert_eq!(BufferTier::for_size(4096), Some(BufferTier::Small));
    /// assert_eq!(BufferTier::for_size(4097), Some(BufferTier::Medium));
    /// assert_eq!(BufferTier::for_size(65_537), None);
    /// ```
    pub fn for_size(len: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| len <= tier.size())
    }
}
