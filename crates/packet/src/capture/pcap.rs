//! pcap files: what tcpdump, tshark and scapy read and write (draft-ietf-opsawg-pcap).
use std::io::{self, Read, Write};
use std::time::Duration;

use crate::error::PacketError;
use crate::field::field;

/// Ethernet frames.
pub const LINKTYPE_ETHERNET: u32 = 1;
/// IP packets without a link header.
pub const LINKTYPE_RAW: u32 = 101;
/// No packet is kept longer than this: what tcpdump uses too.
pub const MAX_SNAPLEN: u32 = 262_144;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const LAYER: &str = "pcap";

/// Writes a file of nanosecond resolution.
///
/// ```
/// use std::time::Duration;
/// use straightway_packet::capture::pcap::{LINKTYPE_ETHERNET, Reader, Writer};
///
/// let mut file = Vec::new();
/// let mut writer = Writer::new(&mut file, LINKTYPE_ETHERNET)?;
/// writer.write(Duration::from_secs(1), b"a frame", 7)?;
///
/// let mut reader = Reader::new(&file[..])?;
/// let mut buffer = Vec::new();
/// let packet = reader.next(&mut buffer)?.expect("there is one");
/// assert_eq!((packet.time, packet.bytes), (Duration::from_secs(1), &b"a frame"[..]));
/// assert!(reader.next(&mut buffer)?.is_none());
/// # Ok::<(), straightway_packet::PacketError>(())
/// ```
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

/// A packet of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// When it was seen, since the Unix epoch.
    pub time: Duration,
    /// What was kept of it.
    pub bytes: &'a [u8],
    /// How long it was.
    pub original_len: u32,
}

impl<W: Write> Writer<W> {
    /// Writes the file's header. Give it a buffered writer.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn new(mut out: W, link_type: u32) -> Result<Self, PacketError> {
        let mut header = [0; 24];
        header[..4].copy_from_slice(&NANOSECONDS.to_le_bytes());
        header[4..8].copy_from_slice(&[2, 0, 4, 0]);
        header[16..20].copy_from_slice(&MAX_SNAPLEN.to_le_bytes());
        header[20..].copy_from_slice(&link_type.to_le_bytes());
        out.write_all(&header).map_err(unwritable)?;
        Ok(Self { out })
    }

    /// Writes a packet; what is beyond [`MAX_SNAPLEN`] is left out.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn write(
        &mut self,
        time: Duration,
        bytes: &[u8],
        original_len: u32,
    ) -> Result<(), PacketError> {
        self.write_pieces(time, &[bytes], original_len)
    }

    /// Writes a packet that lies in pieces.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn write_pieces(
        &mut self,
        time: Duration,
        pieces: &[&[u8]],
        original_len: u32,
    ) -> Result<(), PacketError> {
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let len = total.min(MAX_SNAPLEN);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&time.subsec_nanos().to_le_bytes());
        header[8..12].copy_from_slice(&len.to_le_bytes());
        header[12..].copy_from_slice(&original_len.max(total).to_le_bytes());
        self.out.write_all(&header).map_err(unwritable)?;
        let mut left = len as usize;
        for piece in pieces {
            let kept = &piece[..piece.len().min(left)];
            self.out.write_all(kept).map_err(unwritable)?;
            left -= kept.len();
        }
        Ok(())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn flush(&mut self) -> Result<(), PacketError> {
        self.out.flush().map_err(unwritable)
    }
}

/// Reads a file of either resolution and either byte order.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    big_endian: bool,
    nanoseconds: bool,
    link_type: u32,
}

impl<R: Read> Reader<R> {
    /// Reads the file's header. Give it a buffered reader.
    ///
    /// # Errors
    /// [`PacketError::BadField`] for a file that is not pcap, [`PacketError::Truncated`], [`PacketError::Io`].
    pub fn new(mut input: R) -> Result<Self, PacketError> {
        let mut header = [0; 24];
        let have = fill(&mut input, &mut header)?;
        if have < header.len() {
            return Err(PacketError::Truncated { layer: LAYER, needed: header.len(), have });
        }
        let magic = u32::from_le_bytes(field(&header, 0));
        let (big_endian, nanoseconds) = match (magic, magic.swap_bytes()) {
            (MICROSECONDS, _) => (false, false),
            (NANOSECONDS, _) => (false, true),
            (_, MICROSECONDS) => (true, false),
            (_, NANOSECONDS) => (true, true),
            _ => {
                return Err(PacketError::BadField {
                    layer: LAYER,
                    field: "magic number",
                    value: u64::from(magic),
                    rule: "is not that of a pcap file (for pcapng see `pcapng::Reader`)",
                });
            }
        };
        let mut reader = Self { input, big_endian, nanoseconds, link_type: 0 };
        // The upper six bits say whether, and how long, a frame check sequence follows each frame.
        reader.link_type = reader.number(&header, 20) & 0x03ff_ffff;
        Ok(reader)
    }

    /// What the packets begin with: [`LINKTYPE_ETHERNET`], [`LINKTYPE_RAW`], or another number of the registry.
    pub fn link_type(&self) -> u32 {
        self.link_type
    }

    /// Reads the next packet into `buffer`, which is only ever enlarged. `None`: the file is at its end.
    ///
    /// # Errors
    /// [`PacketError::Truncated`] when the file ends within a packet, [`PacketError::BadField`] for a length that no
    /// packet has, [`PacketError::Io`].
    pub fn next<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Result<Option<Packet<'a>>, PacketError> {
        let mut header = [0; 16];
        match fill(&mut self.input, &mut header)? {
            0 => return Ok(None),
            16 => {}
            have => return Err(PacketError::Truncated { layer: LAYER, needed: 16, have }),
        }
        let bytes = room(buffer, self.number(&header, 8), LAYER)?;
        let (needed, have) = (bytes.len(), fill(&mut self.input, bytes)?);
        if have < needed {
            return Err(PacketError::Truncated { layer: LAYER, needed, have });
        }
        let fraction = self.number(&header, 4);
        let nanoseconds =
            u64::from(fraction).saturating_mul(if self.nanoseconds { 1 } else { 1000 });
        let time = Duration::from_secs(u64::from(self.number(&header, 0)))
            + Duration::from_nanos(nanoseconds);
        Ok(Some(Packet { time, bytes, original_len: self.number(&header, 12) }))
    }

    fn number(&self, bytes: &[u8], at: usize) -> u32 {
        let bytes = field(bytes, at);
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// Room for a packet in a buffer that grows, but not on a damaged length's word.
pub(super) fn room<'a>(
    buffer: &'a mut Vec<u8>,
    len: u32,
    layer: &'static str,
) -> Result<&'a mut [u8], PacketError> {
    if len > MAX_SNAPLEN {
        let (value, rule) = (u64::from(len), "is more than 262144; the file is damaged");
        return Err(PacketError::BadField { layer, field: "length", value, rule });
    }
    let len = len as usize;
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    Ok(&mut buffer[..len])
}

/// Reads until the slice is full or the input at its end; gives the number of bytes.
pub(super) fn fill(input: &mut impl Read, into: &mut [u8]) -> Result<usize, PacketError> {
    let mut filled = 0;
    while filled < into.len() {
        match input.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(PacketError::Io {
                    operation: "reading a capture file failed".to_owned(),
                    source,
                });
            }
        }
    }
    Ok(filled)
}

fn unwritable(source: io::Error) -> PacketError {
    let operation = "writing a pcap file failed; check the free space".to_owned();
    PacketError::Io { operation, source }
}
