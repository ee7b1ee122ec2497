//! The message: addresses, marker, type, and one of the bodies.
use bytes::BytesMut;

use super::{Control, Data, Heartbeat, HeartbeatReply, ToDownstream, ToUpstream, too_short};
use crate::addr::MacAddr;
use crate::error::PacketError;
use crate::field::{be16, field};

/// What stands where an Ethernet frame has its type.
pub const MARKER: [u8; 2] = [0x30, 0x30];

const LAYER: &str = "overlay message";
const HEADER_BYTES: usize = 16;

/// A message between two neighbours.
///
/// ```
/// use bytes::BytesMut;
/// use straightway_packet::MacAddr;
/// use straightway_packet::overlay::{Data, Message, PacketType, ToUpstream};
///
/// let [a, b] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
/// let carried = Data::ToUpstream(ToUpstream { origin: a, payload: b"a frame" });
/// let message = Message::new(a, b, PacketType::Data(carried));
///
/// let flat: Vec<u8> = (&message).into();
/// let mut buffer = BytesMut::with_capacity(message.wire_size());
/// message.serialize_into(&mut buffer);
/// assert_eq!(buffer, flat);
/// assert_eq!(Message::parse(&flat)?, message);
/// # Ok::<(), straightway_packet::PacketError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who sends it over this hop.
    pub from: MacAddr,
    /// Who is to receive it.
    pub to: MacAddr,
    /// What it carries.
    pub packet: PacketType<'a>,
}

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketType<'a> {
    /// Type 0.
    Control(Control),
    /// Type 1.
    Data(Data<'a>),
}

impl<'a> Message<'a> {
    /// A message.
    pub const fn new(from: MacAddr, to: MacAddr, packet: PacketType<'a>) -> Self {
        Self { from, to, packet }
    }

    /// Reads a message where it lies; the payload is borrowed. What follows a control message's body is padding.
    ///
    /// # Errors
    /// [`PacketError::Truncated`]; [`PacketError::BadField`] for a foreign marker, type or subtype.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(too_short(LAYER, HEADER_BYTES, bytes.len()));
        };
        let [.., kind, subtype] = *header;
        if field(header, 12) != MARKER {
            return Err(wrong("marker", be16(header, 12), "must be 0x3030"));
        }
        let packet = match (kind, subtype) {
            (0, 0) => PacketType::Control(Control::Heartbeat(Heartbeat::parse(body)?)),
            (0, 1) => PacketType::Control(Control::HeartbeatReply(HeartbeatReply::parse(body)?)),
            (1, 0) => PacketType::Data(Data::ToUpstream(ToUpstream::parse(body)?)),
            (1, 1) => PacketType::Data(Data::ToDownstream(ToDownstream::parse(body)?)),
            (0 | 1, other) => return Err(wrong("subtype", other.into(), "must be 0 or 1")),
            (other, _) => return Err(wrong("type", other.into(), "must be 0 or 1")),
        };
        let (to, from) = (MacAddr(field(header, 0)), MacAddr(field(header, 6)));
        Ok(Self { from, to, packet })
    }

    /// Bytes that it takes.
    #[inline]
    pub fn wire_size(&self) -> usize {
        let body = match &self.packet {
            PacketType::Control(Control::Heartbeat(_)) => Heartbeat::BODY_BYTES,
            PacketType::Control(Control::HeartbeatReply(_)) => HeartbeatReply::BODY_BYTES,
            PacketType::Data(Data::ToUpstream(data)) => {
                ToUpstream::HEADER_BYTES + data.payload.len()
            }
            PacketType::Data(Data::ToDownstream(data)) => {
                ToDownstream::HEADER_BYTES + data.payload.len()
            }
        };
        HEADER_BYTES + body
    }

    /// Writes it to the start of `out`; gives its length. Nothing is allocated.
    ///
    /// # Errors
    /// [`PacketError::TooLong`] when `out` is shorter than [`Self::wire_size`].
    #[inline]
    pub fn write_to(&self, out: &mut [u8]) -> Result<usize, PacketError> {
        let (len, max) = (self.wire_size(), out.len());
        let payload = self.payload();
        let written = self.with_head(|head| {
            let (front, rest) = out.split_at_mut_checked(head.len())?;
            rest.get_mut(..payload.len())?.copy_from_slice(payload);
            front.copy_from_slice(head);
            Some(())
        });
        match written {
            Some(()) => Ok(len),
            None => Err(PacketError::TooLong { layer: LAYER, len, max }),
        }
    }

    /// Appends it to a buffer; allocates only if the buffer lacks the room.
    #[inline]
    pub fn serialize_into(&self, out: &mut BytesMut) {
        let payload = self.payload();
        self.with_head(|head| {
            out.reserve(head.len() + payload.len());
            out.extend_from_slice(head);
        });
        out.extend_from_slice(payload);
    }

    /// The frame that it carries; empty for control messages.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        match &self.packet {
            PacketType::Control(_) => &[],
            PacketType::Data(Data::ToUpstream(data)) => data.payload,
            PacketType::Data(Data::ToDownstream(data)) => data.payload,
        }
    }

    /// Hands over everything before the payload: in an array of known length for each kind, which is copied without a
    /// loop or a check.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the lengths are known only where this is inlined")]
    fn with_head<R>(&self, put: impl FnOnce(&[u8]) -> R) -> R {
        match &self.packet {
            PacketType::Control(Control::Heartbeat(heartbeat)) => {
                let mut head = self.begin::<46>();
                head[16..].copy_from_slice(&heartbeat.body());
                put(&head)
            }
            PacketType::Control(Control::HeartbeatReply(reply)) => {
                let mut head = self.begin::<52>();
                head[16..46].copy_from_slice(&reply.heartbeat.body());
                head[46..].copy_from_slice(&reply.sender.0);
                put(&head)
            }
            PacketType::Data(Data::ToUpstream(data)) => {
                let mut head = self.begin::<22>();
                head[16..].copy_from_slice(&data.origin.0);
                put(&head)
            }
            PacketType::Data(Data::ToDownstream(data)) => {
                let mut head = self.begin::<28>();
                head[16..22].copy_from_slice(&data.origin.0);
                head[22..].copy_from_slice(&data.destination.0);
                put(&head)
            }
        }
    }

    /// The header as one number: addresses written side by side and then read as words would have the words wait for the
    /// addresses' way through the store buffer.
    #[inline]
    fn begin<const N: usize>(&self) -> [u8; N] {
        let (to, from) = (u128::from(self.to.number()), u128::from(self.from.number()));
        let [kind, subtype] = self.packet.tags();
        let [m0, m1] = MARKER;
        let rest = u128::from(u32::from_be_bytes([m0, m1, kind, subtype]));
        let mut head = [0; N];
        head[..HEADER_BYTES].copy_from_slice(&(to << 80 | from << 32 | rest).to_be_bytes());
        head
    }
}

impl PacketType<'_> {
    /// Type and subtype.
    pub(super) fn tags(&self) -> [u8; 2] {
        match self {
            Self::Control(Control::Heartbeat(_)) => [0, 0],
            Self::Control(Control::HeartbeatReply(_)) => [0, 1],
            Self::Data(Data::ToUpstream(_)) => [1, 0],
            Self::Data(Data::ToDownstream(_)) => [1, 1],
        }
    }
}

/// One allocation, of exactly the size.
impl From<&Message<'_>> for Vec<u8> {
    fn from(message: &Message<'_>) -> Self {
        let payload = message.payload();
        let mut flat = message.with_head(|head| {
            let mut flat = Self::with_capacity(head.len() + payload.len());
            flat.extend_from_slice(head);
            flat
        });
        flat.extend_from_slice(payload);
        flat
    }
}

#[cold]
fn wrong(field: &'static str, value: u16, rule: &'static str) -> PacketError {
    PacketError::BadField { layer: LAYER, field, value: u64::from(value), rule }
}
