//! What the suites share: a node of the real parts in this process, and clients for it.
#![allow(clippy::expect_used, reason = "a test that cannot go on says where")]

pub mod records;
pub mod sim;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use railgun_broker::{Broker, BrokerSpec, Clock, Seams, StartError};
use railgun_client::{Client, ClientOptions};
use railgun_cold::{Bucket, BucketOptions};
use railgun_net::tls::DevCa;
use railgun_net::{ClientMemory, Endpoint, ListenSpec};
use tempfile::TempDir;

/// A node with real files and real QUIC on loopback.
#[derive(Debug)]
pub struct TestNode {
    dir: Arc<TempDir>,
    broker: Broker,
    ca: String,
}

/// How a test's node differs from the usual one.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The bucket: one that fails, or is shared with the test; a directory beside the data if absent.
    pub bucket: Option<Bucket>,
    /// The wall clock; the system's if absent.
    pub clock: Option<Arc<dyn Clock>>,
    /// Data shards.
    pub shards: u32,
    /// Log bytes of all shards together.
    pub hot_bytes_max: u64,
    /// Bytes of a log file; as usual if absent.
    pub log_file_bytes: Option<u64>,
    /// See [`BrokerSpec::max_time_to_cold`].
    pub max_time_to_cold: Duration,
    /// Memory of all clients; as usual if absent.
    pub memory: Option<ClientMemory>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            bucket: None,
            clock: None,
            shards: 2,
            hot_bytes_max: 1 << 30,
            log_file_bytes: None,
            max_time_to_cold: Duration::from_secs(600),
            memory: None,
        }
    }
}

impl TestNode {
    /// A fresh node.
    pub async fn start() -> Self {
        Self::start_with(NodeOptions::default()).await
    }

    /// A fresh node with other options.
    pub async fn start_with(options: NodeOptions) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        Self::start_in(dir, options).await.expect("the node starts")
    }

    /// A node on what another has left in `dir`, if it starts.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_in(dir: Arc<TempDir>, options: NodeOptions) -> Result<Self, StartError> {
        let data_dir = dir.path().join("data");
        std::fs::create_dir_all(&data_dir).expect("a data directory");
        let ca = DevCa::load_or_create(&data_dir).expect("a certificate authority");
        let tls = ca.issue(&["localhost".into(), "127.0.0.1".into()]).expect("a certificate");
        let url = format!("file://{}", dir.path().join("bucket").display());
        let open = || Bucket::open(&url, &BucketOptions::new(1)).expect("a bucket");
        let mut seams = Seams::real(&data_dir).expect("a data directory");
        if let Some(clock) = options.clock {
            seams.clock = clock;
        }
        if let Some(bytes) = options.log_file_bytes {
            seams = seams.with_log_file_bytes(bytes);
        }
        let broker = Broker::start(BrokerSpec {
            seams,
            bucket: options.bucket.unwrap_or_else(open),
            listen: Box::new(move || {
                let usual = ListenSpec::new(([127, 0, 0, 1], 0).into(), tls);
                let memory = options.memory.unwrap_or_else(|| usual.memory.clone());
                Endpoint::bind(ListenSpec { memory, ..usual })
            }),
            address: "127.0.0.1".to_owned(),
            tokens: Vec::new(),
            admin_tokens: Vec::new(),
            hot_bytes_max: options.hot_bytes_max,
            shards: options.shards,
            max_time_to_cold: options.max_time_to_cold,
            streams_max: 100_000,
            cluster: None,
        })
        .await?;
        Ok(Self { dir, broker, ca: ca.pem().to_owned() })
    }

    /// Stops the node and starts it again on the same data.
    pub async fn restart(self, options: NodeOptions) -> Self {
        let Self { dir, broker, .. } = self;
        broker.shutdown(Duration::from_secs(10)).await;
        drop(broker);
        Self::start_in(dir, options).await.expect("the node starts")
    }

    /// Drops the node, with whatever it was doing, and starts it again on the same data.
    pub async fn crash(self, options: NodeOptions) -> Self {
        Self::start_in(self.end(), options).await.expect("the node starts")
    }

    /// Drops the node, with whatever it was doing, and leaves its data.
    #[must_use]
    pub fn end(self) -> Arc<TempDir> {
        let Self { dir, broker, .. } = self;
        drop(broker);
        dir
    }

    /// The running broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Where the bucket's files are, unless the options name another.
    pub fn bucket_dir(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    /// The node's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory that lives as long as the node's data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The certificate authority that clients trust, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// A client of this node.
    pub async fn client(&self) -> Client {
        let mut options = ClientOptions::new(self.broker.listen_addr().to_string());
        options.ca_pem = Some(self.ca.clone().into_bytes());
        Client::connect(options).await.expect("the node takes clients")
    }
}
