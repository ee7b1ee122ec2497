//! What others dial, up to the end of the handshake: within bounds, in all and from one address.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use iroh::endpoint::{
    AlpnError, ConnectingError, Connection, ConnectionError, Incoming, IncomingAddr,
    TransportErrorCode,
};

use super::endpoint::{JOIN_ALPN, lane_of_alpn};
use super::gate::Gate;
use super::half_open::{HalfOpen, Shaking};
use super::refusals::Refusal;
use super::shared::Shared;
use super::{inbound, join};

/// TLS's word for "none of these protocols".
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Takes in what others dial, until the endpoint is closed.
pub(crate) async fn accept(shared: Arc<Shared>) {
    let limits = &shared.limits;
    let mut gate = Gate::new(limits.connections, limits.connections_each);
    let half_open = HalfOpen::new(limits.half_open, limits.half_open_each);
    while let Some(incoming) = shared.endpoint.accept().await {
        let IncomingAddr::Ip(address) = incoming.remote_addr() else {
            incoming.ignore();
            continue;
        };
        let (now, ip) = (Instant::now(), address.ip());
        // Whoever forges addresses could use up what is there for members, or for one of them: an address has to be shown to
        // be the sender's before it takes the second half of any share, and before it counts as an attempt to join.
        if !incoming.remote_addr_validated()
            && (half_open.is_busy(ip) || gate.is_busy(ip, now) || may_join(&incoming))
        {
            // It fails for those who have shown it only.
            drop(incoming.retry());
            continue;
        }
        if !gate.admit(ip, now) {
            shared.refusals.count(Refusal::RateLimited, format_args!("connections from {address}"));
            incoming.ignore();
            continue;
        }
        let Some(shaking) = half_open.enter(ip) else {
            shared.refusals.count(Refusal::HalfOpen, format_args!("a handshake with {address}"));
            incoming.refuse();
            continue;
        };
        shared.spawn(take_in(Arc::clone(&shared), incoming, address, shaking));
    }
}

/// Whether it asks for the door for joiners, or for what cannot be seen yet.
fn may_join(incoming: &Incoming) -> bool {
    let asked = incoming.decrypt().and_then(|hello| hello.alpns());
    asked.is_none_or(|mut asked| {
        asked.any(|protocol| protocol.is_ok_and(|protocol| protocol[..] == *JOIN_ALPN))
    })
}

/// Shakes hands, and serves the connection.
async fn take_in(shared: Arc<Shared>, incoming: Incoming, address: SocketAddr, shaking: Shaking) {
    let shaken = tokio::time::timeout(shared.limits.hello, shake(&shared, incoming, address)).await;
    let connection = match shaken {
        Ok(Some(connection)) => connection,
        Ok(None) => return,
        Err(_) => {
            shared.refusals.count(Refusal::Handshake, format_args!("{address} was too slow"));
            return;
        }
    };
    match lane_of_alpn(connection.alpn()) {
        Some(lane) => inbound::serve(shared, lane, connection, shaking).await,
        None => join::serve(shared, connection, address, shaking).await,
    }
}

async fn shake(shared: &Shared, incoming: Incoming, address: SocketAddr) -> Option<Connection> {
    let refuse = |why, error: &dyn std::fmt::Display| {
        shared.refusals.count(why, format_args!("{address}: {error}"));
    };
    let failed = |error: &ConnectionError| {
        refuse(if is_wrong_alpn(error) { Refusal::WrongAlpn } else { Refusal::Handshake }, error);
    };
    let mut accepting = incoming.accept().inspect_err(failed).ok()?;
    let joins = match accepting.alpn().await {
        Ok(alpn) => alpn == JOIN_ALPN,
        Err(AlpnError::ConnectionError { source, .. }) => {
            failed(&source);
            return None;
        }
        Err(error) => {
            refuse(Refusal::Handshake, &error);
            return None;
        }
    };
    if joins && !shared.joins.lock().admit(address.ip(), Instant::now()) {
        refuse(Refusal::RateLimited, &"attempts to join");
        return None;
    }
    match accepting.await {
        Ok(connection) => return Some(connection),
        // The hook has counted it.
        Err(ConnectingError::LocallyRejected { .. }) => {}
        Err(ConnectingError::ConnectionError { source, .. }) => failed(&source),
        Err(error) => refuse(Refusal::Handshake, &error),
    }
    None
}

fn is_wrong_alpn(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::TransportError(error) => {
            error.code == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL)
        }
        ConnectionError::ConnectionClosed(close) => {
            close.error_code == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL)
        }
        _ => false,
    }
}
