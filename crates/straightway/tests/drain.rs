//! Stopping: running requests finish, nothing new begins, and what was stored is there at the next start.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use std::time::Duration;

use straightway::config::settings::NodeSettings;
use straightway::node::{Node, run};
use support::{Addresses, Client, TestNode, pattern, settings, within};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_running_put_finishes_and_survives_the_restart() {
    let dir = tempfile::tempdir().unwrap();
    // Held, or somebody else might listen there once the node has gone.
    let held = Addresses::hold();
    let mut first_life = settings(&dir);
    held.give(&mut first_life);
    let node = Node::start(first_life).await.unwrap();
    let address = node.ready().data[0];
    let mut idle = Client::new(TcpStream::connect(address).await.unwrap());
    assert_eq!(idle.get("k", "").await.status, 404);
    let mut busy = Client::new(TcpStream::connect(address).await.unwrap());
    busy.send("PUT /k HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\n\r\nbo").await;
    within(async {
        while node.state().http_stats().received_bytes < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let state = node.state().clone();
    let stopping = tokio::spawn(node.stop());
    assert!(idle.rest().await.is_empty(), "idle connections are closed at once");
    assert!(state.is_draining());
    busy.send("dy").await;
    let reply = busy.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (201, Some("close")));
    within(stopping).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop((state, held));

    let node = Node::start(settings(&dir)).await.unwrap();
    let mut client = Client::new(TcpStream::connect(node.ready().data[0]).await.unwrap());
    assert_eq!(client.get("k", "").await.text(), "body");
    node.stop().await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut_off() {
    let node =
        TestNode::start_with(|settings| settings.drain_timeout = Duration::from_millis(50)).await;
    let mut stuck = node.client().await;
    stuck.send("PUT /k HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\n\r\nbo").await;
    within(async {
        while node.http().received_bytes < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within(node.stop()).await;
    assert!(stuck.rest().await.is_empty());
}

#[tokio::test]
async fn readiness_ends_when_draining_begins() {
    let node = TestNode::start_with(|settings: &mut NodeSettings| {
        settings.drain_timeout = Duration::from_mins(5);
    })
    .await;
    let mut busy = node.client().await;
    busy.send("PUT /k HTTP/1.1\r\nhost: t\r\ncontent-length: 70000\r\n\r\n").await;
    busy.send(pattern(1, 60_000)).await;
    within(async {
        while node.http().received_bytes < 60_000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut admin = node.admin_client().await;
    assert_eq!(admin.get("health/ready", "").await.status, 200);
    let state = node.node().state().clone();
    let (inner, _dir) = node.into_node();
    let stopping = tokio::spawn(inner.stop());
    within(async {
        while !state.is_draining() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let reply = admin.get("health/ready", "").await;
    reply.assert_problem(503);
    assert_eq!(admin.get("health/live", "").await.status, 200);
    busy.send(pattern(1, 10_000)).await;
    assert_eq!(busy.reply().await.status, 201);
    within(stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn sigterm_drains_and_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(run(settings(&dir), move |ready| tell.send(ready.clone()).unwrap()));
    let ready = within(told).await.unwrap();
    let mut client = Client::new(TcpStream::connect(ready.data[0]).await.unwrap());
    assert_eq!(client.put("k", "", b"body").await.status, 201);
    // The handler is in place before `ready` is called: this does not end the test.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
        .unwrap();
    assert!(client.rest().await.is_empty());
    within(running).await.unwrap().unwrap();
}
