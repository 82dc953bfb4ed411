//! Who a node is, and how it knows others.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier as _};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    SignatureScheme,
};

use super::{CertificateFault, NODE_NAME, PEER_ALPN};
use crate::tls::{self, ServerTls, TlsError};

/// A node's certificate and key, and the CA of its cluster. Cheap to clone.
#[derive(Clone)]
pub struct NodeTls(Arc<Inner>);

struct Inner {
    accepting: Arc<QuicServerConfig>,
    dialling: Arc<QuicClientConfig>,
    for_clients: ServerTls,
    reset_secret: [u8; 32],
}

impl NodeTls {
    /// Reads chain (leaf first), key and CA from PEM files.
    ///
    /// # Errors
    /// [`TlsError`]; [`TlsError::NotANode`] for a certificate that other nodes would refuse.
    pub fn from_pem_files(chain: &Path, key: &Path, ca: &Path) -> Result<Self, TlsError> {
        Self::from_pem(&tls::read(chain)?, &tls::read(key)?, &tls::read(ca)?)
    }

    /// Reads chain (leaf first), key and CA from PEM. There may be several CAs, while one takes the
    /// place of another. A certificate that has expired, by this machine's clock, is taken with a
    /// warning: the clock may be wrong, and it is for the other nodes to say.
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files).
    pub fn from_pem(chain: &[u8], key: &[u8], ca: &[u8]) -> Result<Self, TlsError> {
        let (chain, key) = tls::identity(chain, key)?;
        let roots = Arc::new(tls::authorities(ca)?);
        match check(&chain, &roots) {
            Err(TlsError::NotANode { fault: CertificateFault::Expired, reason }) => {
                tracing::warn!(%reason, "this node's certificate has expired, or its clock is wrong");
            }
            checked => checked?,
        }
        Self::new(chain, key, roots)
    }

    /// Whatever others may think of the certificate.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Arc<RootCertStore>,
    ) -> Result<Self, TlsError> {
        let of_clients = tls::reset_secret(tls::CLIENTS_RESET, key.secret_der());
        let reset_secret = tls::reset_secret(tls::PEERS_RESET, key.secret_der());
        let for_clients = ServerTls::new(chain.clone(), key.clone_key(), of_clients)?;
        let verifier = Arc::new(NodeVerifier::new(Arc::clone(&roots))?);
        let mut accepting = tls::server(chain.clone(), key.clone_key(), Some(verifier), PEER_ALPN)?;
        // A resumed session would not look at certificates again.
        accepting.send_tls13_tickets = 0;
        let refused = |source| TlsError::Refused { what: "certificate and key", source };
        let mut dialling = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(refused)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(refused)?;
        dialling.resumption = Resumption::disabled();
        dialling.alpn_protocols = vec![PEER_ALPN.to_vec()];
        Ok(Self(Arc::new(Inner {
            accepting: tls::quic(accepting, QuicServerConfig::try_from)?,
            dialling: tls::quic(dialling, QuicClientConfig::try_from)?,
            for_clients,
            reset_secret,
        })))
    }

    /// The same certificate for the endpoint of clients.
    #[must_use]
    pub fn server_tls(&self) -> ServerTls {
        self.0.for_clients.clone()
    }

    /// SHA-256 of the leaf certificate, 64 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        self.0.for_clients.fingerprint()
    }

    pub(super) fn accepting(&self) -> Arc<QuicServerConfig> {
        Arc::clone(&self.0.accepting)
    }

    pub(super) fn dialling(&self) -> Arc<QuicClientConfig> {
        Arc::clone(&self.0.dialling)
    }

    pub(super) fn reset_secret(&self) -> [u8; 32] {
        self.0.reset_secret
    }
}

impl fmt::Debug for NodeTls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTls").field("fingerprint", &self.fingerprint()).finish()
    }
}

/// Whether other nodes would take this chain for a node's, whichever side dials.
fn check(chain: &[CertificateDer<'_>], roots: &Arc<RootCertStore>) -> Result<(), TlsError> {
    let [leaf, intermediates @ ..] = chain else {
        return Err(TlsError::Empty { what: "certificate chain" });
    };
    let now = UnixTime::now();
    let server = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), tls::provider())
        .build()
        .map_err(unusable_ca)?;
    let as_server = server.verify_server_cert(leaf, intermediates, &node_name(), &[], now);
    let as_client =
        NodeVerifier::new(Arc::clone(roots))?.verify_client_cert(leaf, intermediates, now);
    match as_server.and(as_client.map(|_| ())) {
        Ok(()) => Ok(()),
        Err(rustls::Error::InvalidCertificate(error)) => {
            let reason = error.to_string();
            let fault = CertificateFault::of_alert(u8::from(AlertDescription::from(error)).into());
            Err(TlsError::NotANode { fault, reason })
        }
        Err(source) => Err(TlsError::Refused { what: "certificate", source }),
    }
}

fn unusable_ca(error: impl fmt::Display) -> TlsError {
    let source = rustls::Error::General(error.to_string());
    TlsError::Refused { what: "certificate authority", source }
}

fn node_name() -> ServerName<'static> {
    ServerName::try_from(NODE_NAME).expect("a DNS name")
}

/// Verifies those who dial: a certificate of the CA is not enough, as clients may have one.
#[derive(Debug)]
struct NodeVerifier(Arc<dyn ClientCertVerifier>);

impl NodeVerifier {
    fn new(roots: Arc<RootCertStore>) -> Result<Self, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, tls::provider()).build();
        Ok(Self(verifier.map_err(unusable_ca)?))
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &node_name())?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
