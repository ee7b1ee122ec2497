//! Messages over streams: how many writes, which memory, what happens when the other side is slow or leaves.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod samples;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use samples::noise;
use straightway_wire::io::{StreamSource, read_message_with, write_payload, write_segments};
use straightway_wire::{
    CHUNK_BYTES, Frame, IoConfig, LARGE_MESSAGE_THRESHOLD, MessageHeader, MessageReader,
    MessageType, Segments, WireError, ZeroCopyMessage, encode_frame, read_message,
    read_message_zero_copy, write_message, write_message_zero_copy,
};
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream, duplex};

/// For writes that are not to run out of time, whatever else keeps the machine busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// Remembers each write: from where, and how much.
#[derive(Default)]
struct Recorder {
    vectored: bool,
    calls: Vec<Vec<(*const u8, usize)>>,
    bytes: Vec<u8>,
}

impl AsyncWrite for Recorder {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.calls.push(vec![(bytes.as_ptr(), bytes.len())]);
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        assert!(self.vectored, "asked for what it does not offer");
        self.calls.push(slices.iter().map(|slice| (slice.as_ptr(), slice.len())).collect());
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_small_message_is_one_write_with_the_payload_where_it_is() {
    let payload = noise(3000);
    let message = ZeroCopyMessage::new_borrowed(MessageType::RaftMessage, Some([1; 16]), &payload);
    let mut stream = Recorder { vectored: true, ..Recorder::default() };
    write_message_zero_copy(&mut stream, &message).await.expect("written");
    assert_eq!(stream.calls.len(), 1);
    assert!(stream.calls[0].contains(&(payload.as_ptr(), 3000)));
    assert_eq!(stream.bytes.len(), message.total_size as usize);

    // Where slices cannot be written, what is short is copied together.
    for (len, writes) in [(4, 1), (769, 1), ((16 << 10) - 16, 1), (16 << 10, 2)] {
        let payload = noise(len);
        let mut stream = Recorder::default();
        write_message(&mut stream, MessageType::Heartbeat, None, &payload).await.expect("written");
        assert_eq!(stream.calls.len(), writes, "{len}");
        assert_eq!(stream.bytes[16..], payload);
    }
    let mut out = Segments::default();
    for len in [600, 20_000, 700, 800] {
        out.push(noise(len));
    }
    let expected = out.io_slices().flat_map(|part| part.to_vec()).collect::<Vec<_>>();
    let mut stream = Recorder::default();
    write_segments(&mut stream, &mut out, PATIENCE).await.expect("written");
    let lens: Vec<_> = stream.calls.iter().map(|call| call[0].1).collect();
    assert_eq!(lens, [600, 20_000, 1500]);
    assert_eq!(stream.bytes, expected);
}

#[tokio::test]
async fn a_large_message_is_a_write_a_chunk_by_reference() {
    let payload = noise(2 * CHUNK_BYTES + 5);
    let message = ZeroCopyMessage::new_borrowed(MessageType::RaftMessage, None, &payload);
    let mut stream = Recorder { vectored: true, ..Recorder::default() };
    write_message_zero_copy(&mut stream, &message).await.expect("written");
    assert_eq!(stream.calls.len(), 3);
    for (call, chunk) in stream.calls.iter().zip(payload.chunks(CHUNK_BYTES)) {
        assert!(call.contains(&(chunk.as_ptr(), chunk.len())));
    }
    let (header, back) = read_message_zero_copy(&mut &stream.bytes[..]).await.expect("sound");
    assert_eq!(back, payload);
    assert_eq!(header.msg_type, MessageType::RaftMessage);
}

#[tokio::test]
async fn messages_of_all_sizes_cross_a_narrow_pipe() {
    let sizes = [0, 1, 511, 65_535, 65_536, 65_537, 200_000, 1 << 20];
    let (mut near, mut far) = duplex(1000);
    let send = async {
        for len in sizes {
            let payload = noise(len);
            let message =
                ZeroCopyMessage::new_borrowed(MessageType::Request, Some([2; 16]), &payload);
            write_message_zero_copy(&mut near, &message).await.expect("written");
        }
    };
    let receive = async {
        for len in sizes {
            let (header, payload) = read_message(&mut far).await.expect("sound");
            assert_eq!(payload, noise(len));
            assert_eq!(header.request_id, Some([2; 16]));
            assert_eq!(header.payload_len as usize, len);
        }
    };
    tokio::join!(send, receive);
}

/// Writes messages, and ends the stream.
async fn write_all(mut to: DuplexStream, frames: &[Frame]) {
    for frame in frames {
        write_payload(&mut to, frame.header, &frame.payload, PATIENCE).await.expect("written");
    }
}

/// These messages come, and the end.
async fn read_all(reader: &mut MessageReader<StreamSource<DuplexStream>>, frames: &[Frame]) {
    for frame in frames {
        let back = reader.next().await.expect("sound").expect("a message");
        assert_eq!(back.payload, frame.payload);
    }
    assert!(reader.next().await.expect("sound").is_none());
}

#[tokio::test]
async fn a_reader_takes_message_after_message_and_ends_with_the_stream() {
    let (mut near, far) = duplex(100_000);
    let mut out = Segments::default();
    let mut frames: Vec<_> = (0..200_usize)
        .map(|index| Frame::new(MessageType::RaftMessage, None, noise(index * 7)))
        .collect();
    for frame in &frames {
        encode_frame(&mut out, &frame.header, frame.payload.clone()).expect("small");
    }
    frames.push(Frame::new(MessageType::Request, None, noise(100_000)));
    let send = async {
        write_segments(&mut near, &mut out, PATIENCE).await.expect("written");
        write_all(near, &frames[200..]).await;
    };
    let mut reader = MessageReader::new(far, IoConfig::default());
    tokio::join!(send, read_all(&mut reader, &frames));
    assert!(reader.parser().stats().sliced >= 190, "{:?}", reader.parser().stats());
}

#[tokio::test]
async fn reading_may_be_cancelled_at_any_byte() {
    let (mut near, far) = duplex(64);
    let mut reader = MessageReader::new(far, IoConfig::default());
    let (bytes, _) = samples::encoded(&Frame::new(MessageType::Request, Some([3; 16]), noise(90)));
    for (index, byte) in bytes.iter().enumerate() {
        near.write_all(&[*byte]).await.expect("room");
        // Polled once, then dropped.
        let once = tokio::select! {
            biased;
            message = reader.next() => Some(message),
            () = std::future::ready(()) => None,
        };
        assert_eq!(once.is_some(), index + 1 == bytes.len(), "{index}");
        if let Some(message) = once {
            assert_eq!(message.expect("sound").expect("a message").payload, noise(90));
        }
    }
}

/// The clock stands still unless nothing else can go on.
#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_longer_than_allowed() {
    let (near, mut far) = duplex(64);
    let started = tokio::time::Instant::now();
    let error = read_message_zero_copy(&mut far).await.expect_err("nothing came");
    assert!(matches!(error, WireError::Timeout { step: "reading a header", .. }), "{error}");
    assert_eq!(started.elapsed().as_secs(), 30);

    let (mut near, mut far) = (near, far);
    let (bytes, _) = samples::encoded(&Frame::new(MessageType::Request, None, noise(90)));
    near.write_all(&bytes[..40]).await.expect("room");
    let config = IoConfig { timeout: Duration::from_secs(2), idle: None, ..IoConfig::default() };
    let error = read_message_with(&mut far, &config).await.expect_err("half came");
    assert!(matches!(error, WireError::Timeout { step: "reading a payload", .. }), "{error}");

    let message = ZeroCopyMessage::new_borrowed(MessageType::Request, None, &[0; 1000]);
    let error = write_message_zero_copy(&mut near, &message).await.expect_err("nobody reads");
    assert!(matches!(error, WireError::Timeout { step: "writing a message", .. }), "{error}");
}

/// Who sends a byte now and then is not waited for until all have come.
#[tokio::test(start_paused = true)]
async fn a_message_has_its_time_from_its_first_byte_on() {
    let config = IoConfig { timeout: Duration::from_secs(2), idle: None, ..IoConfig::default() };
    let (alive, _) = samples::encoded(&Frame::new(MessageType::Heartbeat, None, Bytes::new()));
    let header = MessageHeader::new(MessageType::Request);
    let mut long = Vec::new();
    write_payload(&mut long, header, &noise(200_000), PATIENCE).await.expect("written");
    let (short, _) = samples::encoded(&Frame::new(MessageType::Request, None, noise(3000)));
    // A chunk has a second more than nothing, the whole message three; others between its chunks change nothing.
    let chunk = 33 + 26 + CHUNK_BYTES;
    let cases =
        [(&short[..100], &b"x"[..], 2), (&long[..30_000], b"x", 3), (&long[..chunk], &alive, 5)];
    for (begun, now_and_then, most) in cases {
        let (mut near, far) = duplex(1 << 20);
        let drip = async {
            near.write_all(begun).await.expect("room");
            loop {
                // Pause: the clock stands still otherwise.
                tokio::time::sleep(Duration::from_secs(1)).await;
                near.write_all(now_and_then).await.expect("room");
            }
        };
        let mut reader = MessageReader::new(far, config);
        let started = tokio::time::Instant::now();
        let read = async {
            loop {
                match reader.next().await {
                    Ok(Some(frame)) => assert_eq!(frame.header.msg_type, MessageType::Heartbeat),
                    other => return other,
                }
            }
        };
        let late = tokio::select! {
            late = read => late,
            never = drip => never,
        };
        assert!(matches!(late, Err(WireError::Timeout { .. })), "{late:?}");
        assert_eq!(started.elapsed().as_secs(), most);
    }
}

/// Takes a little at a time, and a second for it.
struct Slow(Option<Pin<Box<tokio::time::Sleep>>>, usize);

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Pause: it is slow.
        let second = || Box::pin(tokio::time::sleep(Duration::from_secs(1)));
        std::task::ready!(self.0.get_or_insert_with(second).as_mut().poll(context));
        self.0 = None;
        self.1 += bytes.len().min(1000);
        Poll::Ready(Ok(bytes.len().min(1000)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn each_write_has_its_time() {
    let mut stream = Slow(None, 0);
    let mut out = Segments::default();
    for _ in 0..10 {
        out.push(noise(1000));
    }
    write_segments(&mut stream, &mut out, Duration::from_secs(2)).await.expect("slow, not dead");
    assert_eq!(stream.1, 10_000);
    out.push(noise(1000));
    let late = write_segments(&mut stream, &mut out, Duration::from_millis(500)).await;
    assert!(matches!(late, Err(WireError::Timeout { .. })), "{late:?}");
    assert!(out.is_empty());
}

#[tokio::test]
async fn a_long_payload_is_read_to_where_it_belongs() {
    let frames: Vec<_> = [300_000, 66_000, 5, 50_000, 131_072, 0, 70_000, 70_000]
        .map(|len| Frame::new(MessageType::RaftMessage, None, noise(len)))
        .into();
    for pipe in [700, 9000, 40_000, 1 << 20] {
        let (near, far) = duplex(pipe);
        let mut reader = MessageReader::new(far, IoConfig::default());
        tokio::join!(write_all(near, &frames), read_all(&mut reader, &frames));
        let copied = reader.parser().gathered_bytes();
        let all: usize = frames.iter().map(|frame| frame.payload.len()).sum();
        assert!(pipe < 40_000 || copied < all as u64 / 2, "{copied} of {all} through {pipe}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_half_way_is_an_error() {
    let (bytes, _) = samples::encoded(&Frame::new(MessageType::Request, None, noise(90)));
    for cut in 0..bytes.len() {
        let error = read_message_zero_copy(&mut &bytes[..cut]).await.expect_err("cut off");
        assert!(matches!(error, WireError::Closed { .. }), "{cut}: {error}");
        let mut reader = MessageReader::new(&bytes[..cut], IoConfig::default());
        match reader.next().await {
            Ok(None) => assert_eq!(cut, 0),
            Ok(Some(message)) => panic!("{message:?}"),
            Err(error) => assert!(matches!(error, WireError::Closed { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn other_messages_between_chunks_are_for_the_reader_of_many() {
    let mut wire = Vec::new();
    let payload = noise(LARGE_MESSAGE_THRESHOLD + 1);
    let message = ZeroCopyMessage::new_borrowed(MessageType::Request, None, &payload);
    write_message_zero_copy(&mut wire, &message).await.expect("written");
    let (between, _) = samples::encoded(&Frame::new(MessageType::Heartbeat, None, Bytes::new()));
    // Behind the first chunk: what is left is a chunk of one byte, and the end.
    let tail = wire.split_off(wire.len() - (26 + 1) - 29);
    wire.extend_from_slice(&between);
    wire.extend_from_slice(&tail);
    let error = read_message_zero_copy(&mut &wire[..]).await.expect_err("not alone");
    assert!(matches!(error, WireError::Stream { id: 0, .. }), "{error}");
    let mut reader = MessageReader::new(&wire[..], IoConfig::default());
    let first = reader.next().await.expect("sound").expect("a message");
    assert_eq!(first.header.msg_type, MessageType::Heartbeat);
    assert_eq!(reader.next().await.expect("sound").expect("a message").payload, payload);
}
