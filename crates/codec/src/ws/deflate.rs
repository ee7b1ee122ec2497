//! permessage-deflate (RFC 7692) without context takeover: each message stands alone, so that one compressed form serves
//! all subscribers and no connection keeps a window.
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use straightway_buffer::PooledBuffer;

use super::close::CloseCode;
use super::reader::Violation;

/// What ends a message's stream and is not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Appends the compressed form of a message; `false`: it would not be smaller, or does not fit, and nothing was appended.
pub fn deflate(plain: &[u8], into: &mut PooledBuffer) -> bool {
    let start = into.len();
    let end = (start + plain.len() + TAIL.len()).min(into.capacity());
    let mut stream = Compress::new(Compression::new(6), false);
    let room = &mut into.as_mut_capacity()[start..end];
    let done = stream.compress(plain, room, FlushCompress::Sync);
    let written = usize::try_from(stream.total_out()).unwrap_or(usize::MAX);
    let whole = matches!(done, Ok(Status::Ok))
        && stream.total_in() == plain.len() as u64
        && room.get(..written).is_some_and(|written| written.ends_with(&TAIL));
    let len = written.saturating_sub(TAIL.len());
    whole && len < plain.len() && into.set_len(start + len).is_ok()
}

/// The plain form of a compressed message, at most `limit` bytes.
///
/// # Errors
/// A [`Violation`] for what is no deflate stream, and for what becomes larger than the limit.
pub fn inflate(packed: &[u8], limit: usize) -> Result<Vec<u8>, Violation> {
    let broken =
        Violation { code: CloseCode::InvalidPayload, what: "a message that does not decompress" };
    let mut stream = Decompress::new(false);
    let mut plain =
        Vec::with_capacity((packed.len() * 4).clamp(256, limit.max(256)).min(64 * 1024));
    let mut inputs = [packed, &TAIL].into_iter();
    let mut input = inputs.next().unwrap_or_default();
    loop {
        let (before_in, before_out) = (stream.total_in(), plain.len());
        let status =
            stream.decompress_vec(input, &mut plain, FlushDecompress::Sync).map_err(|_| broken)?;
        if plain.len() > limit {
            return Err(Violation { code: CloseCode::TooBig, what: "a message over the limit" });
        }
        let used = usize::try_from(stream.total_in() - before_in).unwrap_or(usize::MAX);
        input = input.get(used..).unwrap_or_default();
        match status {
            // A final block: what follows begins a new stream (RFC 7692 §7.2.3.5), of which nothing may be left.
            Status::StreamEnd if input.is_empty() => return Ok(plain),
            Status::StreamEnd => stream.reset(false),
            _ if plain.len() == plain.capacity() => {
                let left = (limit - plain.len()).saturating_add(1);
                plain.reserve((plain.capacity() * 2).min(left).max(64));
            }
            _ if input.is_empty() => match inputs.next() {
                Some(next) => input = next,
                None => return Ok(plain),
            },
            _ if used == 0 && plain.len() == before_out => return Err(broken),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use straightway_buffer::{BufferPool, PoolConfig};

    fn packed(plain: &[u8]) -> Option<Vec<u8>> {
        let pool = BufferPool::new(PoolConfig::tiered()).expect("a pool");
        let mut buffer = pool.acquire(plain.len() + 64).expect("a buffer");
        deflate(plain, &mut buffer).then(|| buffer.to_vec())
    }

    #[test]
    fn the_examples_of_the_rfc_come_out() {
        // RFC 7692 §7.2.3.1 to §7.2.3.4: one block, stored, final, two blocks.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflate(&hello, 100), Ok(b"Hello".to_vec()));
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        assert_eq!(inflate(&stored, 100), Ok(b"Hello".to_vec()));
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        assert_eq!(inflate(&last, 100), Ok(b"Hello".to_vec()));
        let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflate(&two, 100), Ok(b"Hello".to_vec()));
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let bomb = packed(&vec![0; 60_000]).expect("smaller");
        assert!(bomb.len() < 200);
        let error = inflate(&bomb, 4096).expect_err("over the limit");
        assert_eq!(error.code, CloseCode::TooBig);
        assert_eq!(inflate(&bomb, 60_000).map(|plain| plain.len()), Ok(60_000));
        assert_eq!(inflate(&bomb, usize::MAX).map(|plain| plain.len()), Ok(60_000), "no limit");
    }

    proptest! {
        #[test]
        fn messages_come_back(words in proptest::collection::vec("[a-d]{1,6}", 1..400)) {
            let plain = words.join(" ");
            if let Some(packed) = packed(plain.as_bytes()) {
                prop_assert!(packed.len() < plain.len());
                prop_assert_eq!(inflate(&packed, plain.len()), Ok(plain.into_bytes()));
            }
        }

        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(plain) = inflate(&bytes, 1000) {
                prop_assert!(plain.len() <= 1000);
            }
        }
    }
}
