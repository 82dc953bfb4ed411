//! From settings to a running broker: the only file that knows how one is started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use railgun_broker::{Broker, BrokerSpec, ClusterSpec, Discovery, Seams, StartError};
use railgun_cold::bucket::OpenBucketError;
use railgun_cold::{Bucket, BucketOptions};
use railgun_net::peer::{NodeTls, PeerEndpoint, PeerListenSpec};
use railgun_net::tls::{ClusterCa, ClusterCaError, ServerTls, TlsError};
use railgun_net::{ClientMemory, Endpoint, ListenSpec};
use tokio::runtime::Handle;

use super::discovery::{Dns, DnsError};
use crate::config::{ClusterConfig, Settings};

/// Why there is no running broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartNodeError {
    #[error("cannot use the data directory: {0}")]
    DataDir(io::Error),
    #[error(transparent)]
    Bucket(#[from] OpenBucketError),
    #[error("`cluster.ca_dir`: {source}")]
    Authority { dir: PathBuf, source: ClusterCaError },
    #[error("cannot ask for the nodes of `cluster.srv`: {0}")]
    Dns(#[from] DnsError),
    #[error("cannot use the node's certificate among other nodes: {0}")]
    NodeTls(#[from] TlsError),
    #[error(transparent)]
    Broker(#[from] StartError),
}

/// Starts the broker: recovers the log, reaches the bucket, listens.
///
/// # Errors
///
/// [`StartNodeError`]. Dropping the future leaves the data directory as a crash would.
pub(crate) async fn start(
    settings: &Settings,
    cluster: Option<ClusterConfig>,
    tls: ServerTls,
    background: Handle,
) -> Result<Broker, StartNodeError> {
    let seams = Seams::real(&settings.data_dir.value)
        .map_err(StartNodeError::DataDir)?
        .with_log_file_bytes(settings.hot_file_bytes.value.0)
        .with_background(background);
    let seed = u64::from_le_bytes(seams.entropy.uid()[..8].try_into().unwrap_or_default());
    let bucket = Bucket::open(&settings.bucket.value, &BucketOptions::new(seed))?;
    let listen = settings.listen.value;
    let connections_max = settings.connections_max.value as usize;
    let clients_bytes = usize::try_from(settings.clients_bytes_max.value.0).unwrap_or(usize::MAX);
    let listen_spec = ListenSpec {
        connections_max,
        memory: ClientMemory::new(clients_bytes, connections_max),
        ..ListenSpec::new(listen, tls)
    };
    let spec = BrokerSpec {
        seams,
        bucket,
        listen: Box::new(move || Endpoint::bind(listen_spec)),
        address: settings.advertised(),
        tokens: settings.tokens.value.clone(),
        admin_tokens: settings.admin_tokens.value.clone(),
        hot_bytes_max: settings.hot_bytes_max.value.0,
        shards: settings.shards.value,
        max_time_to_cold: settings.max_time_to_cold.value.0,
        streams_max: settings.streams_max.value as usize,
        cluster: cluster.map(cluster_spec).transpose()?,
    };
    Ok(Broker::start(spec).await?)
}

/// What makes the node one of several.
fn cluster_spec(cluster: ClusterConfig) -> Result<ClusterSpec, StartNodeError> {
    let ca = cluster.ca_dir.as_deref().map(|dir| authority(dir, &cluster.ca)).transpose()?;
    let discovery = match cluster.srv {
        Some(name) => Some(Arc::new(Dns::new(&name, cluster.dns_server)?) as Arc<dyn Discovery>),
        None => None,
    };
    let tls = NodeTls::from_pem_files(&cluster.cert, &cluster.key, &cluster.ca)?;
    let listen = PeerListenSpec::new(cluster.peer_listen, tls);
    Ok(ClusterSpec {
        listen: Box::new(move || PeerEndpoint::bind(listen)),
        peer_address: cluster.peer_advertise,
        seeds: cluster.peers,
        bootstrap_expect: cluster.bootstrap_expect,
        replicas: cluster.replicas,
        ca,
        discovery,
    })
}

/// The authority that this node signs with for those that join.
fn authority(dir: &Path, trusted: &Path) -> Result<Arc<ClusterCa>, StartNodeError> {
    let ca = ClusterCa::load(dir)
        .map_err(|source| StartNodeError::Authority { dir: dir.to_owned(), source })?;
    // Of a file that cannot be read the node's own certificate tells.
    if fs::read_to_string(trusted).is_ok_and(|trusted| !trusted.contains(ca.pem().trim())) {
        tracing::warn!(
            "the authority in {} is not in `tls.ca`, {}: nodes that it lets in are refused by the others",
            dir.display(),
            trusted.display()
        );
    }
    Ok(Arc::new(ca))
}
