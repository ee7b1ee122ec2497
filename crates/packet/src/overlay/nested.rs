//! The nested form: a vector of the fields' vectors, one allocation for each and one for the outer.
//!
//! Kept for those who have it, and to measure against: every field is a piece of memory of its own, so that building,
//! sending and freeing a message touches nine of them instead of one.
use super::{Control, Data, Message, PacketType, message::MARKER};

impl From<&Message<'_>> for Vec<Vec<u8>> {
    fn from(message: &Message<'_>) -> Self {
        let tags = message.packet.tags();
        match &message.packet {
            PacketType::Control(control) => {
                let (heartbeat, sender) = match control {
                    Control::Heartbeat(heartbeat) => (heartbeat, None),
                    Control::HeartbeatReply(reply) => (&reply.heartbeat, Some(&reply.sender)),
                };
                let mut parts = Vec::with_capacity(8 + usize::from(sender.is_some()));
                parts.extend([
                    message.to.0.to_vec(),
                    message.from.0.to_vec(),
                    MARKER.to_vec(),
                    tags.to_vec(),
                    heartbeat.duration_ms.to_be_bytes().to_vec(),
                    heartbeat.id.to_be_bytes().to_vec(),
                    heartbeat.hops.to_be_bytes().to_vec(),
                    heartbeat.source.0.to_vec(),
                ]);
                parts.extend(sender.map(|sender| sender.0.to_vec()));
                parts
            }
            PacketType::Data(data) => {
                let (origin, destination, payload) = match data {
                    Data::ToUpstream(data) => (data.origin.0, &[][..], data.payload),
                    Data::ToDownstream(data) => {
                        (data.origin.0, &data.destination.0[..], data.payload)
                    }
                };
                vec![
                    [&message.to.0[..], &message.from.0, &MARKER].concat(),
                    [&tags[..], &origin, destination].concat(),
                    payload.to_vec(),
                ]
            }
        }
    }
}
