//! pcapng files, read: what tshark and tcpdump write today (draft-ietf-opsawg-pcapng).
//!
//! Of the blocks only those that are needed for packets are read: sections, interfaces, enhanced and simple packets. All
//! others are passed over, however long they are.
use std::io::Read;
use std::time::Duration;

use super::pcap::{Packet, fill, room};
use crate::error::PacketError;
use crate::field::field;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Interfaces of a section: an honest file has as many as the machine had.
const MAX_INTERFACES: usize = 4096;
const LAYER: &str = "pcapng";

/// Reads a file of either byte order, of any number of sections and interfaces.
///
/// ```
/// use straightway_packet::capture::pcapng::Reader;
///
/// let section = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28];
/// let interface = [1, 20, 1, 0, 20];
/// let packet = [3, 20, 4, u32::from_le_bytes(*b"abcd"), 20];
/// let words = section.iter().chain(&interface).chain(&packet);
/// let file: Vec<u8> = words.flat_map(|word: &u32| word.to_le_bytes()).collect();
///
/// let (mut reader, mut buffer) = (Reader::new(&file[..])?, Vec::new());
/// let (link_type, packet) = reader.next(&mut buffer)?.expect("there is one");
/// assert_eq!((link_type, packet.bytes), (1, &b"abcd"[..]));
/// assert!(reader.next(&mut buffer)?.is_none());
/// # Ok::<(), straightway_packet::PacketError>(())
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// Length of the block that is being read, and what is left of its body.
    len: u32,
    left: u32,
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: u16,
    /// 0: no limit.
    snaplen: u32,
    /// Units of a time stamp in a second.
    resolution: u64,
    /// Seconds to be added to each.
    offset: i64,
}

impl<R: Read> Reader<R> {
    /// Reads the header of the first section. Give it a buffered reader.
    ///
    /// # Errors
    /// [`PacketError::BadField`] for a file that is not pcapng, [`PacketError::Truncated`], [`PacketError::Io`].
    pub fn new(input: R) -> Result<Self, PacketError> {
        let mut reader = Self { input, big_endian: false, interfaces: Vec::new(), len: 0, left: 0 };
        if reader.open()?.is_none() {
            return Err(PacketError::Truncated { layer: LAYER, needed: 8, have: 0 });
        }
        reader.close().map(|()| reader)
    }

    /// Reads the next packet into `buffer`, which is only ever enlarged, and gives it with the link type of the interface
    /// that saw it: see [`super::pcap::LINKTYPE_ETHERNET`]. A simple packet has no time: it is 0. `None`: the file is at
    /// its end.
    ///
    /// # Errors
    /// [`PacketError::Truncated`] when the file ends within a block, or a block within a field;
    /// [`PacketError::BadField`] for lengths, interfaces and resolutions that cannot be; [`PacketError::Io`].
    pub fn next<'a>(
        &mut self,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<(u32, Packet<'a>)>, PacketError> {
        while let Some(kind) = self.open()? {
            let (interface, time, kept, original_len) = match kind {
                ENHANCED_PACKET => {
                    let head: [u8; 20] = self.take()?;
                    let interface = self.interface(self.number(&head, 0))?;
                    let (high, low) = (self.number(&head, 4), self.number(&head, 8));
                    let time = interface.time(u64::from(high) << 32 | u64::from(low));
                    (interface, time, self.number(&head, 12), self.number(&head, 16))
                }
                SIMPLE_PACKET => {
                    let head: [u8; 4] = self.take()?;
                    let (interface, len) = (self.interface(0)?, self.number(&head, 0));
                    let kept =
                        if interface.snaplen == 0 { len } else { len.min(interface.snaplen) };
                    (interface, Duration::ZERO, kept, len)
                }
                other => {
                    if other == INTERFACE {
                        self.add_interface()?;
                    }
                    self.close()?;
                    continue;
                }
            };
            let bytes = room(buffer, kept, LAYER)?;
            self.read(bytes)?;
            self.close()?;
            let packet = Packet { time, bytes, original_len };
            return Ok(Some((u32::from(interface.link_type), packet)));
        }
        Ok(None)
    }

    /// Begins a block: gives its type; `None` at the end of the file.
    fn open(&mut self) -> Result<Option<u32>, PacketError> {
        let mut head = [0; 8];
        match fill(&mut self.input, &mut head)? {
            0 => return Ok(None),
            8 => {}
            have => return Err(PacketError::Truncated { layer: LAYER, needed: 8, have }),
        }
        let kind = self.number(&head, 0);
        if self.len == 0 && kind != SECTION {
            return Err(bad("first block", kind, "is not that of a pcapng file"));
        }
        // Type and length before the body, and the length again behind it.
        let mut around = 12;
        if kind == SECTION {
            // Its type reads the same in both byte orders; what follows tells which one it is, from its length on.
            (self.left, around) = (4, 16);
            let order: [u8; 4] = self.take()?;
            self.big_endian = order == BYTE_ORDER.to_be_bytes();
            if self.number(&order, 0) != BYTE_ORDER {
                return Err(bad("byte order", self.number(&order, 0), "must be 0x1a2b3c4d"));
            }
            self.interfaces.clear();
        }
        self.len = self.number(&head, 4);
        match self.len.checked_sub(around) {
            Some(left) if self.len.is_multiple_of(4) => self.left = left,
            _ => return Err(bad("block length", self.len, "is not that of any block")),
        }
        Ok(Some(kind))
    }

    /// Passes over the rest of a block.
    fn close(&mut self) -> Result<(), PacketError> {
        self.skip(self.left)?;
        self.left = 4;
        match self.take::<4>().map(|again| self.number(&again, 0))? {
            again if again == self.len => Ok(()),
            again => Err(bad("block length", again, "differs behind the block; it is damaged")),
        }
    }

    fn add_interface(&mut self) -> Result<(), PacketError> {
        let head: [u8; 8] = self.take()?;
        let (link_type, snaplen) = (self.half(&head, 0), self.number(&head, 4));
        let mut interface = Interface { link_type, snaplen, resolution: 1_000_000, offset: 0 };
        while self.left >= 4 {
            let option: [u8; 4] = self.take()?;
            match (self.half(&option, 0), self.half(&option, 2)) {
                (0, _) => break,
                // Units of its time stamps: a negative power of ten, or of two.
                (9, 1) => {
                    let [power, ..] = self.take::<4>()?;
                    let (base, exponent) = (if power < 0x80 { 10u64 } else { 2 }, power & 0x7f);
                    let second = base.checked_pow(exponent.into());
                    interface.resolution = second
                        .ok_or_else(|| bad("resolution", power.into(), "is finer than can be"))?;
                }
                // Seconds to be added to them.
                (14, 8) => {
                    let offset = self.take()?;
                    interface.offset = i64::from_le_bytes(self.little_endian(offset));
                }
                (_, len) => self.skip(u32::from(len).next_multiple_of(4))?,
            }
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(bad("interfaces", 4097, "are more than any machine has"));
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn interface(&self, number: u32) -> Result<Interface, PacketError> {
        let known = self.interfaces.get(number as usize).copied();
        known.ok_or_else(|| bad("interface", number, "was not described before the packet"))
    }

    /// The next bytes of the block.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let mut bytes = [0; N];
        self.read(&mut bytes).map(|()| bytes)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), PacketError> {
        let (needed, left) = (into.len(), self.left as usize);
        if needed > left {
            return Err(PacketError::Truncated { layer: LAYER, needed, have: left });
        }
        let have = fill(&mut self.input, into)?;
        if have < needed {
            return Err(PacketError::Truncated { layer: LAYER, needed, have });
        }
        self.left -= u32::try_from(needed).unwrap_or(self.left);
        Ok(())
    }

    fn skip(&mut self, len: u32) -> Result<(), PacketError> {
        let (mut scratch, mut len) = ([0; 1024], len as usize);
        while len > 0 {
            let some = len.min(scratch.len());
            self.read(&mut scratch[..some])?;
            len -= some;
        }
        Ok(())
    }

    fn number(&self, bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(self.little_endian(field(bytes, at)))
    }

    fn half(&self, bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(self.little_endian(field(bytes, at)))
    }

    fn little_endian<const N: usize>(&self, mut bytes: [u8; N]) -> [u8; N] {
        if self.big_endian {
            bytes.reverse();
        }
        bytes
    }
}

impl Interface {
    fn time(&self, units: u64) -> Duration {
        let rest = u128::from(units % self.resolution);
        let nanoseconds = rest * 1_000_000_000 / u128::from(self.resolution);
        let seconds = (units / self.resolution).saturating_add_signed(self.offset);
        Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or(0))
    }
}

fn bad(field: &'static str, value: u32, rule: &'static str) -> PacketError {
    PacketError::BadField { layer: LAYER, field, value: u64::from(value), rule }
}
