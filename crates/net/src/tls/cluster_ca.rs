//! The certificate authority of a cluster, kept in a directory by whoever runs it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, KeyPair, PublicKeyData,
};
use rustls::pki_types::{PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;

use super::authority::{self, Authority, FileError, Validity};
use super::{certificates, fingerprint, provider};
use crate::peer::NODE_NAME;

const CA_NAME: &str = "railgun cluster CA";
const NODE_SUBJECT: &str = "railgun node";
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// How long a cluster's authority is valid: ten years.
pub const CA_VALID_FOR: Duration = DAY.saturating_mul(3_650);
/// How long a node's certificate is valid, unless it is said otherwise: a year.
pub const NODE_VALID_FOR: Duration = DAY.saturating_mul(365);
/// However long a certificate is to be valid: a hundred years, so that every such date can be written.
const VALID_FOR_MAX: Duration = DAY.saturating_mul(36_500);
/// Certificates are valid since then: the clocks of those who look at them may be behind.
const SINCE: Duration = Duration::from_secs(3_600);
/// Largest request that is looked at, in bytes of PEM; usual ones have half a kilobyte.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Where the certificate of the authority in `dir` lies, which nodes and clients are given. Its key lies
/// beside it, and is for nobody else.
#[must_use]
pub fn ca_certificate_path(dir: &Path) -> PathBuf {
    authority::certificate_path(dir)
}

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterCaError {
    /// There is one in the directory.
    #[error(
        "there is a CA in {} already, and nodes may have certificates of it; it is not overwritten",
        dir.display()
    )]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// There is none in the directory.
    #[error("there is no CA in {}: {} is missing", dir.display(), missing.display())]
    NotFound {
        /// The directory.
        dir: PathBuf,
        /// The file that is missing.
        missing: PathBuf,
    },
    /// A file of the authority cannot be read or written.
    #[error("the cluster's CA cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{} is damaged ({reason}): restore it from where you keep a copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A node without a name.
    #[error("a node needs at least one DNS name or IP address by which clients reach it")]
    NoHosts,
    /// A certificate cannot be made.
    #[error("no certificate can be made for {hosts:?}: {source}")]
    Issue {
        /// The names asked for.
        hosts: Vec<String>,
        /// What the generator says.
        source: rcgen::Error,
    },
    /// A request that is none, or not signed by the key that it is for.
    #[error("the certificate signing request cannot be used: {reason}")]
    Request {
        /// What is wrong with it.
        reason: String,
    },
}

impl From<FileError> for ClusterCaError {
    fn from(FileError { path, source }: FileError) -> Self {
        Self::File { path, source }
    }
}

/// What a node shows to clients and other nodes.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Certificate chain, leaf first, in PEM.
    pub chain_pem: String,
    /// Its private key, in PEM.
    pub key_pem: String,
}

impl fmt::Debug for NodeCertificate {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCertificate")
            .field("chain_pem", &self.chain_pem)
            .finish_non_exhaustive()
    }
}

/// What a node that has no certificate sends to get one, and what it keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeRequest {
    /// A certificate signing request (PKCS #10), in PEM, for [`ClusterCa::sign_request`].
    pub csr_pem: String,
    /// The private key that it is for, in PEM, which the node keeps.
    pub key_pem: String,
}

impl NodeRequest {
    /// With a new key.
    ///
    /// # Errors
    /// [`ClusterCaError::Issue`] if the crypto provider fails.
    pub fn new() -> Result<Self, ClusterCaError> {
        let key = KeyPair::generate().map_err(cannot_issue(&[]))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, NODE_SUBJECT);
        let csr = params.serialize_request(&key).and_then(|csr| csr.pem());
        Ok(Self { csr_pem: csr.map_err(cannot_issue(&[]))?, key_pem: key.serialize_pem() })
    }

    /// One that was kept.
    ///
    /// # Errors
    /// [`ClusterCaError::Request`] where either is damaged, or the key is another one's.
    pub fn kept(csr_pem: String, key_pem: String) -> Result<Self, ClusterCaError> {
        let unusable = |error: rcgen::Error| ClusterCaError::Request { reason: error.to_string() };
        let request = CertificateSigningRequestParams::from_pem(&csr_pem).map_err(unusable)?;
        let key = KeyPair::from_pem(&key_pem).map_err(unusable)?;
        if request.public_key.der_bytes() != key.der_bytes() {
            let reason = "it is for another key".to_owned();
            return Err(ClusterCaError::Request { reason });
        }
        Ok(Self { csr_pem, key_pem })
    }
}

impl fmt::Debug for NodeRequest {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeRequest").field("csr_pem", &self.csr_pem).finish_non_exhaustive()
    }
}

/// The authority whose certificates make a node one of the cluster (CL-2). Whoever has its key can make
/// nodes: it lies in a file that only its owner can read, and need not be on any node.
pub struct ClusterCa {
    authority: Authority,
    pem: String,
    fingerprint: String,
}

impl fmt::Debug for ClusterCa {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterCa").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl ClusterCa {
    /// Makes an authority in `dir`, which is made if need be; valid for [`CA_VALID_FOR`].
    ///
    /// # Errors
    /// [`ClusterCaError::Exists`] if there is one, or a part of one.
    pub fn create(dir: &Path) -> Result<Self, ClusterCaError> {
        authority::create_dir(dir)?;
        let (key_path, certificate_path) =
            (authority::key_path(dir), authority::certificate_path(dir));
        for path in [&key_path, &certificate_path] {
            if authority::read(path)?.is_some() {
                return Err(ClusterCaError::Exists { dir: dir.to_owned() });
            }
        }
        let key = KeyPair::generate().map_err(cannot_issue(&[]))?;
        let pem = Authority::certificate(CA_NAME, &key, Some(from_now(CA_VALID_FOR)))
            .map_err(cannot_issue(&[]))?;
        authority::write(&key_path, 0o600, &key.serialize_pem())?;
        authority::write(&certificate_path, 0o644, &pem)?;
        Self::load(dir)
    }

    /// Takes the authority that was made in `dir`.
    ///
    /// # Errors
    /// [`ClusterCaError::NotFound`], [`ClusterCaError::Damaged`], [`ClusterCaError::File`].
    pub fn load(dir: &Path) -> Result<Self, ClusterCaError> {
        let read = |path: PathBuf| match authority::read(&path)? {
            Some(text) => Ok((path, text)),
            None => Err(ClusterCaError::NotFound { dir: dir.to_owned(), missing: path }),
        };
        let (certificate_path, pem) = read(authority::certificate_path(dir))?;
        let (key_path, key) = read(authority::key_path(dir))?;
        let key = KeyPair::from_pem(&key).map_err(|error| damaged(&key_path, error))?;
        let certificate = certificates("cluster CA", pem.as_bytes())
            .map_err(|error| damaged(&certificate_path, error))?;
        let fingerprint = certificate.first().map_or_else(String::new, fingerprint);
        // Else every node would refuse what is issued.
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        CertifiedKey::from_der(certificate, der.into(), &provider())
            .map_err(|error| damaged(&certificate_path, error))?;
        Ok(Self { authority: Authority::new(CA_NAME, key), pem, fingerprint })
    }

    /// The authority's certificate, for nodes and clients to trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the authority's certificate, 64 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Makes a certificate, with a key of its own, for a node that clients reach by these names and IP
    /// addresses; for a hundred years at most. It is good for the endpoint of clients, and for both sides
    /// of connections between nodes. Other nodes do not look at `hosts`.
    ///
    /// # Errors
    /// [`ClusterCaError::NoHosts`], and [`ClusterCaError::Issue`] for a name that no certificate can have.
    pub fn issue_node(
        &self,
        hosts: &[String],
        valid_for: Duration,
    ) -> Result<NodeCertificate, ClusterCaError> {
        let key = KeyPair::generate().map_err(cannot_issue(hosts))?;
        let chain_pem = self.node(hosts, from_now(valid_for), &key)?;
        Ok(NodeCertificate { chain_pem, key_pem: key.serialize_pem() })
    }

    /// Makes the certificate chain, in PEM, for a node that sent this request and keeps its key. Nothing
    /// but the key is taken from the request: what it asks for, names included, counts for nothing.
    ///
    /// # Errors
    /// [`ClusterCaError::Request`], and as [`issue_node`](Self::issue_node).
    pub fn sign_request(
        &self,
        csr_pem: &str,
        hosts: &[String],
        valid_for: Duration,
    ) -> Result<String, ClusterCaError> {
        let unusable = |reason: String| ClusterCaError::Request { reason };
        if csr_pem.len() > REQUEST_BYTES_MAX {
            return Err(unusable(format!("it has more than {REQUEST_BYTES_MAX} bytes")));
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|error| unusable(error.to_string()))?;
        self.node(hosts, from_now(valid_for), &request.public_key)
    }

    fn node(
        &self,
        hosts: &[String],
        validity: Validity,
        key: &impl PublicKeyData,
    ) -> Result<String, ClusterCaError> {
        if hosts.is_empty() {
            return Err(ClusterCaError::NoHosts);
        }
        let mut names = hosts.to_vec();
        names.push(NODE_NAME.to_owned());
        let uses = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = self.authority.issue_pem(NODE_SUBJECT, &names, uses, Some(validity), key);
        // Who knows only the hash of the authority's certificate finds it there.
        Ok(leaf.map_err(cannot_issue(hosts))? + &self.pem)
    }

    /// A certificate of this authority that has expired.
    #[cfg(test)]
    pub(crate) fn issue_expired(&self, hosts: &[String]) -> NodeCertificate {
        let key = KeyPair::generate().unwrap();
        let validity = Validity { from: before(UnixTime::now(), DAY), lasts: DAY / 2 };
        let chain_pem = self.node(hosts, validity, &key).unwrap();
        NodeCertificate { chain_pem, key_pem: key.serialize_pem() }
    }

    /// A certificate of this authority that is no node's.
    #[cfg(test)]
    pub(crate) fn issue_client(&self) -> NodeCertificate {
        let key = KeyPair::generate().unwrap();
        let uses = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let names = ["client.example.com".to_owned()];
        let validity = Some(from_now(DAY));
        let chain_pem = self.authority.issue_pem("client", &names, uses, validity, &key).unwrap();
        NodeCertificate { chain_pem, key_pem: key.serialize_pem() }
    }
}

/// From now on, by the clock that TLS looks at.
fn from_now(valid_for: Duration) -> Validity {
    Validity { from: before(UnixTime::now(), SINCE), lasts: valid_for.min(VALID_FOR_MAX) + SINCE }
}

fn before(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs()).saturating_sub(by))
}

fn damaged(path: &Path, error: impl fmt::Display) -> ClusterCaError {
    ClusterCaError::Damaged { path: path.to_owned(), reason: error.to_string() }
}

fn cannot_issue(hosts: &[String]) -> impl Fn(rcgen::Error) -> ClusterCaError {
    |source| ClusterCaError::Issue { hosts: hosts.to_vec(), source }
}
