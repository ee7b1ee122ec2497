//! Batches over real sockets: everything arrives as it was, few calls carry much, and what cannot go is told.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod counting;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use counting::allocations;
use proptest::prelude::*;
use straightway_packet::batch::{
    BatchReceiver, BatchSender, MAX_PAYLOAD, Offload, ReceiveOptions, SendOptions,
};

/// Nothing here takes that long, unless others keep the machine busy.
const SOON: Duration = Duration::from_mins(1);
const ALL: [Offload; 3] = [Offload::Auto, Offload::NoSegmentation, Offload::Portable];

fn socket() -> (Arc<UdpSocket>, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (Arc::new(socket), address)
}

fn sender(offload: Offload) -> (BatchSender, SocketAddr) {
    let (socket, address) = socket();
    (BatchSender::new(socket, SendOptions { offload, ..SendOptions::default() }).unwrap(), address)
}

fn receiver(offload: Offload, mtu: usize) -> (BatchReceiver, SocketAddr) {
    let (socket, address) = socket();
    let options = ReceiveOptions { mtu, offload, ..ReceiveOptions::default() };
    (BatchReceiver::new(socket, options).unwrap(), address)
}

/// Receives until that many datagrams are there.
fn collect(receiver: &mut BatchReceiver, count: usize) -> Vec<(Vec<u8>, SocketAddr)> {
    let deadline = Instant::now() + SOON;
    let mut seen = Vec::new();
    while seen.len() < count && Instant::now() < deadline {
        receiver.receive(Duration::from_millis(100)).unwrap();
        seen.extend(receiver.datagrams().map(|datagram| {
            assert!(!datagram.truncated);
            (datagram.bytes.to_vec(), datagram.from)
        }));
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 8, ..ProptestConfig::default() })]
    #[test]
    fn what_is_sent_arrives_in_order_whatever_the_sizes_and_places(
        packets in proptest::collection::vec((0..3usize, 0..5usize), 1..40), send in 0..3usize, receive in 0..3usize,
    ) {
        // Few and small enough that all of them fit a socket that nobody reads yet.
        let sizes = [0, 1, 100, 1400, 3000];
        let (mut sender, from) = sender(ALL[send]);
        let mut receivers: Vec<_> = (0..3).map(|_| receiver(ALL[receive], 3001)).collect();
        let mut expected = vec![Vec::new(); 3];
        for (n, (to, size)) in packets.into_iter().enumerate() {
            let bytes = vec![u8::try_from(n).unwrap(); sizes[size]];
            expected[to].push((bytes.clone(), from));
            sender.push(receivers[to].1, Bytes::from(bytes)).unwrap();
        }
        let sent = sender.flush(SOON).unwrap();
        prop_assert_eq!((sent.refused, sent.waiting), (0, 0));
        for ((receiver, _), expected) in receivers.iter_mut().zip(expected) {
            prop_assert_eq!(collect(receiver, expected.len()), expected);
        }
    }
}

#[test]
fn few_calls_carry_many_datagrams() {
    for offload in ALL {
        let (mut sender, _) = sender(offload);
        let (mut receiver, to) = receiver(offload, 1300);
        for n in 0..80u8 {
            sender.push(to, Bytes::from(vec![n; 1200])).unwrap();
        }
        sender.flush(SOON).unwrap();
        let stats = sender.stats();
        assert_eq!((stats.datagrams, stats.bytes, stats.refused), (80, 96_000, 0));
        // 54 of them fill a message; 64 messages fit a call. As many as fit a socket that nobody reads yet.
        let expected = match offload {
            Offload::Auto => (1, 2),
            Offload::NoSegmentation => (2, 80),
            Offload::Portable => (80, 80),
        };
        assert_eq!((stats.calls, stats.messages), expected, "{offload:?}");
        let seen = collect(&mut receiver, 80);
        assert!(seen.iter().zip(0..80u8).all(|((bytes, _), n)| *bytes == vec![n; 1200]));
        assert_eq!(seen.len(), 80);
        if offload != Offload::Portable {
            assert!(receiver.stats().calls <= 8, "{:?}", receiver.stats());
        }
    }
}

#[test]
fn a_full_queue_hands_the_packet_back_and_a_full_socket_keeps_the_rest() {
    let (socket, _) = socket();
    let options = SendOptions { queue: 2, ..SendOptions::default() };
    let mut small = BatchSender::new(socket, options).unwrap();
    let (mut receiver, to) = receiver(Offload::Auto, 1500);
    for n in 0..2u8 {
        small.push(to, Bytes::from(vec![n])).unwrap();
    }
    assert_eq!(small.push(to, Bytes::from_static(b"too much")).unwrap_err(), "too much");
    assert_eq!(small.waiting(), 2);
    small.flush(SOON).unwrap();
    assert_eq!(collect(&mut receiver, 2).len(), 2);

    // A flush without time sends what it can and loses nothing.
    let (mut sender, _) = sender(Offload::NoSegmentation);
    for n in 0..80u8 {
        sender.push(to, Bytes::from(vec![n; 500])).unwrap();
    }
    let mut sent = 0;
    while sender.waiting() > 0 {
        sent += sender.flush(Duration::ZERO).unwrap().datagrams;
    }
    assert_eq!(sent, 80);
    assert_eq!(collect(&mut receiver, 80).len(), 80);
}

#[test]
fn one_packet_that_cannot_go_does_not_hold_up_the_others() {
    for offload in ALL {
        let (mut sender, _) = sender(offload);
        let (mut receiver, to) = receiver(offload, 1500);
        let packets = [100, MAX_PAYLOAD + 1, 200, 300];
        for len in packets {
            sender.push(to, Bytes::from(vec![1; len])).unwrap();
        }
        let sent = sender.flush(SOON).unwrap();
        assert_eq!((sent.datagrams, sent.refused, sent.waiting), (3, 1, 0), "{offload:?}");
        let refused = sender.take_refused();
        assert_eq!(
            (refused.len(), refused[0].to, refused[0].packet.len()),
            (1, to, MAX_PAYLOAD + 1)
        );
        assert_eq!(refused[0].error.raw_os_error(), Some(90), "EMSGSIZE");
        let lens: Vec<_> = collect(&mut receiver, 3).iter().map(|(bytes, _)| bytes.len()).collect();
        assert_eq!(lens, [100, 200, 300]);
    }
}

#[test]
fn a_route_that_refuses_joined_packets_gets_them_apart() {
    // Segments longer than the path takes are refused joined (EINVAL or EMSGSIZE) and go apart, as fragments.
    let (mut sender, _) = sender(Offload::Auto);
    let (mut receiver, to) = receiver(Offload::Auto, 9000);
    let no_checksum = 11; // SO_NO_CHECK: the kernel cannot cut packets without a checksum, and says EINVAL or EIO.
    rustix_free_setsockopt(sender.socket(), no_checksum);
    for n in 0..20u8 {
        sender.push(to, Bytes::from(vec![n; 1000])).unwrap();
    }
    let sent = sender.flush(SOON).unwrap();
    assert_eq!((sent.datagrams, sent.refused), (20, 0));
    assert_eq!(collect(&mut receiver, 20).len(), 20);
    let stats = sender.stats();
    assert_eq!((stats.apart, stats.messages), (1, 20), "refused once, then remembered");
    for n in 0..20u8 {
        sender.push(to, Bytes::from(vec![n; 1000])).unwrap();
    }
    sender.flush(SOON).unwrap();
    assert_eq!(sender.stats().apart, 1);
}

#[expect(unsafe_code, reason = "the standard library has no such option")]
fn rustix_free_setsockopt(socket: &UdpSocket, option: i32) {
    use std::os::fd::AsRawFd;
    let (one, level) = (1i32, 1);
    // SAFETY: four bytes lie at the pointer.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const one).cast(), 4) };
    assert_eq!(answer, 0);
}

#[test]
fn what_is_longer_than_the_buffer_is_marked() {
    for offload in [Offload::NoSegmentation, Offload::Portable] {
        let (plain, _) = socket();
        let (mut receiver, to) = receiver(offload, 100);
        plain.send_to(&[1; 1400], to).unwrap();
        plain.send_to(&[2; 50], to).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            receiver.receive(SOON).unwrap();
            seen.extend(receiver.datagrams().map(|d| (d.bytes.len(), d.truncated)));
        }
        assert!(seen[0].1 && seen[0].0 < 1400 && seen[1] == (50, false), "{seen:?}");
        assert_eq!(receiver.stats().truncated, 1);
    }
}

#[test]
fn what_is_as_long_as_expected_is_not_marked() {
    for offload in ALL {
        // A class of the pool, so that the buffer is not longer by itself.
        let (mut receiver, to) = receiver(offload, 2048);
        socket().0.send_to(&[1; 2048], to).unwrap();
        assert_eq!(collect(&mut receiver, 1)[0].0.len(), 2048, "{offload:?}");
    }
}

#[test]
fn a_second_receiver_of_a_socket_gets_it_as_it_wants_it() {
    let (socket, to) = socket();
    let options = |offload| ReceiveOptions { offload, ..ReceiveOptions::default() };
    drop(BatchReceiver::new(socket.clone(), options(Offload::Auto)).unwrap());
    let mut plain = BatchReceiver::new(socket, options(Offload::NoSegmentation)).unwrap();
    let (mut sender, _) = sender(Offload::Auto);
    for n in 0..10u8 {
        sender.push(to, Bytes::from(vec![n; 1000])).unwrap();
    }
    sender.flush(SOON).unwrap();
    // Joined, the ten would not fit one buffer.
    assert_eq!(collect(&mut plain, 10).len(), 10);
}

#[test]
fn waiting_ends_when_nothing_comes() {
    let (mut receiver, _) = receiver(Offload::Auto, 1500);
    assert_eq!(receiver.try_receive().unwrap(), 0);
    assert_eq!(receiver.receive(Duration::from_millis(1)).unwrap(), 0);
    assert_eq!(receiver.datagrams().count(), 0);
}

#[test]
fn datagrams_are_shared_without_a_copy_and_their_buffers_come_back() {
    let (mut sender, _) = sender(Offload::Auto);
    let (mut receiver, to) = receiver(Offload::Auto, 1500);
    for n in 0..40u8 {
        sender.push(to, Bytes::from(vec![n; 1200])).unwrap();
    }
    sender.flush(SOON).unwrap();
    let mut kept = Vec::new();
    while kept.len() < 40 {
        receiver.receive(SOON).unwrap();
        let places: Vec<_> = receiver.datagrams().map(|d| d.bytes.as_ptr()).collect();
        let before = kept.len();
        receiver.share(|packet, _| kept.push(packet)).unwrap();
        assert!(
            kept[before..].iter().all(|packet| places.contains(&packet.as_ptr())),
            "the same memory"
        );
    }
    kept.sort_by_key(|packet| packet[0]);
    assert!(kept.iter().zip(0..).all(|(packet, n)| packet[..] == [n; 1200]));
    let held = receiver.pool().stats().outstanding;
    drop(kept);
    assert!(receiver.pool().stats().outstanding < held);
}

#[test]
fn nothing_is_allocated_once_it_runs() {
    for offload in ALL {
        let (mut sender, _) = sender(offload);
        let (mut receiver, to) = receiver(offload, 1500);
        let packet = Bytes::from(vec![7; 1200]);
        let mut round = || {
            for _ in 0..16 {
                sender.push(to, packet.clone()).expect("room");
            }
            sender.flush(SOON).expect("sent");
            let mut seen = 0;
            while seen < 16 {
                receiver.receive(SOON).expect("received");
                seen += receiver.datagrams().filter(|datagram| datagram.bytes == packet).count();
                receiver.share(|packet, _| assert_eq!(packet.len(), 1200)).expect("shared");
            }
        };
        round();
        round();
        assert_eq!(allocations(|| (0..50).for_each(|_| round())), 0, "{offload:?}");
    }
}
