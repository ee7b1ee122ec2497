//! Captures what an interface sends and receives into a pcap file, through the kernel's ring.
//!
//! ```sh
//! cargo build --release --package straightway-packet --example capture
//! sudo target/release/examples/capture eth0 packets.pcap 1000
//! tshark -r packets.pcap
//! ```
use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::time::Duration;

use straightway_packet::capture::pcap::{LINKTYPE_ETHERNET, Writer};
use straightway_packet::capture::{CaptureRing, CaptureStats, RingOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, file, count] = &arguments[..] else {
        return Err("usage: capture INTERFACE FILE PACKETS".into());
    };
    let stats = capture(interface, file, count.parse()?, Duration::MAX)?;
    println!("{} packets seen, {} dropped", stats.packets, stats.drops);
    Ok(())
}

/// Captures `count` packets, or until none has come for `idle`.
pub fn capture(
    interface: &str,
    file: &str,
    count: u64,
    idle: Duration,
) -> Result<CaptureStats, Box<dyn Error>> {
    let mut ring = CaptureRing::open(interface, RingOptions::default())?;
    let mut writer = Writer::new(BufWriter::new(File::create(file)?), LINKTYPE_ETHERNET)?;
    let (mut written, pause) = (0, Duration::from_millis(100));
    let mut quiet = Duration::ZERO;
    while written < count && quiet < idle {
        let Some(block) = ring.next_block(pause)? else {
            quiet += pause;
            continue;
        };
        quiet = Duration::ZERO;
        for packet in block.packets().take(usize::try_from(count - written)?) {
            // From the kernel's memory to the file's buffer: the only copy.
            packet.write_to(&mut writer)?;
            written += 1;
        }
    }
    writer.flush()?;
    Ok(ring.stats()?)
}
