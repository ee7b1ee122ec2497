//! Allocations per message: the nested form's nine, the flat form's one, and none into a buffer that is there.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod counting;

use bytes::BytesMut;
use counting::allocations;
use straightway_buffer::StackBuffer;
use straightway_buffer::packet::take_buffer;
use straightway_packet::MacAddr;
use straightway_packet::overlay::{
    Control, Data, Heartbeat, Message, PacketType, ToDownstream, ToUpstream,
};

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn messages() -> [(&'static str, Message<'static>, u64); 4] {
    let heartbeat = Heartbeat { duration_ms: 1, id: 2, hops: 0, source: A };
    let payload = &[7; 1400];
    let control = |control| Message::new(A, B, PacketType::Control(control));
    let of_data = |data| Message::new(A, B, PacketType::Data(data));
    [
        ("heartbeat", control(Control::Heartbeat(heartbeat)), 9),
        ("heartbeat reply", control(Control::HeartbeatReply(heartbeat.reply(B))), 10),
        ("to upstream", of_data(Data::ToUpstream(ToUpstream { origin: A, payload })), 4),
        (
            "to downstream",
            of_data(Data::ToDownstream(ToDownstream { origin: A, destination: B, payload })),
            4,
        ),
    ]
}

#[test]
fn the_table_of_allocations() {
    for (name, message, nested) in messages() {
        assert_eq!(allocations(|| drop(Vec::<Vec<u8>>::from(&message))), nested, "{name}, nested");
        assert_eq!(allocations(|| drop(Vec::<u8>::from(&message))), 1, "{name}, flat");
        let mut buffer = BytesMut::with_capacity(1500);
        assert_eq!(allocations(|| message.serialize_into(&mut buffer)), 0, "{name}, into a buffer");
        drop(take_buffer(1500));
        let pooled = || message.serialize_into(&mut take_buffer(message.wire_size()));
        pooled();
        assert_eq!(allocations(pooled), 0, "{name}, pooled");
        let parsed = allocations(|| drop(std::hint::black_box(Message::parse(&buffer))));
        assert_eq!(parsed, 0, "{name}, parsed");
    }
}

#[test]
fn small_messages_are_built_on_the_stack() {
    let (_, message, _) = messages()[0];
    let count = allocations(|| {
        let mut stack = StackBuffer::<256>::new();
        let written = stack.fill_with(|room| message.write_to(room));
        assert_eq!(written.expect("fits"), 46);
        assert_eq!(Message::parse(&stack).expect("reads"), message);
    });
    assert_eq!(count, 0);
}
