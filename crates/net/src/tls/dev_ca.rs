//! A certificate authority for development, kept in a directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{ServerTls, TlsError, certificates, fingerprint, reset_secret};

const KEY_FILE: &str = "ca-key.pem";
const CERTIFICATE_FILE: &str = "ca.pem";
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
    issuer: Issuer<'static, KeyPair>,
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
        fs::create_dir_all(dir)
            .map_err(|source| DevCaError::File { path: dir.to_owned(), source })?;
        let key_path = dir.join(KEY_FILE);
        let key = match read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|error| damaged(&key_path, error))?,
            None => {
                let key = KeyPair::generate().map_err(cannot_issue(&[]))?;
                write(&key_path, 0o600, &key.serialize_pem())?;
                key
            }
        };
        let certificate_path = dir.join(CERTIFICATE_FILE);
        let pem = match read(&certificate_path)? {
            Some(pem) => pem,
            None => {
                let pem = authority(&key).self_signed(&key).map_err(cannot_issue(&[]))?.pem();
                write(&certificate_path, 0o644, &pem)?;
                pem
            }
        };
        let certificate = certificates("development CA", pem.as_bytes())
            .map_err(|error| damaged(&certificate_path, error))?;
        let fingerprint = certificate.first().map_or_else(String::new, fingerprint);
        // Name and key are all that an issued certificate refers to, and both are the same in every
        // life of the authority: the certificate need not be parsed.
        let reset_secret = reset_secret(&key.serialize_der());
        let issuer = Issuer::new(authority(&key), key);
        Ok(Self { issuer, pem, fingerprint, reset_secret })
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
        let mut params = CertificateParams::new(hosts).map_err(cannot_issue(hosts))?;
        params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(cannot_issue(hosts))?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(cannot_issue(hosts))?;
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(ServerTls::new(vec![leaf.der().clone()], key.into(), self.reset_secret)?)
    }
}

/// Told apart from other authorities by a name that comes of the key.
fn authority(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let id: String =
        params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("{CA_NAME} {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn read(path: &Path) -> Result<Option<String>, DevCaError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DevCaError::File { path: path.to_owned(), source }),
    }
}

/// Writes the file whole or not at all, readable by whom `mode` says from its first byte on.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), DevCaError> {
    let new = path.with_extension("new");
    let written = (|| {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    written.map_err(|source| DevCaError::File { path: path.to_owned(), source })
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> DevCaError {
    DevCaError::Damaged { path: path.to_owned(), reason: error.to_string() }
}

fn cannot_issue(hosts: &[String]) -> impl Fn(rcgen::Error) -> DevCaError {
    |source| DevCaError::Issue { hosts: hosts.to_vec(), source }
}
