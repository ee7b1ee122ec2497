//! Events as a node makes them, from a seed.
#![allow(dead_code, reason = "each user takes its part")]
#![allow(unreachable_pub, reason = "a module of each test binary")]
use straightway_codec::event::{Event, Kind, Scope};

/// xorshift64*.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    pub fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(of.len() as u64)).expect("short")]
    }
}

/// A few hundred bytes each: keys of some length, tags, digests.
pub fn events(seed: u64, count: usize) -> Vec<Event> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| event(&mut dice)).collect()
}

pub fn event(dice: &mut Dice) -> Event {
    let folder = dice.one_of(&[
        "packages/debian/pool/main",
        "packages/npm",
        "packages/crates",
        "models/llm",
        "models/vision",
        "media/video/hls",
        "media/images",
        "artifacts/ci/linux-amd64",
        "artifacts/ci/darwin-arm64",
        "artifacts/releases",
        "backups/daily",
        "layers/sha256",
    ]);
    let name = dice.one_of(&[
        "openssl",
        "linux-image",
        "llama",
        "clip",
        "segment",
        "poster",
        "build",
        "toolchain",
        "index",
        "snapshot",
    ]);
    let suffix = dice.one_of(&[
        "tar.zst",
        "deb",
        "tgz",
        "safetensors",
        "ts",
        "m4s",
        "jpg",
        "webp",
        "bin",
        "json",
    ]);
    let content_type = dice.one_of(&[
        "application/octet-stream",
        "application/vnd.debian.binary-package",
        "application/gzip",
        "video/mp2t",
        "image/jpeg",
        "image/webp",
        "application/json",
        "application/zstd",
    ]);
    let tags = (0..dice.below(4))
        .map(|_| {
            let kind = dice.one_of(&["project", "team", "release", "branch", "dataset"]);
            format!("{kind}:{}", dice.below(200))
        })
        .collect();
    let key = format!(
        "{folder}/{name}/{}.{}.{}/{name}-{:08x}.{suffix}",
        dice.below(12),
        dice.below(30),
        dice.below(100),
        dice.roll() & 0xffff_ffff
    );
    let node = format!("cache-{:02}.example.net", dice.below(16));
    let base = Event { key, node, ..Event::default() };
    match dice.below(10) {
        0 => Event { kind: Kind::Removed, ..base },
        1 => Event { kind: Kind::Expired, ..base },
        2 => Event { kind: Kind::Evicted, ..base },
        3 => Event {
            kind: Kind::Purged,
            key: format!("{folder}/{name}/"),
            scope: Scope::Prefix,
            ..base
        },
        _ => Event {
            kind: Kind::Stored,
            len: dice.below(1 << 32),
            content_type: Some(content_type.to_owned()),
            tags,
            etag: Some(format!("\"{:016x}{:016x}\"", dice.roll(), dice.roll())),
            expires_ms: (dice.below(2) == 0).then(|| 1_790_000_000_000 + dice.below(1 << 32)),
            ..base
        },
    }
}
