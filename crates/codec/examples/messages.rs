//! What the codec does, in order: a value is encoded into a pooled buffer, read in place, validated by the registry, put
//! into an envelope, framed for a WebSocket, compressed, and read by somebody who knows only JSON.
//! `cargo run -p straightway-codec --example messages`
use std::sync::Arc;

use straightway_codec::event::{self, Event, Kind};
use straightway_codec::ws::{FrameReader, Incoming, Limits, Opcode, Role, put_head};
use straightway_codec::{
    Codec, Encoder, Envelope, HEADER_BYTES, Header, JsonCodec, MessageMetadata, OptimizerMode,
    RkyvCodec, SerializationOptimizer, Stamp,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let optimizer = Arc::new(SerializationOptimizer::new(OptimizerMode::On));
    let encoder = Encoder::new(optimizer.clone(), 1 << 20)?;
    let registry = event::registry()?;
    let event = Event {
        kind: Kind::Stored,
        key: "models/7b/weights.safetensors".into(),
        node: "cache-01".into(),
        len: 4_113_289_152,
        content_type: Some("application/octet-stream".into()),
        tags: vec!["project:7b".into()],
        ..Event::default()
    };

    // Into a buffer of the pool; a view of it costs nothing.
    let archive = RkyvCodec.encode(&event, encoder.pool())?;
    let view = Codec::<Event>::access(&RkyvCodec, &archive)?;
    println!("{} bytes of archive; its key, in place: {}", archive.len(), view.key);
    let json = JsonCodec.encode(&event, encoder.pool())?;
    println!("{} bytes of JSON", json.len());

    // A whole message: header and archive in one buffer, with room in front for the frame's head.
    let stamp = Stamp { priority: 1, offset: 42, ..Stamp::default() };
    let mut message = encoder.encode(stamp, &event)?;
    let packed = encoder.compress::<Event>(&message)?.map_or(0, |packed| packed.len());
    println!("{} bytes with its header, {packed} against the dictionary", message.len());
    put_head(&mut message, Opcode::Binary)?;
    let frame = message.share();
    let readers = [frame.clone(), frame.clone(), frame];
    println!("one frame of {} bytes for {} readers", readers[0].len(), readers.len());

    // A reader: frame, header, registry, view.
    let limits = Limits { max_message: 1 << 20, max_fragments: 16 };
    let mut reader = FrameReader::new(Role::Client, limits, false);
    let mut wire = readers[2].to_vec();
    if let (_, Some(Incoming::Binary(bytes))) = reader.read(&mut wire)? {
        let (header, payload) = Header::parse(bytes)?;
        let checked = registry.check(&header, payload)?;
        let seen = checked.view::<Event>()?;
        println!("read at offset {}: {} ({} bytes)", header.offset, seen.key, seen.len);
        // What a wrong guess comes to.
        let wrong = Header { version: 9, ..header };
        println!(
            "as version 9: {}",
            registry.check(&wrong, payload).err().map_or_else(String::new, |e| e.to_string())
        );
        println!(
            "cut off: {}",
            Header::parse(&bytes[..HEADER_BYTES - 1])
                .err()
                .map_or_else(String::new, |e| e.to_string())
        );
    }

    // An envelope says who, to whom, how urgent and for how long.
    let metadata = MessageMetadata { source: Some("example".into()), ..MessageMetadata::default() };
    let envelope = Envelope::new("1", event).with_metadata(metadata).with_priority(3).with_ttl(60);
    let bytes = envelope.encode(encoder.pool())?;
    let received = Envelope::<Event>::read(&bytes, &registry)?;
    println!(
        "envelope {} from {:?}, priority {}",
        received.id, received.source, received.header.priority
    );

    // The optimizer learns, and says what it does.
    for _ in 0..200 {
        encoder.encode(Stamp::default(), &envelope.payload)?;
    }
    for strategy in optimizer.optimize_type("straightway.event") {
        println!("{strategy:?}");
    }
    Ok(())
}
