//! Certificates. TLS 1.3 only, with one crypto provider: aws-lc-rs.

mod authority;
mod cluster_ca;
mod dev_ca;
mod pinned;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

use crate::connect::Roots;
use crate::peer::CertificateFault;

pub use cluster_ca::{
    CA_VALID_FOR, ClusterCa, ClusterCaError, NODE_VALID_FOR, NodeCertificate, NodeRequest,
    ca_certificate_path,
};
pub use dev_ca::{DevCa, DevCaError};
use pinned::PinnedAuthority;

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not PEM.
    #[error("the {what} is not valid PEM: {source}")]
    Pem {
        /// What was read.
        what: &'static str,
        /// What the parser says.
        source: pem::Error,
    },
    /// PEM without a certificate.
    #[error("there is no certificate in the {what}")]
    Empty {
        /// What was read.
        what: &'static str,
    },
    /// A certificate or key that TLS refuses, or a key that does not belong to the certificate.
    #[error("the {what} cannot be used: {source}")]
    Refused {
        /// What was given.
        what: &'static str,
        /// What TLS says.
        source: rustls::Error,
    },
    /// A certificate with which no other node would take this one for a node of the cluster.
    #[error(
        "the certificate is none with which a node can join this cluster: {fault} ({reason}); make \
         one with `railgun cluster issue-node`, of the CA that all nodes have"
    )]
    NotANode {
        /// What is wrong with it.
        fault: CertificateFault,
        /// What the verifier says.
        reason: String,
    },
}

/// A server's certificate chain and key, checked to belong together. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<QuicServerConfig>,
    fingerprint: String,
    reset_secret: [u8; 32],
}

impl ServerTls {
    /// Reads chain (leaf first) and key from PEM files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn from_pem_files(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::from_pem(&read(chain)?, &read(key)?)
    }

    /// Reads chain (leaf first) and key from PEM.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let (chain, key) = identity(chain, key)?;
        let reset_secret = reset_secret(CLIENTS_RESET, key.secret_der());
        Self::new(chain, key, reset_secret)
    }

    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        reset_secret: [u8; 32],
    ) -> Result<Self, TlsError> {
        let fingerprint = chain.first().map_or_else(String::new, |leaf| fingerprint(leaf));
        let config = server(chain, key, None, railgun_proto::ALPN)?;
        Ok(Self { config: quic(config, QuicServerConfig::try_from)?, fingerprint, reset_secret })
    }

    /// SHA-256 of the leaf certificate, 64 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn quic(&self) -> Arc<QuicServerConfig> {
        Arc::clone(&self.config)
    }

    /// The same in every life of the server, so that a restarted one can tell clients of the one
    /// before that their connections are gone (RFC 9000 §10.3).
    pub(crate) fn reset_secret(&self) -> [u8; 32] {
        self.reset_secret
    }
}

impl fmt::Debug for ServerTls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("fingerprint", &self.fingerprint).finish()
    }
}

/// What a server shows, and whom it lets in: anybody, where nobody verifies them.
pub(crate) fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    alpn: &[u8],
) -> Result<ServerConfig, TlsError> {
    let refused = |source| TlsError::Refused { what: "certificate and key", source };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(refused)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// The authorities in `pem`; at least one.
pub(crate) fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("certificate authority", pem)? {
        let refused = |source| TlsError::Refused { what: "certificate authority", source };
        store.add(certificate).map_err(refused)?;
    }
    Ok(store)
}

/// What a client needs to verify servers.
pub(crate) fn client(roots: &Roots) -> Result<Arc<QuicClientConfig>, TlsError> {
    let refused = |source| TlsError::Refused { what: "certificate authority", source };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?;
    let store = match roots {
        Roots::Sha256(sha256) => {
            let verifier = Arc::new(PinnedAuthority::new(*sha256));
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            return speaking_railgun(builder.with_no_client_auth());
        }
        Roots::Pem(pem) => authorities(pem)?,
        Roots::System => {
            let mut store = RootCertStore::empty();
            // A machine's store often has a few certificates that are not usable: the rest counts.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(TlsError::Empty { what: "trust store of this machine" });
            }
            store
        }
    };
    speaking_railgun(builder.with_root_certificates(store).with_no_client_auth())
}

fn speaking_railgun(mut config: ClientConfig) -> Result<Arc<QuicClientConfig>, TlsError> {
    config.alpn_protocols = vec![railgun_proto::ALPN.to_vec()];
    quic(config, QuicClientConfig::try_from)
}

/// `config` for use by QUIC, which wants a cipher suite for its first packets.
pub(crate) fn quic<C, Q, E: fmt::Display>(
    config: C,
    convert: impl FnOnce(C) -> Result<Q, E>,
) -> Result<Arc<Q>, TlsError> {
    convert(config).map(Arc::new).map_err(|error| TlsError::Refused {
        what: "crypto provider",
        source: rustls::Error::General(error.to_string()),
    })
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// A chain (leaf first) and a key, in PEM.
pub(crate) fn identity(
    chain: &[u8],
    key: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates("certificate chain", chain)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|source| TlsError::Pem { what: "private key", source })?;
    Ok((chain, key))
}

/// All certificates in `pem`; at least one.
fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what });
    }
    Ok(certificates)
}

/// What the reset secrets of an endpoint for clients, and of one for nodes, are derived with: who knows
/// ids of one cannot have tokens for them made by the other.
pub(crate) const CLIENTS_RESET: &str = "railgun stateless reset";
pub(crate) const PEERS_RESET: &str = "railgun peer stateless reset";

/// Derived from a private key; says nothing about it.
pub(crate) fn reset_secret(label: &str, private_key: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix(label).chain_update(private_key).finalize().into()
}

pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}
