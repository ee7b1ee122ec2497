//! One connection from its first byte to its last.
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;

use super::socket::{Socket, Transport};
use crate::counters::Cut;
use crate::http::exchange::Exchange;
use crate::http::route;

/// Largest read and write buffer of a connection in bytes. Bounds the memory that one client can bind; a body on its way
/// in is read in pieces of this size.
const MAX_BUFFER_BYTES: usize = 128 * 1024;
/// Largest request head in bytes; a longer one is answered with 431. Room for a key of 2 KiB, percent-encoded.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// hyper as every data connection is driven.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .keep_alive(true)
        // Otherwise hyper polls the socket for an early end while a request is being answered, with a new buffer of 8 KiB
        // for each request, because the old one still holds the request's target.
        .half_close(true)
        .max_buf_size(MAX_BUFFER_BYTES)
        .max_header_size(MAX_HEAD_BYTES)
        // Time limits are the sweep's: hyper's own would set a timer for each request.
        .header_read_timeout(None)
        // Not `pipeline_flush`: it would copy bodies behind their heads (see `socket`).
        .pipeline_flush(false);
    builder
}

/// Answers requests until the client or a time limit ends the connection, or the node drains.
pub(super) async fn serve<T: Transport>(
    builder: &Builder,
    transport: T,
    exchange: Arc<Exchange>,
) -> Option<Cut> {
    let service = {
        let exchange = exchange.clone();
        service_fn(move |request| route::handle(exchange.clone(), request))
    };
    let mut connection =
        pin!(builder.serve_connection(Socket::new(transport, exchange.clone()), service));
    let mut registered = false;
    let mut draining = false;
    poll_fn(|cx| {
        if !registered {
            // The task's waker stays the same for its whole life.
            exchange.register(cx.waker());
            registered = true;
        }
        if let Some(cut) = exchange.cut() {
            return Poll::Ready(Some(cut));
        }
        if !draining && exchange.node().is_draining() {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(result) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended early");
                }
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
