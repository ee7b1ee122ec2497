//! Where the bytes of a message are on its way from a program to the wire and back:
//! `cargo run -p straightway-wire --example zero_copy_example`. Every claim that it prints is checked first.
use bytes::{Bytes, BytesMut};
use raft::prelude::{Entry, Message, MessageType as RaftType};
use straightway_wire::raft::{deserialize_raft_message_fast, serialize_raft_message_fast};
use straightway_wire::raft_utils::{
    create_heartbeat_message, create_raft_rpc_request, is_heartbeat_message, should_stream_message,
};
use straightway_wire::{
    ChunkWriter, FrameParser, LARGE_MESSAGE_THRESHOLD, Limits, MessageHeader, MessageParser,
    MessageType, RpcResponse, Segments, WireError, ZeroCopyMessage, encode_frame,
    read_message_zero_copy, serialize_header_zero_copy, serialize_payload_zero_copy,
    write_message_zero_copy,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), WireError> {
    messages();
    buffers()?;
    frames()?;
    raft()?;
    chunks()?;
    streams().await
}

fn messages() {
    let data = b"raft message payload";
    let borrowed = ZeroCopyMessage::new_borrowed(MessageType::RaftMessage, None, data);
    assert_eq!(borrowed.payload.as_ptr(), data.as_ptr());
    println!("borrowed: the payload is the caller's, {} bytes on the wire", borrowed.total_size);

    let bytes = Bytes::from(b"response data".to_vec());
    let place = bytes.as_ptr();
    let owned = ZeroCopyMessage::new_owned(MessageType::Response, Some([7; 16]), bytes);
    assert_eq!(owned.payload.as_ptr(), place);
    let shared = owned.into_shared();
    let (first, second) = (shared.clone(), shared);
    assert_eq!((first.payload.as_ptr(), second.payload.as_ptr()), (place, place));
    println!("owned, then shared twice: the same memory all the way");
}

fn buffers() -> Result<(), WireError> {
    let mut buffer = BytesMut::with_capacity(1024);
    let place = buffer.as_ptr();
    let response = RpcResponse { success: true, payload: Some(vec![7; 20]), error: None };
    for _ in 0..100 {
        buffer.clear();
        serialize_header_zero_copy(&MessageHeader::new(MessageType::Response), &mut buffer)?;
        serialize_payload_zero_copy(&response, &mut buffer)?;
    }
    assert_eq!(buffer.as_ptr(), place);
    println!("100 values of {} bytes with their headers: one buffer, never moved", buffer.len());
    Ok(())
}

fn frames() -> Result<(), WireError> {
    let payload = Bytes::from(vec![7; 5000]);
    let mut out = Segments::default();
    encode_frame(&mut out, &MessageHeader::new(MessageType::RaftMessage), payload.clone())?;
    let parts = out.finish();
    assert_eq!(parts[1].as_ptr(), payload.as_ptr());
    println!("a frame of 5,000 bytes: {} slices, the payload where it was", parts.len());

    let received = Bytes::from(parts.concat());
    let mut parser = FrameParser::new(Limits::default());
    parser.feed(received.clone());
    let frame = parser.next_frame()?.ok_or(WireError::Closed { step: "reading back" })?;
    assert!(received.as_ptr_range().contains(&frame.payload.as_ptr()));
    assert_eq!(parser.gathered_bytes(), 0);
    println!("read back from one piece: a slice of it, {} bytes copied", parser.gathered_bytes());
    Ok(())
}

fn raft() -> Result<(), WireError> {
    let entry = Entry { index: 8, term: 3, data: vec![7; 3000].into(), ..Entry::default() };
    let mut message = Message { from: 1, to: 2, term: 3, ..Message::default() };
    message.set_msg_type(RaftType::MsgAppend);
    message.set_entries(vec![entry].into());
    let bytes = serialize_raft_message_fast(&message)?;
    let back = deserialize_raft_message_fast(bytes.clone())?;
    assert_eq!(back, message);
    assert!(bytes.as_ptr_range().contains(&back.entries[0].data.as_ptr()));
    println!("a Raft message of {} bytes: its entry is a slice of them", bytes.len());

    let request = create_raft_rpc_request(&message, Some([9; 16]))?;
    assert!(!should_stream_message(&request));
    assert!(is_heartbeat_message(&create_heartbeat_message()));
    Ok(())
}

fn chunks() -> Result<(), WireError> {
    let payload = Bytes::from(vec![7; 3 * LARGE_MESSAGE_THRESHOLD]);
    let header = MessageHeader::new(MessageType::RaftMessage);
    let mut writer = ChunkWriter::new(header, [payload.clone()], 1)?;
    let mut parser = MessageParser::new(Limits::default());
    let mut out = Segments::default();
    let mut steps = 0;
    loop {
        let more = writer.next_chunk(&mut out)?;
        steps += 1;
        for part in out.finish() {
            // Large parts are slices of the payload.
            let inside = payload.as_ptr_range().contains(&part.as_ptr());
            assert_eq!(inside, part.len() > 512);
            parser.feed(part.clone());
        }
        out.clear();
        if !more {
            break;
        }
    }
    let message = parser.next_message()?.ok_or(WireError::Closed { step: "reading back" })?;
    assert_eq!(message.payload, payload);
    println!("{} bytes in {steps} steps, none longer than 64 KiB", payload.len());
    Ok(())
}

async fn streams() -> Result<(), WireError> {
    let (mut near, mut far) = tokio::io::duplex(16 << 10);
    let payload = vec![7; 1 << 20];
    let message = ZeroCopyMessage::new_borrowed(MessageType::RaftMessage, None, &payload);
    assert!(message.is_large_message());
    let (written, read) = tokio::join!(
        write_message_zero_copy(&mut near, &message),
        read_message_zero_copy(&mut far)
    );
    written?;
    let (header, back) = read?;
    assert_eq!(back, payload);
    println!("{} bytes through a pipe of 16 KiB", header.payload_len);
    Ok(())
}
