//! TLS: the same answers, and never a mapped byte in the hands of the encryption.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use straightway::config::settings::TlsPaths;
use straightway::node::{Node, NodeError};
use support::{Client, TestNode, mapped, pattern, settings, within};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn paths() -> TlsPaths {
    TlsPaths { cert: fixture("tls-cert.pem"), key: fixture("tls-key.pem") }
}

async fn connect(node: &TestNode) -> Client<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(paths().cert).unwrap()).unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let stream = TcpStream::connect(node.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    Client::new(within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap())
}

#[tokio::test]
async fn objects_are_served_encrypted_and_copied() {
    let node = TestNode::start_with(|settings| settings.tls = Some(paths())).await;
    assert!(node.node().ready().tls);
    node.set_zero_copy(mapped(true));
    let mut client = connect(&node).await;
    for size in [0, 1000, 65_536, 3_000_001] {
        let body = pattern(size as u64, size);
        assert_eq!(client.put(&size.to_string(), "", &body).await.status, 201);
        assert!(client.get(&size.to_string(), "").await.body == body, "{size} bytes");
    }
    let range = client.get("3000001", "range: bytes=1000000-2000000\r\n").await;
    assert!(
        range.status == 206 && range.body == pattern(3_000_001, 3_000_001)[1_000_000..=2_000_000]
    );
    let stats = node.node().state().cache().zero_copy_stats().await;
    assert_eq!(
        (stats.sendfile_transfers, stats.mmap_reads),
        (0, 0),
        "no mapped slice goes to the encryption"
    );
    assert!(stats.bytes_copied >= 3_000_001 + 65_536, "its copies are counted");
    assert!(straightway_buffer::copied().encrypt >= 3_000_001 + 65_536, "and what for");
    assert_eq!(node.http().mapped_bytes_refused, 0);
    node.stop().await;
}

#[tokio::test]
async fn plain_text_on_an_encrypted_port_is_a_failed_handshake() {
    let node = TestNode::start_with(|settings| settings.tls = Some(paths())).await;
    let mut plain = node.client().await;
    plain.send("GET /k HTTP/1.1\r\nhost: t\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = within(plain.stream().read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"));
    within(async {
        while node.http().tls_failures == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(connect(&node).await.get("k", "").await.status, 404, "others are not disturbed");
    node.stop().await;
}

#[tokio::test]
async fn unusable_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (cert, key) in [
        ("missing.pem", "tls-key.pem"),
        ("tls-cert.pem", "missing.pem"),
        ("tls-key.pem", "tls-key.pem"),
    ] {
        let mut settings = settings(&dir);
        settings.tls = Some(TlsPaths { cert: fixture(cert), key: fixture(key) });
        let Err(NodeError::Tls(error)) = Node::start(settings).await else {
            panic!("{cert} with {key} was accepted")
        };
        let wrong = if cert == "tls-cert.pem" { key } else { cert };
        assert!(error.to_string().contains(wrong), "{error}");
    }
}
