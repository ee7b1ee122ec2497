//! Packets straight out of the kernel's ring: seen where the kernel has put them, a block of many at a time (Linux).
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::pcap::Writer;
use crate::error::PacketError;
use crate::sys::ring::PacketRing;
use crate::view::{EtherType, VlanTag};

/// How large the ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOptions {
    /// Bytes of a block, a power of two of at least 64 KiB (1 MiB unless told).
    pub block_bytes: usize,
    /// Blocks (32 unless told).
    pub blocks: usize,
    /// How long the kernel waits for more packets before it hands over a block that is not full: 60 ms unless told.
    pub retire: Duration,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self { block_bytes: 1 << 20, blocks: 32, retire: Duration::from_millis(60) }
    }
}

/// A capture of everything that an interface sends and receives. Needs root, or `CAP_NET_RAW`.
///
/// ```no_run
/// use std::time::Duration;
/// use straightway_packet::capture::{CaptureRing, RingOptions};
///
/// let mut ring = CaptureRing::open("eth0", RingOptions::default())?;
/// while let Some(block) = ring.next_block(Duration::from_secs(1))? {
///     for packet in block.packets() {
///         println!("{} bytes at {:?}", packet.original_len, packet.time);
///     }
/// }
/// println!("{:?}", ring.stats()?);
/// # Ok::<(), straightway_packet::PacketError>(())
/// ```
#[derive(Debug)]
pub struct CaptureRing {
    ring: PacketRing,
    interface: String,
    next: usize,
    stats: CaptureStats,
}

/// A packet in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'a> {
    /// When the kernel saw it, since the Unix epoch.
    pub time: Duration,
    /// Its bytes, from the Ethernet header on.
    pub bytes: &'a [u8],
    /// How long it was; more than `bytes` when it was cut to fit a block.
    pub original_len: u32,
    /// Its outermost VLAN tag, which the kernel takes out of the frame: neither `bytes` nor `original_len` has it.
    pub vlan: Option<VlanTag>,
}

impl Captured<'_> {
    /// Writes it to a file as it was on the link, its VLAN tag where it belongs.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn write_to(&self, file: &mut Writer<impl Write>) -> Result<(), PacketError> {
        match (self.vlan, self.bytes.split_first_chunk::<12>()) {
            (Some(tag), Some((addresses, rest))) => {
                let len = self.original_len.saturating_add(4);
                file.write_pieces(self.time, &[addresses, &tag.bytes(), rest], len)
            }
            _ => file.write(self.time, self.bytes, self.original_len),
        }
    }
}

/// What a capture has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CaptureStats {
    /// Packets, dropped ones included.
    pub packets: u64,
    /// Packets that found no room: the blocks are read too slowly.
    pub drops: u64,
    /// How often the ring was full.
    pub freezes: u64,
}

impl CaptureRing {
    /// Starts to capture.
    ///
    /// # Errors
    /// [`PacketError::Io`]: without permission, when there is no such interface, or when the ring is larger than the
    /// system allows. [`PacketError::BadField`] for sizes that no ring has.
    pub fn open(interface: &str, options: RingOptions) -> Result<Self, PacketError> {
        let RingOptions { block_bytes, blocks, retire } = options;
        let wrong = |field, value: usize, rule| {
            Err(PacketError::BadField { layer: "capture ring", field, value: value as u64, rule })
        };
        if !block_bytes.is_power_of_two() || !(64 << 10..=1 << 30).contains(&block_bytes) {
            return wrong("block size", block_bytes, "must be a power of two from 64 KiB to 1 GiB");
        }
        if blocks == 0 || blocks.checked_mul(block_bytes).is_none_or(|bytes| bytes > 1 << 32) {
            return wrong("blocks", blocks, "must be at least one, and not more than 4 GiB");
        }
        let retire = u32::try_from(retire.as_millis()).unwrap_or(u32::MAX).max(1);
        let opened = PacketRing::open(interface, block_bytes, blocks, retire);
        let ring = opened.map_err(|source| {
            let hint = match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => "run as root, or with CAP_NET_RAW",
                Some(libc::ENODEV | libc::ENXIO) => {
                    "there is no such interface; ip link lists them"
                }
                Some(libc::ENOMEM) => "the ring is too large; use fewer or smaller blocks",
                _ => "see the system's answer",
            };
            let operation = format!("capturing on {interface} failed; {hint}");
            PacketError::Io { operation, source }
        })?;
        let interface = interface.to_owned();
        Ok(Self { ring, interface, next: 0, stats: CaptureStats::default() })
    }

    /// The next block of packets, waited for so long at the most; `None`: there is none. It goes back to the kernel
    /// when it is dropped.
    ///
    /// # Errors
    /// [`PacketError::Io`], once, when the interface goes down; packets come again when it is up again.
    pub fn next_block(&mut self, at_most: Duration) -> Result<Option<Block<'_>>, PacketError> {
        if self.ring.block(self.next).is_none() {
            let ready = self.ring.poll(at_most).map_err(|source| self.failed(source))?;
            if self.ring.block(self.next).is_none() {
                if ready {
                    // Not for a block: there is an error, and whoever asks again at once would not wait.
                    self.ring.take_error().map_err(|source| self.failed(source))?;
                }
                return Ok(None);
            }
        }
        let block = self.next;
        self.next = (self.next + 1) % self.ring.blocks();
        Ok(Some(Block { ring: &mut self.ring, block }))
    }

    /// What was seen so far.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn stats(&mut self) -> Result<CaptureStats, PacketError> {
        // The kernel starts anew with every reading.
        let since = self.ring.stats().map_err(|source| self.failed(source))?;
        self.stats.packets += u64::from(since.packets);
        self.stats.drops += u64::from(since.drops);
        self.stats.freezes += u64::from(since.freezes);
        Ok(self.stats)
    }

    fn failed(&self, source: io::Error) -> PacketError {
        let operation = format!("capturing on {} failed", self.interface);
        PacketError::Io { operation, source }
    }
}

impl AsFd for CaptureRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.fd()
    }
}

/// A block of packets, lent by the kernel.
#[derive(Debug)]
pub struct Block<'a> {
    ring: &'a mut PacketRing,
    block: usize,
}

impl Block<'_> {
    /// Its packets.
    pub fn packets(&self) -> impl Iterator<Item = Captured<'_>> {
        Packets::new(self.ring.block(self.block).unwrap_or_default())
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        self.ring.release(self.block);
    }
}

/// Walks the packets of a block; ends early rather than believe an offset or a length that leads out of it.
#[derive(Debug)]
struct Packets<'a> {
    block: &'a [u8],
    at: usize,
    left: u32,
}

// Offsets within `tpacket_block_desc` and `tpacket3_hdr` of `linux/if_packet.h`.
const BLOCK_PACKETS: usize = 12;
const BLOCK_FIRST: usize = 16;
const PACKET_NEXT: usize = 0;
const PACKET_SECONDS: usize = 4;
const PACKET_NANOSECONDS: usize = 8;
const PACKET_KEPT: usize = 12;
const PACKET_LEN: usize = 16;
const PACKET_STATUS: usize = 20;
const PACKET_START: usize = 24;
const PACKET_TAG: usize = 32;
const PACKET_TAG_KIND: usize = 36;
const STATUS_TAG: u32 = 1 << 4;
const STATUS_TAG_KIND: u32 = 1 << 6;

impl<'a> Packets<'a> {
    fn new(block: &'a [u8]) -> Self {
        let mut packets = Self { block, at: 0, left: 0 };
        packets.left = packets.word(BLOCK_PACKETS).unwrap_or(0);
        packets.at = packets.word(BLOCK_FIRST).map_or(usize::MAX, |first| first as usize);
        packets
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_ne_bytes)
    }

    fn half(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_ne_bytes)
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.block.get(self.at.checked_add(at)?..)?.first_chunk().copied()
    }

    fn vlan(&self) -> Option<VlanTag> {
        let status = self.word(PACKET_STATUS)?;
        let kind = match status & STATUS_TAG_KIND {
            0 => EtherType::VLAN,
            _ => EtherType(self.half(PACKET_TAG_KIND)?),
        };
        // The tag has 16 bits; it lies in a word.
        let tag = u16::try_from(self.word(PACKET_TAG)? & 0xffff).ok()?;
        (status & STATUS_TAG != 0).then(|| VlanTag::read(kind, tag))
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Captured<'a>;

    fn next(&mut self) -> Option<Captured<'a>> {
        self.left = self.left.checked_sub(1)?;
        let header = self.block.get(self.at..)?;
        let start = usize::from(self.half(PACKET_START)?);
        let kept = self.word(PACKET_KEPT)? as usize;
        let bytes = header.get(start..start.checked_add(kept)?)?;
        let time = Duration::from_secs(u64::from(self.word(PACKET_SECONDS)?))
            + Duration::from_nanos(u64::from(self.word(PACKET_NANOSECONDS)?));
        let (original_len, vlan) = (self.word(PACKET_LEN)?, self.vlan());
        let next = self.word(PACKET_NEXT)? as usize;
        if next == 0 {
            self.left = 0;
        }
        self.at = self.at.checked_add(next)?;
        Some(Captured { time, bytes, original_len, vlan })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A block as the kernel lays it out.
    fn block(packets: &[&[u8]]) -> Vec<u8> {
        let mut block = vec![0; 48];
        block[BLOCK_PACKETS..BLOCK_PACKETS + 4]
            .copy_from_slice(&u32::try_from(packets.len()).expect("few").to_ne_bytes());
        block[BLOCK_FIRST..BLOCK_FIRST + 4].copy_from_slice(&48u32.to_ne_bytes());
        for (n, packet) in packets.iter().enumerate() {
            let len = u32::try_from(packet.len()).expect("short");
            let next = if n + 1 == packets.len() { 0 } else { (82 + len).next_multiple_of(16) };
            let mut bytes = Vec::new();
            // The second one has a tag.
            let status = if n == 1 { STATUS_TAG | STATUS_TAG_KIND } else { 1 };
            for word in [next, 5, 7, len, len + 1, status] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(82u16.to_ne_bytes());
            bytes.resize(32, 0);
            bytes.extend(0xb064u32.to_ne_bytes());
            bytes.extend(0x88a8u16.to_ne_bytes());
            bytes.resize(82, 0);
            bytes.extend_from_slice(packet);
            bytes.resize((82 + packet.len()).next_multiple_of(16), 0);
            block.extend(bytes);
        }
        block
    }

    #[test]
    fn packets_are_found_where_the_kernel_puts_them() {
        let bytes = block(&[b"one", b"a longer second one", b""]);
        let packets: Vec<_> = Packets::new(&bytes).collect();
        assert_eq!(
            packets.iter().map(|p| p.bytes).collect::<Vec<_>>(),
            [&b"one"[..], b"a longer second one", b""]
        );
        assert_eq!((packets[0].time, packets[0].original_len), (Duration::new(5, 7), 4));
        let tag =
            VlanTag { kind: EtherType::PROVIDER_VLAN, priority: 5, drop_eligible: true, id: 100 };
        assert_eq!(packets.iter().map(|p| p.vlan).collect::<Vec<_>>(), [None, Some(tag), None]);
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, 1).expect("memory");
        for packet in &packets {
            packet.write_to(&mut writer).expect("memory");
        }
        assert!(file.ends_with(
            b"a longer sec\x88\xa8\xb0\x64ond one\x05\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0"
        ));
    }

    proptest! {
        #[test]
        fn a_block_that_lies_never_panics(damage in proptest::collection::vec((0..300usize, any::<u8>()), 0..10), cut in 0..400usize) {
            let mut bytes = block(&[b"one", b"a longer second one", b"third"]);
            let len = bytes.len();
            for (at, value) in damage {
                bytes[at % len] = value;
            }
            bytes.truncate(cut);
            prop_assert!(Packets::new(&bytes).take(100_000).all(|packet| packet.bytes.len() <= len));
        }
    }
}
