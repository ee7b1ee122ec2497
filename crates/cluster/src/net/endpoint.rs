//! The QUIC endpoint: no relay, no look-ups, members only.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{
    AfterHandshakeOutcome, ConnectOptions, Connection, ConnectionError, EndpointHooks, IdleTimeout,
    QuicTransportConfig, Side, VarInt, presets,
};
use iroh::{Endpoint, EndpointAddr, PublicKey, RelayMode, SecretKey};
use straightway_wire::raft::Lane;

use super::close::{CloseCode, Closed};
use super::limits::NetLimits;
use super::members::Members;
use super::refusals::{Refusal, Refusals};
use crate::error::ClusterError;
use crate::ids::NodeKey;

/// The door for those who hold a ticket.
pub(crate) const JOIN_ALPN: &[u8] = b"straightway/join/1";

/// All lanes.
pub(crate) const LANES: [Lane; 3] = [Lane::Control, Lane::Append, Lane::Bulk];

/// A lane's protocol in the handshake: the version is part of the name.
pub(crate) fn alpn(lane: Lane) -> &'static [u8] {
    match lane {
        Lane::Control => b"straightway/ctl/1",
        Lane::Append => b"straightway/append/1",
        Lane::Bulk => b"straightway/bulk/1",
    }
}

pub(crate) fn lane_of_alpn(protocol: &[u8]) -> Option<Lane> {
    LANES.into_iter().find(|lane| alpn(*lane) == protocol)
}

/// One stream's window. From 3 MiB on, the QUIC library gives up connections whose reader lags (it allows 1024 gaps in a
/// stream's buffer, and counts packets).
const STREAM_WINDOW: u32 = 1 << 20;
/// All streams' windows of a control or append connection.
const LANE_WINDOW: u32 = 4 << 20;
/// The same of a bulk connection.
pub(crate) const BULK_WINDOW: u32 = 16 << 20;

/// What a round trip is taken to last while none has been measured. What the library takes, a third of a second, makes it
/// wait a second before it repeats a first packet that came before the other side listened.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(50);

/// Transport settings of a connection: whoever accepts begins with one stream for the hello, and allows more once it knows for what.
fn transport(limits: &NetLimits, window: u32, send_window: u32) -> QuicTransportConfig {
    let idle = IdleTimeout::try_from(limits.idle).ok();
    QuicTransportConfig::builder()
        .max_idle_timeout(idle)
        .keep_alive_interval(limits.keep_alive)
        .initial_rtt(FIRST_ROUND_TRIP)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(window))
        .send_window(u64::from(send_window))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .datagram_receive_buffer_size(None)
        .build()
}

/// Lets members in, and whoever asks to join.
#[derive(Debug)]
struct MembersOnly {
    members: Arc<Members>,
    refusals: Arc<Refusals>,
}

impl EndpointHooks for MembersOnly {
    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        // Whom this node dials it has chosen by key.
        if connection.side() == Side::Client || connection.alpn() == JOIN_ALPN {
            return AfterHandshakeOutcome::accept();
        }
        let key = node_key(connection.remote_id());
        if self.members.contains(key) {
            return AfterHandshakeOutcome::accept();
        }
        self.refusals.count(Refusal::Stranger, format_args!("{key} is no member"));
        AfterHandshakeOutcome::Reject {
            error_code: CloseCode::NotAMember.var_int(),
            reason: CloseCode::NotAMember.to_string().into_bytes(),
        }
    }
}

/// A key as the cluster names it.
pub(crate) fn node_key(key: PublicKey) -> NodeKey {
    NodeKey(*key.as_bytes())
}

/// Opens the endpoint of a member.
pub(crate) async fn bind(
    address: SocketAddr,
    secret: &SecretKey,
    limits: &NetLimits,
    members: Arc<Members>,
    refusals: Arc<Refusals>,
) -> Result<Endpoint, ClusterError> {
    let alpns = LANES.map(alpn).into_iter().chain([JOIN_ALPN]);
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(secret.clone())
        .alpns(alpns.map(<[u8]>::to_vec).collect())
        // What is sent on accepted connections is what peers pull.
        .transport_config(transport(limits, LANE_WINDOW, BULK_WINDOW))
        .hooks(MembersOnly { members, refusals });
    bind_to(builder, address).await
}

/// Opens an endpoint that only dials.
pub(crate) async fn bind_client(
    address: SocketAddr,
    secret: &SecretKey,
    limits: &NetLimits,
) -> Result<Endpoint, ClusterError> {
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(secret.clone())
        .transport_config(transport(limits, LANE_WINDOW, LANE_WINDOW));
    bind_to(builder, address).await
}

async fn bind_to(
    builder: iroh::endpoint::Builder,
    address: SocketAddr,
) -> Result<Endpoint, ClusterError> {
    let cannot = |reason: String| ClusterError::Config {
        what: format!("cannot listen for the cluster on {address} (UDP): {reason}"),
    };
    let builder = builder
        .relay_mode(RelayMode::Disabled)
        .clear_address_lookup()
        .clear_ip_transports()
        .bind_addr(address)
        .map_err(|error| cannot(error.to_string()))?;
    Box::pin(builder.bind()).await.map_err(|error| cannot(format!("{error:#}")))
}

/// Why dialling did not give a connection.
#[derive(Debug)]
pub(crate) struct NotDialled {
    /// What the other side said, if it was reached.
    pub(crate) closed: Option<Closed>,
    /// Nobody who could answer is there; it may not have started yet.
    pub(crate) silent: bool,
    pub(crate) reason: String,
}

impl NotDialled {
    pub(crate) fn lost(error: &ConnectionError) -> Self {
        let closed = Closed::of(error);
        let reason = match &closed {
            Some(closed) => closed.reason.clone(),
            None => error.to_string(),
        };
        let silent = matches!(error, ConnectionError::TimedOut | ConnectionError::Reset);
        Self { closed, silent, reason }
    }

    fn silent(reason: String) -> Self {
        Self { closed: None, silent: true, reason }
    }

    pub(crate) fn other(reason: impl Into<String>) -> Self {
        Self { closed: None, silent: false, reason: reason.into() }
    }
}

/// Dials `key` at any of `addresses`.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    key: NodeKey,
    addresses: &[SocketAddr],
    protocol: &[u8],
    limits: &NetLimits,
) -> Result<Connection, NotDialled> {
    let key = PublicKey::from_bytes(&key.0)
        .map_err(|_| NotDialled::other("its key is no Ed25519 key"))?;
    let address = addresses.iter().fold(EndpointAddr::new(key), |to, at| to.with_ip_addr(*at));
    let bulk = protocol == alpn(Lane::Bulk);
    let window = if bulk { BULK_WINDOW } else { LANE_WINDOW };
    let options = ConnectOptions::new().with_transport_config(transport(limits, window, window));
    let dialled = async {
        let connecting = endpoint
            .connect_with_opts(address, protocol, options)
            .await
            .map_err(|error| NotDialled::other(format!("{error:#}")))?;
        connecting.await.map_err(|error| match error {
            iroh::endpoint::ConnectingError::ConnectionError { source, .. } => {
                NotDialled::lost(&source)
            }
            other => NotDialled::other(format!("{other:#}")),
        })
    };
    // The library's futures are large.
    match tokio::time::timeout(limits.dial, Box::pin(dialled)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(NotDialled::silent(format!("no answer within {:?}", limits.dial))),
    }
}

/// A key that both sides of a connection know and nobody else does.
pub(crate) fn exported(connection: &Connection, label: &[u8], context: &[u8]) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    connection.export_keying_material(&mut key, label, context).ok()?;
    Some(key)
}

/// Round-trip time of the path in use.
pub(crate) fn round_trip(connection: &Connection) -> Option<Duration> {
    let paths = connection.paths();
    let selected = paths.iter().find(iroh::endpoint::Path::is_selected);
    selected.or_else(|| paths.iter().next()).map(|path| path.rtt())
}
