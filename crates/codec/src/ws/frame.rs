//! Writing frames.
use straightway_buffer::PooledBuffer;

use crate::error::CodecError;

/// What a frame is (RFC 6455 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further piece of a message.
    Continuation = 0,
    /// Text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The end.
    Close = 8,
    /// Answer me.
    Ping = 9,
    /// The answer.
    Pong = 10,
}

/// Longest head of a frame that is not masked.
pub const MAX_HEAD_BYTES: usize = 10;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// The head of an unmasked frame, right-aligned: the last bytes of the array. Answers with their number.
fn head(first: u8, len: usize) -> ([u8; MAX_HEAD_BYTES], usize) {
    let mut head = [0; MAX_HEAD_BYTES];
    let used = match len {
        0..=125 => {
            head[9] = u8::try_from(len).unwrap_or(125);
            2
        }
        126..=0xffff => {
            head[7] = 126;
            head[8..].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    head[MAX_HEAD_BYTES - used] = first;
    (head, used)
}

/// The head of a final, unmasked frame of `len` bytes; answers with the array and the number of its last bytes that
/// count.
pub fn frame_head(opcode: Opcode, len: usize) -> ([u8; MAX_HEAD_BYTES], usize) {
    head(FIN | opcode as u8, len)
}

/// Makes a buffer's content one final, unmasked frame, in place: its head is written into the room in front.
///
/// # Errors
/// [`CodecError::Buffer`] when there is less room in front than [`MAX_HEAD_BYTES`].
pub fn put_head(buffer: &mut PooledBuffer, opcode: Opcode) -> Result<(), CodecError> {
    put(buffer, FIN | opcode as u8)
}

/// As [`put_head`], for content that [`super::deflate()`] made.
pub fn put_head_deflated(buffer: &mut PooledBuffer, opcode: Opcode) -> Result<(), CodecError> {
    put(buffer, FIN | RSV1 | opcode as u8)
}

fn put(buffer: &mut PooledBuffer, first: u8) -> Result<(), CodecError> {
    let (head, used) = head(first, buffer.len());
    buffer.prepend(used)?.copy_from_slice(&head[MAX_HEAD_BYTES - used..]);
    Ok(())
}

/// Masks or unmasks (RFC 6455 §5.3); `at` is the position of the first byte in its frame.
///
/// ```
/// let mut text = *b"Hello";
/// straightway_codec::ws::mask(&mut text, [0x37, 0xfa, 0x21, 0x3d], 0);
/// assert_eq!(text, [0x7f, 0x9f, 0x4d, 0x51, 0x58]); // RFC 6455 §5.7
/// ```
pub fn mask(bytes: &mut [u8], key: [u8; 4], at: usize) {
    let turned: [u8; 4] = std::array::from_fn(|n| key[(n + at) % 4]);
    let word = u64::from_ne_bytes(std::array::from_fn(|n| turned[n % 4]));
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (n, byte) in rest.iter_mut().enumerate() {
        *byte ^= turned[n % 4];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use straightway_buffer::{BufferPool, PoolConfig};

    #[test]
    fn lengths_take_the_shortest_form() {
        for (len, used) in [(0, 2), (125, 2), (126, 4), (0xffff, 4), (0x1_0000, 10), (1 << 40, 10)]
        {
            let (head, n) = frame_head(Opcode::Binary, len);
            assert_eq!((n, head[MAX_HEAD_BYTES - n]), (used, 0x82), "{len}");
        }
        assert_eq!(frame_head(Opcode::Text, 256).0[6..], [0x81, 126, 1, 0]);
    }

    #[test]
    fn a_head_goes_in_front_without_moving_the_message() {
        let pool = BufferPool::new(PoolConfig::tiered()).expect("a pool");
        let mut buffer = pool.acquire(400).expect("a buffer");
        buffer.set_headroom(16).expect("room");
        buffer.set_len(300).expect("room");
        let before = buffer.as_ptr();
        put_head(&mut buffer, Opcode::Binary).expect("room");
        assert_eq!((&buffer[..4], buffer.len()), (&[0x82, 126, 1, 44][..], 304));
        assert_eq!(buffer[4..].as_ptr(), before);
        let mut without = pool.acquire(8).expect("a buffer");
        without.set_len(8).expect("room");
        assert!(put_head(&mut without, Opcode::Binary).is_err());
    }

    proptest! {
        #[test]
        fn masking_twice_changes_nothing_whatever_the_cuts(bytes in proptest::collection::vec(any::<u8>(), 0..100), key: [u8; 4], cut in any::<prop::sample::Index>()) {
            let mut masked = bytes.clone();
            mask(&mut masked, key, 0);
            for (n, (masked, plain)) in masked.iter().zip(&bytes).enumerate() {
                prop_assert_eq!(*masked, plain ^ key[n % 4]);
            }
            let cut = if bytes.is_empty() { 0 } else { cut.index(bytes.len()) };
            let (front, back) = masked.split_at_mut(cut);
            mask(front, key, 0);
            mask(back, key, cut);
            prop_assert_eq!(masked, bytes);
        }
    }
}
