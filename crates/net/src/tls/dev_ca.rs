//! A certificate authority for development, kept in a directory.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{ExtendedKeyUsagePurpose, KeyPair};

use super::authority::{self, Authority, FileError};
use super::{CLIENTS_RESET, ServerTls, TlsError, certificates, fingerprint, reset_secret};

const CA_NAME: &str = "railgun development CA";
const SERVER_NAME: &str = "railgun development server";

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevCaError {
    /// A file of the authority cannot be read or written.
    #[error("the development CA cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error(
        "{} is damaged ({reason}): remove the directory to make a new CA; clients must then be \
         given the new one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate cannot be made.
    #[error("no certificate can be made for {hosts:?}: {source}")]
    Issue {
        /// The names asked for.
        hosts: Vec<String>,
        /// What the generator says.
        source: rcgen::Error,
    },
    /// The certificate made cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// An authority made on the spot, for one machine. Its certificates are valid for ever and its key
/// lies in a file that only its owner can read: not for production.
pub struct DevCa {
    authority: Authority,
    pem: String,
    fingerprint: String,
    reset_secret: [u8; 32],
}

impl std::fmt::Debug for DevCa {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevCa").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl DevCa {
    /// Takes the authority kept in `dir`, or makes one there. A crash in between leaves something
    /// that the next call completes.
    ///
    /// # Errors
    /// [`DevCaError`].
    pub fn load_or_create(dir: &Path) -> Result<Self, DevCaError> {
        authority::create_dir(dir)?;
        let key_path = authority::key_path(dir);
        let key = match authority::read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|error| damaged(&key_path, error))?,
            None => {
                let key = KeyPair::generate().map_err(cannot_issue(&[]))?;
                authority::write(&key_path, 0o600, &key.serialize_pem())?;
                key
            }
        };
        let certificate_path = authority::certificate_path(dir);
        let pem = match authority::read(&certificate_path)? {
            Some(pem) => pem,
            None => {
                let pem = Authority::certificate(CA_NAME, &key, None).map_err(cannot_issue(&[]))?;
                authority::write(&certificate_path, 0o644, &pem)?;
                pem
            }
        };
        let certificate = certificates("development CA", pem.as_bytes())
            .map_err(|error| damaged(&certificate_path, error))?;
        let fingerprint = certificate.first().map_or_else(String::new, fingerprint);
        let authority = Authority::new(CA_NAME, key);
        // The same in every life of the authority.
        let reset_secret = reset_secret(CLIENTS_RESET, &authority.key_der());
        Ok(Self { authority, pem, fingerprint, reset_secret })
    }

    /// The authority's certificate, for clients to trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the authority's certificate, 64 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Makes a certificate, with a key of its own, for a server that is reached by these names and
    /// IP addresses.
    ///
    /// # Errors
    /// [`DevCaError::Issue`] for a name that no certificate can have.
    pub fn issue(&self, hosts: &[String]) -> Result<ServerTls, DevCaError> {
        let key = KeyPair::generate().map_err(cannot_issue(hosts))?;
        let uses = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = self.authority.issue(SERVER_NAME, hosts, uses, None, &key);
        let leaf = leaf.map_err(cannot_issue(hosts))?;
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(ServerTls::new(vec![leaf], key.into(), self.reset_secret)?)
    }
}

impl From<FileError> for DevCaError {
    fn from(FileError { path, source }: FileError) -> Self {
        Self::File { path, source }
    }
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> DevCaError {
    DevCaError::Damaged { path: path.to_owned(), reason: error.to_string() }
}

fn cannot_issue(hosts: &[String]) -> impl Fn(rcgen::Error) -> DevCaError {
    |source| DevCaError::Issue { hosts: hosts.to_vec(), source }
}
