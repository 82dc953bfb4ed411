//! The certificate a node shows.

use railgun_net::tls::{DevCa, DevCaError, ServerTls, TlsError};

use crate::config::Settings;

/// Folder in the data directory that keeps the CA a node makes for itself.
const CA_DIR: &str = "ca";

/// What the listener shows and what clients need to check it.
pub(crate) struct Material {
    pub(crate) server: ServerTls,
    /// The node's own CA, where no certificate is configured.
    pub(crate) ca: Option<DevCa>,
}

/// There is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaterialError {
    #[error("cannot use the configured certificate: {0}")]
    Configured(#[from] TlsError),
    #[error("cannot make a certificate for this node: {0}")]
    OwnCa(#[from] DevCaError),
}

/// The configured certificate, or one from a CA of the node's own, which the settings allow for
/// trials and on loopback only.
///
/// # Errors
///
/// [`MaterialError`] when the files, or the CA in the data directory, cannot be used.
pub(crate) fn material(settings: &Settings) -> Result<Material, MaterialError> {
    if let Some((cert, key)) = settings.certificate() {
        return Ok(Material { server: ServerTls::from_pem_files(cert, key)?, ca: None });
    }
    let ca = DevCa::load_or_create(&settings.data_dir.value.join(CA_DIR))?;
    Ok(Material { server: ca.issue(&names(settings))?, ca: Some(ca) })
}

/// What clients may call this node: loopback, the address listened on, the host's name.
fn names(settings: &Settings) -> Vec<String> {
    let listen = settings.listen.value.ip();
    let listen = (!listen.is_unspecified()).then(|| listen.to_string());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.extend(
        listen.into_iter().chain([host]).filter(|name| !name.is_empty() && name.is_ascii()),
    );
    names.sort_unstable();
    names.dedup();
    names
}
