//! Trains the dictionary against which events are compressed, from events such as a cache of packages, models and media
//! makes: `cargo run -p straightway-codec --example train_dictionary`.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
use std::path::Path;

use straightway_buffer::{BufferPool, PoolConfig};
use straightway_codec::RkyvCodec;

#[path = "../tests/samples/mod.rs"]
mod samples;

const DICTIONARY_BYTES: usize = 16 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = BufferPool::new(PoolConfig::tiered())?;
    let mut archives = Vec::new();
    for event in samples::events(7, 20_000) {
        let mut buffer = pool.acquire(2048)?;
        RkyvCodec.encode_any(&event.as_ref(), &mut buffer)?;
        archives.push(buffer.to_vec());
    }
    let dictionary = zstd::dict::from_samples(&archives, DICTIONARY_BYTES)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dictionary/events-1.zdict");
    std::fs::write(&path, &dictionary)?;
    println!("{} bytes into {}", dictionary.len(), path.display());
    Ok(())
}
