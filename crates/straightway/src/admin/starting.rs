//! The admin listener while the node starts, which may take long: a large cache is opened, or taken into a cluster.
//!
//! It says that the process lives, so that nobody who watches it ends it, and that it is not ready.
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::api::{self, Answer};
use super::{BUFFER_BYTES, HEADER_TIMEOUT, MAX_CONNECTIONS, PAUSE};
use crate::http::problem::Problem;

/// Answers until it is dropped, or ended.
#[derive(Debug)]
pub(crate) struct Starting {
    stop: watch::Sender<bool>,
    task: JoinHandle<TcpListener>,
}

impl Starting {
    /// Begins to answer.
    pub(crate) fn begin(listener: TcpListener) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(accept(listener, stopped)) }
    }

    /// Gives the listener back: who connects from now on waits for it.
    pub(crate) async fn end(self) -> io::Result<TcpListener> {
        drop(self.stop);
        self.task.await.map_err(io::Error::other)
    }
}

async fn accept(listener: TcpListener, mut stop: watch::Receiver<bool>) -> TcpListener {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((listener.accept().await?.0, permit))
            } => accepted,
            _ = stop.changed() => return listener,
        };
        match accepted {
            Ok((stream, permit)) => drop(tokio::spawn(async move {
                // An answer and no more: the next one may come from a node that has started.
                if timeout(HEADER_TIMEOUT, serve(stream)).await.is_err() {
                    tracing::debug!("an admin connection that asked nothing was closed");
                }
                drop(permit);
            })),
            Err(error) => {
                tracing::warn!(%error, "accepting an admin connection failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(request.uri().path()))
    });
    let served = Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

fn answer(path: &str) -> Response<Answer> {
    if path == "/health/live" {
        return api::live();
    }
    let problem = Problem::busy("the node is starting; its log says how far it is");
    problem.into_response::<bytes::Bytes>().map(api::full)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        let head = format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer, and the end");
        answer
    }

    #[tokio::test]
    async fn a_node_that_starts_lives_and_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("bound");
        let starting = Starting::begin(listener);
        // Who asks nothing keeps it from nothing.
        let silent = TcpStream::connect(address).await.expect("it accepts");
        let live = ask(address, "/health/live").await;
        assert!(live.starts_with("HTTP/1.1 200") && live.ends_with("live\n"), "{live}");
        for path in ["/health/ready", "/", "/api/stats"] {
            let busy = ask(address, path).await;
            assert!(busy.starts_with("HTTP/1.1 503") && busy.contains("starting"), "{busy}");
            assert!(busy.contains("retry-after: 1\r\n") && busy.contains("connection: close"));
        }
        let listener = starting.end().await.expect("given back");
        assert_eq!(listener.local_addr().expect("bound"), address);
        drop(silent);
    }
}
