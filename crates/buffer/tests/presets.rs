//! The presets, the cursor, arenas and stack buffers: what each promises, and the faults that such pools are known for.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use straightway_buffer::packet::{self, PER_CLASS, get_buffer, return_buffer, take_buffer};
use straightway_buffer::{
    Arena, BufferError, BufferPool, Exhaustion, LargeBufferPool, MemoryPool, PoolConfig, Reason,
    SharedPacket, StackBuffer, ZeroCopyBuffer,
};

/// Runs on a thread of its own, whose packet buffers nobody else has used.
fn afresh(test: impl FnOnce() + Send + 'static) {
    thread::spawn(test).join().expect("the test is content");
}

#[test]
fn packet_buffers_are_as_large_as_asked_for() {
    afresh(|| {
        for (size, room) in [(0, 256), (256, 256), (257, 512), (512, 512), (1500, 1500)] {
            assert_eq!(get_buffer(size).capacity(), room, "{size}");
        }
        assert!(
            get_buffer(9000).capacity() >= 9000,
            "beyond the classes it is served all the same"
        );
        assert_eq!(packet::stats().oversize, 1);
    });
}

#[test]
fn packet_buffers_that_were_split_advanced_or_grown_still_come_home() {
    afresh(|| {
        let mut split = get_buffer(1500);
        split.extend_from_slice(&[1; 1000]);
        drop(split.split_to(500));
        return_buffer(split);
        let mut grown = get_buffer(256);
        grown.extend_from_slice(&[2; 600]);
        return_buffer(grown);
        let stats = packet::stats();
        assert_eq!((stats.returns, stats.drops, stats.outstanding), (2, 0, 0));
        let again = get_buffer(1500);
        assert!(again.is_empty() && again.capacity() >= 1500);
        assert_eq!(packet::stats().hits, 1);
        // Half of it is still held elsewhere, a giant, and one that never was a packet buffer.
        let mut held = get_buffer(512);
        held.extend_from_slice(&[3; 512]);
        let other_half = held.split_off(256);
        return_buffer(held);
        return_buffer(BytesMut::with_capacity(1 << 20));
        return_buffer(BytesMut::new());
        assert_eq!(other_half.len(), 256);
        assert_eq!(packet::stats().drops, 2, "the first still has its half: {:?}", packet::stats());
    });
}

#[test]
fn a_thread_keeps_a_bounded_number_of_packet_buffers() {
    afresh(|| {
        let many: Vec<_> = (0..100).map(|_| take_buffer(512)).collect();
        drop(many);
        let stats = packet::stats();
        assert_eq!(stats.returns, PER_CLASS as u64);
        assert_eq!(stats.drops, 100 - PER_CLASS as u64);
        assert_eq!(stats.bytes_held, PER_CLASS as u64 * 512);
        drop(take_buffer(512).into_inner());
        assert_eq!(packet::stats().outstanding, 1, "kept out of the pool");
        for _ in 0..1000 {
            drop(take_buffer(400));
        }
        assert!(packet::stats().hit_rate() > 0.9);
    });
}

#[test]
fn a_thread_that_ends_frees_its_packet_buffers_and_keeps_none_from_there_on() {
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            // The pool's own are gone: what comes now is freed, which Miri checks.
            let (before, late) = (packet::stats(), take_buffer(100));
            drop(late);
            let after = packet::stats();
            assert_eq!((before.bytes_held, after.bytes_held), (0, 0));
            assert_eq!((after.misses - before.misses, after.drops - before.drops), (1, 1));
        }
    }
    thread_local! {
        static LATE: Late = const { Late };
    }
    afresh(|| {
        // Registered first, so that it is destroyed last.
        LATE.with(|_| ());
        drop(take_buffer(100));
        assert_eq!(packet::stats().bytes_held, 256);
    });
}

#[test]
fn a_buffer_dropped_while_its_thread_ends_is_no_panic() {
    thread_local! {
        static LAST: std::cell::RefCell<Vec<packet::PacketBuffer>> = const { std::cell::RefCell::new(Vec::new()) };
        static POOLED: std::cell::RefCell<Vec<straightway_buffer::PooledBuffer>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let pool = BufferPool::new(PoolConfig::packets()).expect("a pool");
    let of_thread = pool.clone();
    afresh(move || {
        // Registered first, so that they are destroyed after the pools' own.
        LAST.with(|last| last.borrow_mut().reserve(1));
        POOLED.with(|last| last.borrow_mut().reserve(1));
        LAST.with(|last| last.borrow_mut().push(take_buffer(100)));
        POOLED.with(|last| last.borrow_mut().push(of_thread.acquire(100).expect("a buffer")));
    });
    let stats = pool.stats();
    assert_eq!((stats.outstanding, stats.returns + stats.drops), (0, 1), "{stats:?}");
}

#[test]
fn exact_sizes_take_exactly_so_much_and_reuse_does_not_change_that() {
    let pool = MemoryPool::new(4096);
    for round in 0..3 {
        let mut buffer = pool.allocate(100).expect("a buffer");
        assert_eq!((buffer.len(), buffer.remaining()), (0, 100), "round {round}");
        assert_eq!(buffer.write(&[7; 150]), 100, "a short write is told");
        assert_eq!(
            buffer.write_all(b"x"),
            Err(BufferError::BeyondCapacity { len: 101, capacity: 100 })
        );
        pool.deallocate(buffer);
    }
    let stats = pool.get_stats();
    assert_eq!((stats.pool_count, stats.total_pooled, stats.total_freed), (7, 1, 0));
    drop(pool.allocate(100_000).expect("beyond the largest"));
    assert!(pool.get_stats().total_freed >= 100_000);
}

#[test]
fn the_cursor_never_reads_what_was_not_written() {
    let pool = MemoryPool::new(4096);
    let mut dirty = pool.allocate(64).expect("a buffer");
    dirty.write_all(&[0xee; 64]).expect("fits");
    drop(dirty);
    let mut buffer = pool.allocate(64).expect("the same");
    let mut word = [0; 8];
    assert_eq!(buffer.read(&mut word), 0);
    Write::write_all(&mut buffer, b"straight").expect("fits");
    assert_eq!(Read::read(&mut buffer, &mut word[..4]).expect("reads"), 4);
    assert_eq!((&word[..4], buffer.unread()), (&b"stra"[..], 4));
    assert_eq!(buffer.seek(9), Err(BufferError::BeyondWritten { position: 9, len: 8 }));
    buffer.seek(8).expect("the end");
    assert_eq!(buffer.read_slice(1), b"");
    assert_eq!(&buffer.share()[..], b"straight");
}

#[test]
fn an_arena_that_is_full_says_so_and_a_failed_build_leaves_no_trace() {
    let pool = BufferPool::new(PoolConfig::packets()).expect("a pool");
    let mut arena = Arena::new(pool.acquire(512).expect("a buffer"));
    arena.reserve(500).expect("fits").fill(1);
    let full = BufferError::BeyondCapacity { len: 600, capacity: 512 };
    assert_eq!(arena.reserve(100).err(), Some(full));
    assert_eq!(arena.push_with(|_| Err(BufferError::NoClasses)), Err(BufferError::NoClasses));
    assert_eq!(arena.push_with(|room| Ok::<_, BufferError>(room.len() + 1)).ok(), None);
    arena
        .push_with(|room| {
            room[..3].copy_from_slice(b"end");
            Ok::<_, BufferError>(3)
        })
        .expect("fits");
    let batch = arena.finish();
    let lens: Vec<_> = batch.iter().map(|packet| packet.len()).collect();
    assert_eq!(lens, [500, 3]);
    let last = batch.get(1).expect("there");
    assert!(batch.get(2).is_none());
    let batch = batch.recycle().expect_err("a packet is in use");
    assert_eq!(&last[..], b"end");
    drop(last);
    assert_eq!(batch.recycle().expect("free").remaining(), 512);
}

#[test]
fn a_vector_becomes_a_packet_without_a_copy() {
    let vec = Vec::from(&b"straightway"[..]);
    let address = vec.as_ptr();
    let packet = SharedPacket::from(vec);
    assert_eq!(packet.as_ptr(), address);
    let copy = packet.clone();
    assert!(!packet.is_unique());
    let packet = packet.try_into_mut().expect_err("shared");
    drop(copy);
    let mut buffer = packet.try_into_mut().expect("alone");
    buffer.set_len(8).expect("shorter");
    assert_eq!(&buffer.freeze()[..], b"straight");
    assert!(SharedPacket::from(Vec::new()).is_empty());
    assert!(SharedPacket::default().try_into_mut().is_err(), "there is no memory");
}

proptest! {
    #[test]
    fn slices_of_packets_are_slices_of_their_bytes(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        a in 0..220usize, b in 0..220usize, c in 0..220usize, d in 0..220usize,
    ) {
        let packet = SharedPacket::from(bytes.clone());
        let outer = packet.get(a..b);
        prop_assert_eq!(outer.as_deref(), bytes.get(a..b));
        if let (Some(outer), Some(expected)) = (outer, bytes.get(a..b)) {
            let inner = outer.get(c..d);
            prop_assert_eq!(inner.as_deref(), expected.get(c..d));
            prop_assert_eq!(&outer.into_bytes()[..], expected);
        }
        let inclusive = packet.get(..=a);
        prop_assert_eq!(inclusive.as_deref(), bytes.get(..=a));
    }

    #[test]
    fn the_cursor_behaves_as_a_vector_with_two_positions(
        size in 0..100usize,
        ops in proptest::collection::vec((0..4u8, 0..60usize), 0..40),
    ) {
        let pool = MemoryPool::new(64);
        let mut cursor: ZeroCopyBuffer = pool.allocate(size).expect("a buffer");
        let (mut written, mut at) = (Vec::new(), 0);
        for (n, (op, len)) in ops.into_iter().enumerate() {
            let bytes = vec![u8::try_from(n).expect("few"); len];
            match op {
                0 => {
                    let taken = cursor.write(&bytes);
                    prop_assert_eq!(taken, len.min(size - written.len()));
                    written.extend_from_slice(&bytes[..taken]);
                }
                1 => {
                    let end = (at + len).min(written.len());
                    prop_assert_eq!(cursor.read_slice(len), &written[at..end]);
                    at = end;
                }
                2 => if cursor.seek(len).is_ok() {
                    prop_assert!(len <= written.len());
                    at = len;
                } else {
                    prop_assert!(len > written.len());
                },
                _ => {
                    let all = cursor.write_all(&bytes).is_ok();
                    prop_assert_eq!(all, len <= size - written.len());
                    if all { written.extend_from_slice(&bytes); }
                }
            }
            prop_assert_eq!(cursor.written(), &written[..]);
            prop_assert_eq!((cursor.len(), cursor.remaining(), cursor.unread()), (written.len(), size - written.len(), written.len() - at));
        }
    }

    #[test]
    fn headroom_is_filled_from_behind(room in 0..64usize, heads in proptest::collection::vec(0..30usize, 0..5)) {
        let pool = BufferPool::new(PoolConfig::packets()).expect("a pool");
        let mut buffer = pool.acquire(200).expect("a buffer");
        buffer.set_headroom(room).expect("fits");
        buffer.fill_from(b"payload", Reason::Ingest);
        let (mut expected, mut left) = (b"payload".to_vec(), room);
        for (n, len) in heads.into_iter().enumerate() {
            let mark = u8::try_from(n).expect("few");
            match buffer.prepend(len) {
                Ok(head) => {
                    prop_assert!(len <= left);
                    head.fill(mark);
                    expected.splice(0..0, std::iter::repeat_n(mark, len));
                    left -= len;
                }
                Err(error) => prop_assert_eq!(error, BufferError::BeyondCapacity { len, capacity: left }),
            }
            prop_assert_eq!(&buffer[..], &expected[..]);
        }
    }

    #[test]
    fn a_stack_buffer_takes_all_or_nothing(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..10)) {
        let mut stack = StackBuffer::<128>::new();
        let mut expected = Vec::new();
        for part in parts {
            if stack.extend_from(&part).is_ok() {
                expected.extend(part);
            } else {
                prop_assert!(expected.len() + part.len() > 128);
            }
            prop_assert_eq!(&stack[..], &expected[..]);
        }
    }
}

#[test]
fn sizes_beyond_all_reason_make_no_pool_that_keeps_them() {
    let pool = MemoryPool::new(usize::MAX);
    drop(pool.allocate(32 << 20).expect("served"));
    assert_eq!(pool.get_stats().total_pooled, 0, "more than may be held");
    let tiers = LargeBufferPool::with_tiers(PoolConfig::tiered(), [usize::MAX; 3]);
    assert!(matches!(tiers.acquire(usize::MAX - 4095), Err(BufferError::OutOfMemory { .. })));
    assert_eq!(tiers.stats().high_water_bytes, 0, "what never existed is not counted");
}

/// One large buffer that comes back is room for several small ones.
#[test]
#[cfg_attr(
    miri,
    ignore = "waiting threads are parked by a library that keeps pointers as integers"
)]
fn all_who_wait_look_when_a_buffer_comes_back() {
    let pool = BufferPool::new(PoolConfig {
        classes: vec![4096, 65_536],
        align: 4096,
        max_bytes: 65_536,
        exhaustion: Exhaustion::Wait(Duration::from_secs(30)),
        ..PoolConfig::tiered()
    })
    .expect("a pool");
    let large = pool.acquire(65_536).expect("fits");
    let all_have_one = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let small = pool.acquire(4096).expect("there is room for all");
                all_have_one.wait();
                drop(small);
            });
        }
        drop(large);
    });
    assert!(matches!(pool.acquire(1 << 20), Err(BufferError::Exhausted { .. })), "at once");
}

#[test]
fn memory_that_is_larger_than_it_shows_is_not_kept() {
    let before = straightway_buffer::packet::stats();
    let mut large = BytesMut::with_capacity(1 << 20);
    large.extend_from_slice(&[7; 1000]);
    let front = large.split_to(100);
    drop(large);
    straightway_buffer::packet::return_buffer(front);
    let after = straightway_buffer::packet::stats();
    assert_eq!((after.drops - before.drops, after.bytes_held), (1, before.bytes_held));
    let mut all = straightway_buffer::packet::take_buffer(256);
    all.extend_from_slice(&[0; 256]);
    drop(all.split());
    drop(all);
    assert_eq!(straightway_buffer::packet::stats().outstanding, after.outstanding, "given back");
}
