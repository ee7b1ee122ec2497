//! Any bytes as a message: refused, or valid in every byte that a reader may look at.
#![no_main]
use libfuzzer_sys::fuzz_target;
use straightway_codec::event::{self, Event, Gap, Hello, Stats, Subscribe, Subscribed};
use straightway_codec::ws::inflate;
use straightway_codec::{Codec, Envelope, HEADER_BYTES, Header, JsonCodec, RkyvCodec, TypeRegistry, WireType};

std::thread_local! {
    static REGISTRY: TypeRegistry = event::registry().expect("a registry");
}

/// Rebuilding touches everything that a view leads to; writing it again must not fail either.
fn traverse<T: WireType>(bytes: &[u8]) {
    if Codec::<T>::access(&RkyvCodec, bytes).is_ok() {
        let value: T = RkyvCodec.decode(bytes).expect("what is valid can be rebuilt");
        let text = serde_json::to_vec(&value).expect("text");
        let _: T = JsonCodec.decode(&text).expect("its own text is valid");
    }
}

fuzz_target!(|bytes: &[u8]| {
    traverse::<Event>(bytes);
    traverse::<Stats>(bytes);
    traverse::<Gap>(bytes);
    traverse::<Hello>(bytes);
    traverse::<Subscribe>(bytes);
    traverse::<Subscribed>(bytes);
    REGISTRY.with(|registry| {
        if let Ok((header, payload)) = Header::parse(bytes) {
            drop(registry.check(&header, payload));
        }
        // Under a header that is right.
        if bytes.len() > HEADER_BYTES {
            let mut message = bytes.to_vec();
            let types: Vec<_> = registry.types().copied().collect();
            let info = types[usize::from(bytes[0]) % types.len()];
            message[..3].copy_from_slice(b"SW\x01");
            message[4..8].copy_from_slice(&info.id.to_le_bytes());
            message[8..10].copy_from_slice(&info.version.to_le_bytes());
            message[11] = 0x0b;
            if let Ok(received) = Envelope::<Subscribe>::read(&message, registry) {
                received.to_envelope().expect("what is valid can be rebuilt");
            }
        }
    });
    if let Ok(plain) = inflate(bytes, 10_000) {
        assert!(plain.len() <= 10_000);
    }
});
