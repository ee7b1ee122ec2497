//! TLS for the data listeners.
//!
//! Encryption reads every byte in user code. On encrypted connections objects are therefore read by `pread` into pooled
//! buffers, where damage and truncation are errors, and never out of the mapping; the copies are counted like any other.
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::config::settings::TlsPaths;

/// Why TLS could not be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file could not be read as PEM.
    #[error("{} holds no usable {what}; give a PEM file that the node may read", path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not make a working pair.
    #[error(
        "the certificate and the key cannot be used together; check that they belong to each other"
    )]
    Pair(#[source] rustls::Error),
}

/// Reads certificate and key.
pub(crate) fn acceptor(paths: &TlsPaths) -> Result<TlsAcceptor, TlsError> {
    let chain = CertificateDer::pem_file_iter(&paths.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| {
            if chain.is_empty() {
                Err(rustls_pki_types::pem::Error::NoItemsFound)
            } else {
                Ok(chain)
            }
        })
        .map_err(|source| TlsError::Pem {
            what: "certificate",
            path: paths.cert.clone(),
            source,
        })?;
    let key = PrivateKeyDer::from_pem_file(&paths.key).map_err(|source| TlsError::Pem {
        what: "private key",
        path: paths.key.clone(),
        source,
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
