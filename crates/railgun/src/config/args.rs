//! Flags that set settings.

use std::{net::SocketAddr, path::PathBuf};

use super::layer::Layer;

/// Where a node's settings come from. Each value flag has an environment variable of its name,
/// such as `RAILGUN_DATA_DIR`, and a key in the configuration file.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SettingsArgs {
    /// Run a node for a trial: everything has a default, certificates are made on the spot
    #[arg(long)]
    pub(crate) dev: bool,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "RAILGUN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of the hot log [env: RAILGUN_DATA_DIR] [with --dev: railgun-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Cold tier: file:///dir or s3://bucket/prefix [env: RAILGUN_BUCKET] [with --dev: in the data directory]
    #[arg(long, value_name = "URL")]
    pub(crate) bucket: Option<String>,
    /// Address for clients (UDP) [env: RAILGUN_LISTEN] [default: 127.0.0.1:7410]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address for health and metrics (TCP) [env: RAILGUN_HTTP] [default: 127.0.0.1:7411]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
}

impl SettingsArgs {
    /// What the flags set.
    pub(crate) fn layer(&self) -> Layer {
        Layer {
            data_dir: self.data_dir.clone(),
            bucket: self.bucket.clone(),
            listen: self.listen,
            http: self.http,
            ..Layer::default()
        }
    }
}
