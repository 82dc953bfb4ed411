//! What every certificate authority of ours has: a name, a key, and two files in a directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, UnixTime};

const KEY_FILE: &str = "ca-key.pem";
const CERTIFICATE_FILE: &str = "ca.pem";

pub(super) fn key_path(dir: &Path) -> PathBuf {
    dir.join(KEY_FILE)
}

pub(super) fn certificate_path(dir: &Path) -> PathBuf {
    dir.join(CERTIFICATE_FILE)
}

/// The time in which a certificate is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) from: UnixTime,
    pub(super) lasts: Duration,
}

/// What signs certificates. Its own is made of a name that comes of the key, and that is all that an
/// issued certificate refers to: it need not be parsed.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new(name: &str, key: KeyPair) -> Self {
        Self { issuer: Issuer::new(authority(name, &key, None), key) }
    }

    /// The certificate of an authority with this key; valid for ever, unless it is said otherwise.
    pub(super) fn certificate(
        name: &str,
        key: &KeyPair,
        validity: Option<Validity>,
    ) -> Result<String, rcgen::Error> {
        Ok(authority(name, key, validity).self_signed(key)?.pem())
    }

    pub(super) fn key_der(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// A certificate for whoever has `key` and is reached by these names and IP addresses.
    pub(super) fn issue(
        &self,
        name: &str,
        hosts: &[String],
        uses: Vec<ExtendedKeyUsagePurpose>,
        validity: Option<Validity>,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        Ok(self.leaf(name, hosts, uses, validity)?.signed_by(key, &self.issuer)?.into())
    }

    /// The same in PEM.
    pub(super) fn issue_pem(
        &self,
        name: &str,
        hosts: &[String],
        uses: Vec<ExtendedKeyUsagePurpose>,
        validity: Option<Validity>,
        key: &impl PublicKeyData,
    ) -> Result<String, rcgen::Error> {
        Ok(self.leaf(name, hosts, uses, validity)?.signed_by(key, &self.issuer)?.pem())
    }

    fn leaf(
        &self,
        name: &str,
        hosts: &[String],
        uses: Vec<ExtendedKeyUsagePurpose>,
        validity: Option<Validity>,
    ) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = uses;
        params.use_authority_key_identifier_extension = true;
        date(&mut params, validity);
        Ok(params)
    }
}

/// Told apart from other authorities by a name that comes of the key.
fn authority(name: &str, key: &KeyPair, validity: Option<Validity>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let id: String =
        params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("{name} {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    date(&mut params, validity);
    params
}

fn date(params: &mut CertificateParams, validity: Option<Validity>) {
    if let Some(Validity { from, lasts }) = validity {
        params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(from.as_secs());
        params.not_after = params.not_before + lasts;
    }
}

/// A file of an authority cannot be read or written.
#[derive(Debug)]
pub(super) struct FileError {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

pub(super) fn create_dir(dir: &Path) -> Result<(), FileError> {
    fs::create_dir_all(dir).map_err(|source| FileError { path: dir.to_owned(), source })
}

pub(super) fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { path: path.to_owned(), source }),
    }
}

/// Writes the file whole or not at all, readable by whom `mode` says from its first byte on.
pub(super) fn write(path: &Path, mode: u32, text: &str) -> Result<(), FileError> {
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
    written.map_err(|source| FileError { path: path.to_owned(), source })
}
