//! An authority of which only the hash of its certificate is known.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::provider;

/// Believes servers whose certificate one authority has signed, which they show beside it.
#[derive(Debug)]
pub(super) struct PinnedAuthority {
    sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl PinnedAuthority {
    pub(super) fn new(sha256: [u8; 32]) -> Self {
        Self { sha256, provider: provider() }
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_it = |certificate: &&CertificateDer<'_>| {
            <[u8; 32]>::from(Sha256::digest(certificate)) == self.sha256
        };
        let Some(authority) = intermediates.iter().find(is_it) else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let (roots, provider) = (Arc::new(roots), Arc::clone(&self.provider));
        WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClusterCa, NODE_VALID_FOR, certificates};
    use super::*;

    #[test]
    fn only_the_authority_with_the_hash_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let [ours, other] =
            ["ours", "other"].map(|it| ClusterCa::create(&dir.path().join(it)).unwrap());
        let chain = |ca: &ClusterCa| {
            let node = ca.issue_node(&["n1.example.com".to_owned()], NODE_VALID_FOR).unwrap();
            certificates("chain", node.chain_pem.as_bytes()).unwrap()
        };
        let sha256 = |ca: &ClusterCa| {
            let certificate = certificates("CA", ca.pem().as_bytes()).unwrap().remove(0);
            <[u8; 32]>::from(Sha256::digest(certificate))
        };
        let verifier = PinnedAuthority::new(sha256(&ours));
        let verify = |leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], name: &str| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).is_ok()
        };
        let (ours, other) = (chain(&ours), chain(&other));
        assert!(verify(&ours[0], &ours[1..], "n1.example.com"));
        assert!(!verify(&ours[0], &ours[1..], "n2.example.com"), "another name");
        assert!(!verify(&ours[0], &[], "n1.example.com"), "it does not show the authority");
        assert!(!verify(&other[0], &other[1..], "n1.example.com"));
        // Anybody can show our authority's certificate, which is no secret, beside their own.
        assert!(!verify(&other[0], &ours[1..], "n1.example.com"));
        assert!(!verify(&ours[1], &ours[1..], "n1.example.com"));
    }
}
