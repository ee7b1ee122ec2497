//! Compression of payloads: off unless both sides say that they can, and only where it pays.
use bytes::Bytes;
use zstd::bulk;

use crate::error::WireError;
use crate::frame::Frame;
use crate::header::{Compressed, Compression, MessageHeader};
use crate::limits::Limits;

/// Feature bit of [`crate::Hello`]: the speaker reads payloads compressed with zstd.
pub const FEATURE_ZSTD: u64 = 1;
/// Feature bit of [`crate::Hello`]: the speaker reads payloads compressed with LZ4.
pub const FEATURE_LZ4: u64 = 2;
/// Shorter payloads are not worth the time.
pub const COMPRESS_FROM: usize = 4 << 10;

const LEVEL: i32 = 1;

/// Compresses payloads for one connection.
pub struct Compressor {
    codec: Compression,
    zstd: Option<bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl Compressor {
    /// What the features that both sides have allow, if anything: zstd before LZ4.
    ///
    /// # Errors
    /// [`WireError::Compression`] if zstd cannot be set up.
    pub fn agreed(features: u64) -> Result<Option<Self>, WireError> {
        if features & FEATURE_ZSTD != 0 {
            let zstd = bulk::Compressor::new(LEVEL)
                .map_err(|_| refused(Compression::Zstd, "cannot be made: no memory"))?;
            return Ok(Some(Self { codec: Compression::Zstd, zstd: Some(zstd) }));
        }
        let lz4 = features & FEATURE_LZ4 != 0;
        Ok(lz4.then_some(Self { codec: Compression::Lz4, zstd: None }))
    }

    /// The compressed payload, and in `header` how it was compressed; `None`: it goes as it is, because it is short or
    /// would not be smaller by an eighth.
    pub fn compress(&mut self, header: &mut MessageHeader, payload: &[u8]) -> Option<Bytes> {
        if payload.len() < COMPRESS_FROM || header.compressed.is_some() {
            return None;
        }
        let uncompressed_len = u32::try_from(payload.len()).ok()?;
        let most = payload.len() - payload.len().div_ceil(8);
        let smaller = if let Some(zstd) = &mut self.zstd {
            // Compressing ends where the room does.
            let mut smaller = Vec::with_capacity(most);
            zstd.compress_to_buffer(payload, &mut smaller).ok()?;
            smaller
        } else {
            lz4_flex::block::compress(payload)
        };
        if smaller.len() > most {
            return None;
        }
        header.compressed = Some(Compressed { codec: self.codec, uncompressed_len });
        Some(Bytes::from(smaller))
    }
}

/// Takes compressed payloads apart, of the kinds that were agreed on.
pub struct Decompressor {
    features: u64,
    zstd: Option<bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

impl Decompressor {
    /// For what the features that both sides have allow. Nothing is allocated before it is needed.
    pub fn new(features: u64) -> Self {
        Self { features, zstd: None }
    }

    /// The message as it was before it was compressed; one that was not is answered as it is. Takes no more memory than
    /// a message may have, whatever the payload claims.
    ///
    /// # Errors
    /// [`WireError::TooLarge`], [`WireError::Compression`].
    pub fn open(&mut self, message: Frame, limits: &Limits) -> Result<Frame, WireError> {
        let Frame { mut header, payload } = message;
        let Some(Compressed { codec, uncompressed_len }) = header.compressed.take() else {
            return Ok(Frame { header, payload });
        };
        if uncompressed_len > limits.max_message {
            let (len, limit) = (uncompressed_len.into(), limits.max_message.into());
            return Err(WireError::TooLarge { what: "an uncompressed message", len, limit });
        }
        let feature = match codec {
            Compression::Zstd => FEATURE_ZSTD,
            Compression::Lz4 => FEATURE_LZ4,
        };
        if self.features & feature == 0 {
            return Err(refused(codec, "was not agreed on"));
        }
        let len = uncompressed_len as usize;
        // LZ4 says at most 255 bytes with one; memory for more would be made for nothing.
        if codec == Compression::Lz4 && len / 255 > payload.len() {
            return Err(refused(codec, "is shorter than it says"));
        }
        let plain = match codec {
            Compression::Zstd => self.zstd(&payload, len)?,
            Compression::Lz4 => lz4_flex::block::decompress(&payload, len)
                .map_err(|_| refused(codec, "is damaged or longer than it says"))?,
        };
        if plain.len() != len {
            return Err(refused(codec, "is shorter than it says"));
        }
        header.payload_len = uncompressed_len;
        header.payload_crc = None;
        Ok(Frame { header, payload: plain.into() })
    }

    fn zstd(&mut self, payload: &[u8], len: usize) -> Result<Vec<u8>, WireError> {
        const CODEC: Compression = Compression::Zstd;
        if self.zstd.is_none() {
            let made = bulk::Decompressor::new();
            self.zstd = Some(made.map_err(|_| refused(CODEC, "cannot be read: no memory"))?);
        }
        let Some(zstd) = &mut self.zstd else { return Ok(Vec::new()) };
        // `decompress` asks the payload for its length; this asks the header, which was checked.
        let mut plain = Vec::with_capacity(len);
        let damaged = |_| refused(CODEC, "is damaged or longer than it says");
        zstd.decompress_to_buffer(payload, &mut plain).map_err(damaged)?;
        Ok(plain)
    }
}

pub(crate) fn refused(codec: Compression, reason: &'static str) -> WireError {
    let codec = match codec {
        Compression::Zstd => "zstd",
        Compression::Lz4 => "LZ4",
    };
    WireError::Compression { codec, reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kind::MessageType;

    fn compressed(features: u64, payload: &[u8]) -> Option<Frame> {
        let mut header = MessageHeader::new(MessageType::RaftMessage);
        let mut compressor = Compressor::agreed(features).expect("memory").expect("agreed");
        let payload = compressor.compress(&mut header, payload)?;
        Some(Frame { header, payload })
    }

    fn open(frame: Frame) -> Result<Frame, WireError> {
        Decompressor::new(FEATURE_ZSTD | FEATURE_LZ4).open(frame, &Limits::for_messages(1 << 20))
    }

    #[test]
    fn nothing_is_compressed_that_was_not_agreed_on() {
        assert!(Compressor::agreed(0).expect("nothing to do").is_none());
        assert!(Compressor::agreed(1 << 40).expect("nothing to do").is_none());
        let both = compressed(FEATURE_ZSTD | FEATURE_LZ4, &vec![0; 5000]).expect("smaller");
        assert_eq!(both.header.compressed.map(|how| how.codec), Some(Compression::Zstd));
        for (features, allowed) in [(0, false), (FEATURE_LZ4, false), (FEATURE_ZSTD, true)] {
            let opened = Decompressor::new(features).open(both.clone(), &Limits::default());
            assert_eq!(opened.is_ok(), allowed, "{opened:?}");
        }
    }

    #[test]
    fn only_what_becomes_an_eighth_smaller_is_compressed() {
        // So many bytes of noise, the rest zeros.
        let mixed = |noise: usize| -> Vec<u8> {
            let mut state = 1_u32;
            let next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(noise).collect();
            bytes.resize(8000, 0);
            bytes
        };
        for features in [FEATURE_ZSTD, FEATURE_LZ4] {
            assert!(compressed(features, &mixed(0)[..COMPRESS_FROM - 1]).is_none(), "short");
            assert!(compressed(features, &mixed(7500)).is_none(), "not enough");
            let frame = compressed(features, &mixed(6500)).expect("smaller");
            assert!(frame.payload.len() <= 7000);
            let back = open(frame).expect("sound");
            assert_eq!(back.payload, mixed(6500));
            assert_eq!(back.header.compressed, None);
        }
    }

    #[test]
    fn a_payload_that_lies_about_its_length_is_refused() {
        for features in [FEATURE_ZSTD, FEATURE_LZ4] {
            let honest = compressed(features, &vec![7; 50_000]).expect("smaller");
            for lie in [0, 1, 49_999, 50_001, 1 << 20, (1 << 20) + 1, u32::MAX] {
                let mut frame = honest.clone();
                let how = frame.header.compressed.as_mut().expect("compressed");
                how.uncompressed_len = lie;
                let error = open(frame).expect_err("a lie");
                assert_eq!(
                    matches!(error, WireError::TooLarge { .. }),
                    lie > 1 << 20,
                    "{lie}: {error}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_opened_or_refused(payload: Vec<u8>, uncompressed_len in 0..5000_u32, zstd: bool) {
            let codec = if zstd { Compression::Zstd } else { Compression::Lz4 };
            let compressed = Some(Compressed { codec, uncompressed_len });
            let header = MessageHeader { compressed, ..MessageHeader::new(MessageType::RaftMessage) };
            if let Ok(frame) = open(Frame { header, payload: payload.into() }) {
                prop_assert_eq!(frame.payload.len(), uncompressed_len as usize);
            }
        }
    }
}
