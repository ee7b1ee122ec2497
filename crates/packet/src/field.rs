//! Fields of headers whose length has been checked.

/// `N` bytes at an offset. The caller has measured; were it wrong, the field would read as zeros rather than panic.
/// Over arrays of known size the check disappears when inlined.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "it vanishes only when inlined: a header has a dozen fields"
)]
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(field) => *field,
        None => [0; N],
    }
}

/// A big-endian number of 16 bits.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(field(bytes, at))
}

/// A big-endian number of 32 bits.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

/// Fields written one behind the other into a slice that is long enough.
pub struct Writer<'a>(pub(crate) &'a mut [u8]);

impl Writer<'_> {
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let room = std::mem::take(&mut self.0);
        // As above: the caller has measured.
        if let Some((target, rest)) = room.split_at_mut_checked(bytes.len()) {
            target.copy_from_slice(bytes);
            self.0 = rest;
        }
    }
}
