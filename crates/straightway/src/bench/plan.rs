//! What is asked of a node, and how often. No clock and no socket.
use std::str::FromStr;
use std::time::Duration;

/// Everything that a run needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections, each with one request under way.
    pub connections: usize,
    /// When it ends.
    pub until: Until,
    /// Bytes of each object.
    pub size: usize,
    /// Objects.
    pub keys: usize,
    /// Reads and writes.
    pub mix: Mix,
    /// What the keys begin with.
    pub prefix: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 16,
            until: Until::Elapsed(Duration::from_secs(10)),
            size: 64 << 10,
            keys: 1000,
            mix: Mix { get: 100, put: 0 },
            prefix: "bench/".to_owned(),
        }
    }
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// No request begins later than this.
    Elapsed(Duration),
    /// So many requests have been made.
    Requests(u64),
}

/// Shares of reads and writes.
///
/// ```
/// use straightway::bench::Mix;
///
/// assert_eq!("get".parse(), Ok(Mix { get: 1, put: 0 }));
/// assert_eq!("90:10".parse(), Ok(Mix { get: 90, put: 10 }));
/// assert!("0:0".parse::<Mix>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Parts of reads.
    pub get: u32,
    /// Parts of writes.
    pub put: u32,
}

impl Mix {
    /// Whether a request with this random number is a read.
    pub(super) fn reads(self, random: u64) -> bool {
        random % (u64::from(self.get) + u64::from(self.put)).max(1) < u64::from(self.get)
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = match text {
            "get" => Some((1, 0)),
            "put" => Some((0, 1)),
            _ => text
                .split_once(':')
                .and_then(|(get, put)| get.trim().parse().ok().zip(put.trim().parse().ok())),
        };
        match parts {
            Some((get, put)) if (get, put) != (0, 0) => Ok(Self { get, put }),
            _ => Err(format!("{text:?} is no mix; write get, put, or GET:PUT such as 90:10")),
        }
    }
}

/// xorshift64*: which key comes next need not be a secret.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// Bytes that do not compress.
    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len.saturating_add(8));
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes()[..7]);
        }
        bytes.truncate(len);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_kept_to() {
        let reads = |mix: &str| {
            let mix: Mix = mix.parse().expect("a mix");
            let mut random = Random::new(7);
            (0..10_000).filter(|_| mix.reads(random.next())).count()
        };
        assert_eq!(
            (reads("get"), reads("put"), reads("3:0"), reads("0:3")),
            (10_000, 0, 10_000, 0)
        );
        assert!((8_800..9_200).contains(&reads("90:10")));
        for bad in ["", "both", "1", "1:", ":1", "-1:1", "0:0", "1:2:3"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_have_the_length_asked_for() {
        for len in [0, 1, 7, 8, 1000] {
            assert_eq!(Random::new(1).bytes(len).len(), len);
        }
    }
}
