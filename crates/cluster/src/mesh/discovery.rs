//! Members on the local network, where that is wanted: beacons that say who listens where.
//!
//! ```text
//! 0  1 version: 1    1  16 cluster    17  32 node key    49  1 count, 8 at most
//! 50  per address: 16 IP (IPv4 as ::ffff:a.b.c.d)  2 port    then  16 BLAKE3 of all before, keyed           big-endian
//! ```
//! A beacon proves nothing: its key follows from the cluster's name, and only keeps clusters apart. What it says is a hint,
//! where a member *may* be found; whoever is found there has to prove who it is. Beacons of others are ignored.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::ClusterError;
use crate::ids::{ClusterId, NodeKey};

/// Addresses that a beacon names, at most.
pub const MAX_ADDRESSES: usize = 8;
/// How often a beacon is sent.
pub const BEACON_PERIOD: Duration = Duration::from_secs(5);
/// Where beacons are sent to: a group that no router passes on.
pub const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 83, 87)), 8387);

const HEAD_BYTES: usize = 50;
const ADDRESS_BYTES: usize = 18;
const MAC_BYTES: usize = 16;
const MAX_BYTES: usize = HEAD_BYTES + MAX_ADDRESSES * ADDRESS_BYTES + MAC_BYTES;
const VERSION: u8 = 1;
/// Members of which the last hint is remembered, so that it is told once.
const MAX_REMEMBERED: usize = super::MAX_PEERS;

/// Who listens where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub key: NodeKey,
    /// Where it takes connections: the first eight count.
    pub addresses: Vec<SocketAddr>,
}

impl Beacon {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let addresses = self.addresses.iter().take(MAX_ADDRESSES);
        let mut bytes = Vec::with_capacity(MAX_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.key.0);
        bytes.push(u8::try_from(addresses.len()).unwrap_or(0));
        for address in addresses {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            bytes.extend_from_slice(&ip.octets());
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        let mac = mac(self.cluster, &bytes);
        bytes.extend_from_slice(&mac);
        bytes
    }

    /// A beacon of this cluster; `None`: it is something else.
    pub fn decode(bytes: &[u8], cluster: ClusterId) -> Option<Self> {
        let (said, proof) = bytes.split_last_chunk::<MAC_BYTES>()?;
        let (head, addresses) = said.split_first_chunk::<HEAD_BYTES>()?;
        let [version, rest @ .., count] = head;
        let (of, key) = rest.split_first_chunk()?;
        let key = NodeKey(key.try_into().ok()?);
        let (addresses, left) = addresses.as_chunks::<ADDRESS_BYTES>();
        let sound = *version == VERSION
            && *of == cluster.0
            && usize::from(*count) == addresses.len()
            && addresses.len() <= MAX_ADDRESSES
            && left.is_empty()
            && mac(cluster, said) == *proof;
        if !sound {
            return None;
        }
        let address = |bytes: &[u8; ADDRESS_BYTES]| {
            let (ip, port) = bytes.split_first_chunk::<16>()?;
            let ip = Ipv6Addr::from(*ip).to_canonical();
            Some(SocketAddr::new(ip, u16::from_be_bytes(port.try_into().ok()?)))
        };
        let addresses = addresses.iter().map(address).collect::<Option<_>>()?;
        Some(Self { cluster, key, addresses })
    }
}

fn mac(cluster: ClusterId, bytes: &[u8]) -> [u8; MAC_BYTES] {
    let key = blake3::derive_key("straightway beacon 1", &cluster.0);
    let mut mac = [0; MAC_BYTES];
    mac.copy_from_slice(&blake3::keyed_hash(&key, bytes).as_bytes()[..MAC_BYTES]);
    mac
}

/// Where a member may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The member.
    pub key: NodeKey,
    /// Where it says that it takes connections.
    pub addresses: Vec<SocketAddr>,
}

/// Beacons that are being sent and listened for, until this is dropped.
#[derive(Debug)]
pub struct Discovery(tokio::task::AbortHandle);

impl Drop for Discovery {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A socket for beacons: several nodes of one machine may have one each. Of a machine with several networks it uses the one
/// that has the IPv4 address `on`, where that is one, and the system's choice otherwise.
///
/// # Errors
/// [`ClusterError::Config`] when the system refuses it.
pub fn socket(group: SocketAddr, on: IpAddr) -> Result<UdpSocket, ClusterError> {
    use rustix::io::{FdFlags, fcntl_setfd};
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let (family, any) = match group.ip() {
        IpAddr::V4(_) => (AddressFamily::INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (AddressFamily::INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let open = || {
        let socket = socket(family, SocketType::DGRAM, None)?;
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddr::new(any, group.port()))?;
        Ok::<_, rustix::io::Errno>(UdpSocket::from(socket))
    };
    let socket = open().map_err(|error| unusable(group, &error))?;
    let joined = match (group.ip(), on) {
        (IpAddr::V4(ip), IpAddr::V4(on)) if ip.is_multicast() => {
            let sent_there = sockopt::set_ip_multicast_if(&socket, &on);
            sent_there.map_err(Into::into).and_then(|()| socket.join_multicast_v4(&ip, &on))
        }
        (IpAddr::V4(ip), IpAddr::V6(_)) if ip.is_multicast() => {
            socket.join_multicast_v4(&ip, &Ipv4Addr::UNSPECIFIED)
        }
        (IpAddr::V6(ip), _) if ip.is_multicast() => socket.join_multicast_v6(&ip, 0),
        (IpAddr::V4(_), _) => socket.set_broadcast(true),
        (IpAddr::V6(_), _) => Ok(()),
    };
    joined.map_err(|error| unusable(group, &error))?;
    Ok(socket)
}

fn unusable(group: SocketAddr, error: &dyn std::error::Error) -> ClusterError {
    let what = format!("nodes on the local network cannot be looked for by {group}: {error}");
    ClusterError::Config { what }
}

/// Sends `own` over the socket to `group` (a multicast, broadcast or plain address) every `period`, and tells the addresses of those
/// that `is_member` knows: each time that they change, and not more than 64 untaken ones.
///
/// # Errors
/// [`ClusterError::Config`] when the socket cannot be used, or outside of a runtime.
pub fn start(
    socket: UdpSocket,
    group: SocketAddr,
    own: Beacon,
    period: Duration,
    is_member: Arc<dyn Fn(&NodeKey) -> bool + Send + Sync>,
) -> Result<(Discovery, mpsc::Receiver<Hint>), ClusterError> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|error| unusable(group, &error))?;
    socket.set_nonblocking(true).map_err(|error| unusable(group, &error))?;
    let _entered = runtime.enter();
    let socket =
        tokio::net::UdpSocket::from_std(socket).map_err(|error| unusable(group, &error))?;
    let (hints, told) = mpsc::channel(MAX_REMEMBERED);
    let task = runtime.spawn(run(socket, group, own, period, is_member, hints));
    Ok((Discovery(task.abort_handle()), told))
}

async fn run(
    socket: tokio::net::UdpSocket,
    group: SocketAddr,
    own: Beacon,
    period: Duration,
    is_member: Arc<dyn Fn(&NodeKey) -> bool + Send + Sync>,
    hints: mpsc::Sender<Hint>,
) {
    let bytes = own.encode();
    let mut known: HashMap<NodeKey, Vec<SocketAddr>> = HashMap::new();
    let mut periods = tokio::time::interval(period.max(Duration::from_millis(10)));
    // One byte more than any beacon: what is longer is seen to be.
    let mut buffer = [0; MAX_BYTES + 1];
    loop {
        tokio::select! {
            _ = periods.tick() => {
                // A network that is down comes back.
                if let Err(error) = socket.send_to(&bytes, group).await {
                    tracing::debug!(%error, %group, "a beacon was not sent");
                }
            }
            received = socket.recv_from(&mut buffer) => {
                let Ok((len, _)) = received else { continue };
                let beacon = buffer.get(..len).and_then(|bytes| Beacon::decode(bytes, own.cluster));
                let Some(Beacon { key, addresses, .. }) = beacon else { continue };
                if key == own.key || !is_member(&key) || known.get(&key) == Some(&addresses) {
                    continue;
                }
                if known.len() >= MAX_REMEMBERED {
                    known.clear();
                }
                // What nobody takes now is told when it comes again.
                if hints.try_send(Hint { key, addresses: addresses.clone() }).is_ok() {
                    known.insert(key, addresses);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = Vec<SocketAddr>> {
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<u16>().prop_map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]))
        ];
        prop::collection::vec((ip, any::<u16>()).prop_map(SocketAddr::from), 0..=MAX_ADDRESSES)
    }

    proptest! {
        #[test]
        fn a_beacon_survives_its_bytes_and_no_change_of_them(
            cluster: [u8; 16], key: [u8; 32], addresses in addresses(), flip: prop::sample::Index, other: [u8; 16],
        ) {
            let cluster = ClusterId(cluster);
            let beacon = Beacon { cluster, key: NodeKey(key), addresses };
            let bytes = beacon.encode();
            prop_assert!(bytes.len() <= MAX_BYTES);
            prop_assert_eq!(Beacon::decode(&bytes, cluster), Some(beacon));
            prop_assert_eq!(Beacon::decode(&bytes, ClusterId(other)), None);
            let mut bent = bytes.clone();
            bent[flip.index(bytes.len())] ^= 1;
            prop_assert_eq!(Beacon::decode(&bent, cluster), None);
            prop_assert_eq!(Beacon::decode(&bytes[..bytes.len() - 1], cluster), None);
            prop_assert_eq!(Beacon::decode(&[&bytes[..], &[0]].concat(), cluster), None);
        }

        #[test]
        fn noise_is_no_beacon(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Beacon::decode(&bytes, ClusterId([0; 16])), None);
        }
    }

    #[test]
    fn nodes_of_one_machine_share_the_port() {
        let on = IpAddr::V4(Ipv4Addr::LOCALHOST);
        // The first takes whichever is free.
        let first = socket(SocketAddr::new(GROUP.ip(), 0), on).unwrap();
        let port = first.local_addr().unwrap().port();
        let second = socket(SocketAddr::new(GROUP.ip(), port), on).unwrap();
        assert_eq!(second.local_addr().unwrap().port(), port);
    }
}
