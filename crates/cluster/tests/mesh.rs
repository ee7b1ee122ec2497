//! Meshes over real sockets: three of them, counted allocations, beacons.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
#[path = "../../packet/tests/counting/mod.rs"]
mod counting;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use counting::allocations;
use straightway_cluster::lease::{BootTime, boot_clock};
use straightway_cluster::mesh::discovery::{self, Beacon, Hint};
use straightway_cluster::mesh::driver::{self, MeshHandle, Pump};
use straightway_cluster::mesh::{Event, MeshConfig, PERIOD, Reach, Reject};
use straightway_cluster::{ClusterId, NodeKey, RaftId};
use tokio::sync::mpsc::Receiver;

/// Within this everything happens that is waited for, on whatever machine.
const LIMIT: Duration = Duration::from_secs(20);

fn key(id: RaftId) -> NodeKey {
    NodeKey([u8::try_from(id).unwrap(); 32])
}

fn secret(a: RaftId, b: RaftId) -> [u8; 32] {
    [u8::try_from(a * b).unwrap(); 32]
}

fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

fn introduce(mesh: &MeshHandle, me: RaftId, addrs: &[SocketAddr]) {
    for (id, addr) in (1..).zip(addrs).filter(|(id, _)| *id != me) {
        mesh.peer(id, &key(id), Some(*addr)).unwrap();
        mesh.secret(id, secret(me, id));
    }
}

async fn next(events: &mut Receiver<Event>) -> Event {
    tokio::time::timeout(LIMIT, events.recv()).await.expect("an event in time").expect("it runs")
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !holds() {
            // Pause: the condition is another task's; it is asked again.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("it comes true in time");
}

#[tokio::test]
async fn three_meshes_find_each_other_and_notice_who_goes_and_comes_back() {
    let (sockets, addrs): (Vec<_>, Vec<_>) = (0..3).map(|_| socket()).unzip();
    let start = |me: RaftId, socket: UdpSocket| {
        let config =
            MeshConfig { period: Duration::from_millis(20), ..MeshConfig::new(me, key(me)) };
        let (mesh, events) = driver::start(socket, config).unwrap();
        introduce(&mesh, me, &addrs);
        (mesh, events)
    };
    let mut running: Vec<_> = (1..).zip(sockets).map(|(me, socket)| start(me, socket)).collect();
    let direct = |mesh: &MeshHandle| {
        mesh.statuses()
            .iter()
            .all(|(_, status)| status.reach == Reach::Direct && status.rtt.is_some())
    };
    until(|| running.iter().all(|(mesh, _)| direct(mesh))).await;
    let mut order = [3, 2, 1];
    running[0].0.nearest(&mut order);
    assert_eq!(order[0], 1);

    // A stranger's noise is counted, and disturbs nobody.
    let (stranger, _) = socket();
    stranger.send_to(&[7; 79], addrs[0]).unwrap();
    stranger.send_to(&[7; 300], addrs[0]).unwrap();
    until(|| running[0].0.stats().rejected.of(Reject::Version) == 1).await;
    until(|| running[0].0.stats().rejected.of(Reject::Length) == 1).await;

    let (third, _) = running.pop().unwrap();
    third.stop();
    for (_, events) in &mut running {
        assert_eq!(next(events).await, Event::Suspected { peer: 3 });
    }
    // It comes back elsewhere, with new secrets.
    let (socket, addr) = socket();
    let config = MeshConfig { period: Duration::from_millis(20), ..MeshConfig::new(3, key(3)) };
    let (third, _events) = driver::start(socket, config).unwrap();
    for (peer, (mesh, _)) in (1..).zip(&running) {
        mesh.peer(3, &key(3), Some(addr)).unwrap();
        third.peer(peer, &key(peer), None).unwrap();
        mesh.secret(3, [9; 32]);
        third.secret(peer, [9; 32]);
    }
    for (_, events) in &mut running {
        assert_eq!(next(events).await, Event::Recovered { peer: 3 });
    }
    until(|| direct(&third)).await;
    assert_eq!(running[0].0.stats().events_lost, 0);
}

#[test]
fn a_heartbeat_and_its_answer_allocate_nothing() {
    let (sockets, addrs): (Vec<_>, Vec<_>) = (0..2).map(|_| socket()).unzip();
    let mut pumps: Vec<_> = (1..)
        .zip(sockets)
        .map(|(me, socket)| {
            let (pump, events) = Pump::new(Arc::new(socket), MeshConfig::new(me, key(me))).unwrap();
            introduce(&pump.handle(), me, &addrs);
            (pump, events)
        })
        .collect();
    let mut now = boot_clock();
    let mut all = 0;
    let mut round = |rounds: u64| {
        for _ in 0..rounds {
            now = now.after(PERIOD);
            all += 2;
            for (pump, _) in &mut pumps {
                pump.tick(now);
            }
            let later = BootTime(now.0 + 1000);
            let began = Instant::now();
            // One heartbeat and one answer to each; the kernel may take its time.
            while pumps.iter().any(|(pump, _)| pump.handle().stats().received < all) {
                for (pump, _) in &mut pumps {
                    assert!(!pump.receive(later));
                }
                assert!(began.elapsed() < LIMIT, "datagrams are missing");
            }
        }
    };
    round(4);
    assert_eq!(allocations(|| round(100)), 0);
    for (pump, _) in &pumps {
        let stats = pump.handle().stats();
        assert_eq!(
            (stats.sent, stats.received, stats.unsent, stats.rejected.total()),
            (208, 208, 0, 0)
        );
        let (_, status) = pump.handle().statuses()[0];
        assert_eq!((status.sent, status.answered, status.loss_permille), (104, 104, 0));
        assert_eq!(status.rtt, Some(Duration::from_micros(1)));
    }
}

#[tokio::test]
async fn members_find_each_other_by_beacons_and_strangers_are_ignored() {
    let cluster = ClusterId([5; 16]);
    let ((one, addr_one), (two, addr_two)) = (socket(), socket());
    let beacon = |id: RaftId, cluster| Beacon {
        cluster,
        key: key(id),
        addresses: vec![SocketAddr::from(([192, 0, 2, 1], 4000 + u16::try_from(id).unwrap()))],
    };
    let member = |known: RaftId| Arc::new(move |other: &NodeKey| *other == key(known));
    let period = Duration::from_millis(10);
    let (_first, mut told) =
        discovery::start(one, addr_two, beacon(1, cluster), period, member(2)).unwrap();
    let (stranger, _) = socket();
    let noise = [
        beacon(9, cluster).encode(),
        beacon(2, ClusterId([6; 16])).encode(),
        beacon(1, cluster).encode(),
        vec![0; 500],
    ];
    for bytes in &noise {
        stranger.send_to(bytes, addr_one).unwrap();
    }
    let (_second, mut heard) =
        discovery::start(two, addr_one, beacon(2, cluster), period, member(1)).unwrap();
    let hint = |id| {
        let Beacon { key, addresses, .. } = beacon(id, cluster);
        Hint { key, addresses }
    };
    assert_eq!(tokio::time::timeout(LIMIT, told.recv()).await.unwrap(), Some(hint(2)));
    assert_eq!(tokio::time::timeout(LIMIT, heard.recv()).await.unwrap(), Some(hint(1)));
    // The same again is no news; a change is.
    let mut moved = beacon(2, cluster);
    moved.addresses.push(addr_two);
    stranger.send_to(&moved.encode(), addr_one).unwrap();
    let Hint { addresses, .. } = tokio::time::timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    assert_eq!(addresses, moved.addresses);
}
