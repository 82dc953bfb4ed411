//! The effective settings of a node, each with where it came from.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use railgun_broker::TokenHash;
use railgun_cold::BucketUrl;
use railgun_cold::bucket::InvalidBucketUrl;
use railgun_net::ClientMemory;

use super::{
    args::SettingsArgs,
    byte_size::ByteSize,
    environment::{self, EnvironmentError},
    file::{self, FileError},
    layer::{Layer, LogFormat},
};
use crate::exit::{Exit, Failure};
use crate::span::Span;

/// UDP port that clients connect to unless told otherwise.
pub(crate) const PORT: u16 = 7410;
/// TCP port of health checks and metrics.
pub(crate) const HTTP_PORT: u16 = 7411;
/// UDP port that nodes reach each other at.
pub(crate) const PEER_PORT: u16 = 7412;

const MIB: u64 = 1 << 20;
const HOT_FILE_BYTES: ByteSize = ByteSize(64 * MIB);
const HOT_FILE_BYTES_MIN: ByteSize = ByteSize(MIB);
const HOT_FILE_BYTES_MAX: ByteSize = ByteSize(1024 * MIB);
const HOT_BYTES_DEFAULT_MAX: ByteSize = ByteSize(10 * 1024 * MIB);
const SHARDS_MAX: u32 = 64;
const SHARDS_DEFAULT_MAX: usize = 8;
/// What a shard may have.
const REPLICAS: [u32; 3] = [1, 3, 5];
/// Where there are as many nodes.
const REPLICAS_DEFAULT: u32 = 3;
const STREAMS_DEFAULT: u32 = 100_000;
const STREAMS_MAX: u32 = 10_000_000;
const CONNECTIONS_DEFAULT: u32 = railgun_net::CONNECTIONS_DEFAULT as u32;
const CONNECTIONS_MAX: u32 = 100_000;
const CLIENTS_BYTES_MIN: ByteSize = ByteSize(64 * MIB);
const CLIENTS_BYTES_MAX: ByteSize = ByteSize(1 << 40);
const CLIENTS_BYTES_DEFAULT_MAX: ByteSize = ByteSize(4096 * MIB);
const TIME_TO_COLD: Span = Span(Duration::from_secs(600));
const TIME_TO_COLD_MIN: Span = Span(Duration::from_secs(1));
const TIME_TO_COLD_MAX: Span = Span(Duration::from_secs(24 * 3600));

/// Where a value came from, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag of the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File,
    /// Chosen by `--dev`.
    Dev,
    /// Built in, or derived from the machine.
    Default,
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sourced<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// What the defaults depend on; injected so that tests choose it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Processors that may be used.
    pub(crate) cores: usize,
    /// Size of the file system that holds, or will hold, a path, in bytes.
    pub(crate) disk_bytes: fn(&Path) -> Option<u64>,
    /// Memory that this process may take, in bytes.
    pub(crate) memory_bytes: Option<u64>,
}

/// Everything `serve` needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) dev: bool,
    pub(crate) config: Option<PathBuf>,
    pub(crate) data_dir: Sourced<PathBuf>,
    pub(crate) bucket: Sourced<String>,
    pub(crate) listen: Sourced<SocketAddr>,
    pub(crate) advertise: Option<Sourced<String>>,
    pub(crate) http: Sourced<SocketAddr>,
    pub(crate) tls_ca: Option<Sourced<PathBuf>>,
    pub(crate) tls_cert: Option<Sourced<PathBuf>>,
    pub(crate) tls_key: Option<Sourced<PathBuf>>,
    pub(crate) tokens: Sourced<Vec<TokenHash>>,
    pub(crate) admin_tokens: Sourced<Vec<TokenHash>>,
    pub(crate) hot_bytes_max: Sourced<ByteSize>,
    pub(crate) hot_file_bytes: Sourced<ByteSize>,
    pub(crate) shards: Sourced<u32>,
    pub(crate) replicas: Sourced<u32>,
    pub(crate) bootstrap_expect: Sourced<u32>,
    pub(crate) peers: Sourced<Vec<String>>,
    pub(crate) srv: Option<Sourced<String>>,
    pub(crate) dns_server: Option<Sourced<SocketAddr>>,
    pub(crate) peer_listen: Sourced<SocketAddr>,
    pub(crate) peer_advertise: Option<Sourced<String>>,
    pub(crate) ca_dir: Option<Sourced<PathBuf>>,
    pub(crate) keep_awake: Sourced<bool>,
    pub(crate) streams_max: Sourced<u32>,
    pub(crate) connections_max: Sourced<u32>,
    pub(crate) clients_bytes_max: Sourced<ByteSize>,
    pub(crate) max_time_to_cold: Sourced<Span>,
    pub(crate) log_format: Sourced<LogFormat>,
    pub(crate) log_filter: Sourced<String>,
}

/// The settings do not make a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error(
        "`{key}` is not set: pass --{flag}, set {}, or write it into the file of --config (`--dev` chooses one by itself)",
        environment::variable_of(key)
    )]
    Missing { key: &'static str, flag: &'static str },
    #[error("`{key}` is {value}, outside {min} to {max}")]
    OutOfRange { key: &'static str, value: String, min: String, max: String },
    #[error(
        "`clients.max_connections` is {connections}, and `clients.max_bytes` of {bytes} is enough for {connections_max}: set it to at least {bytes_min}, or allow fewer connections"
    )]
    ClientsMemory { connections: u32, bytes: ByteSize, connections_max: u32, bytes_min: ByteSize },
    #[error("`bucket` cannot be used: {0}")]
    Bucket(#[from] InvalidBucketUrl),
    #[error("`log.filter` is `{filter}`: {reason}")]
    LogFilter { filter: String, reason: String },
    #[error("`tls.cert` and `tls.key` go together, and only `{set}` is set")]
    HalfCertificate { set: &'static str },
    #[error(
        "`cluster.bootstrap_expect` is {expect}, and no other node is named: list them in `cluster.peers`, HOST:PORT of the peer port of each, or set `cluster.srv` to the DNS name that has them"
    )]
    NoPeers { expect: u32 },
    #[error("`shards.replicas` is {replicas}: a shard has 1, 3 or 5")]
    Replicas { replicas: u32 },
    #[error(
        "`cluster.srv` is '{name}', which is not a DNS name: peers are the SRV records of _railgun._udp.NAME"
    )]
    NoDnsName { name: String },
    #[error("`cluster.dns_server` is set, and `cluster.srv` is not: nothing would be asked of it")]
    DnsServerAlone,
    #[error(
        "clients cannot reach this node at {listen}: set `advertise` to the HOST:PORT at which they do"
    )]
    NoClientAdvertise { listen: SocketAddr },
    #[error("`{key}` has '{address}', which is not an address: write host:port")]
    NoAddress { key: &'static str, address: String },
    #[error(
        "`cluster.peer_listen` and `listen` are both {address}: clients and nodes need a port each"
    )]
    SameAddress { address: SocketAddr },
    #[error(
        "other nodes cannot reach this one at {peer_listen}: set `cluster.peer_advertise` to the HOST:PORT at which they do"
    )]
    NoAdvertise { peer_listen: SocketAddr },
    #[error(
        "`{missing}` is not set: a node of a cluster needs a certificate of the cluster's CA (`tls.ca`, `tls.cert`, `tls.key`)"
    )]
    NoNodeCertificate { missing: &'static str },
    #[error(
        "refusing to listen on {listen}, which other machines can reach, without {missing}: anyone there could read and write every stream. Set {missing}, or listen on 127.0.0.1, or use --dev for a trial"
    )]
    Exposed { listen: SocketAddr, missing: &'static str },
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        let failure = Self::new(Exit::Usage, error.to_string());
        match error {
            SettingsError::Exposed { .. } => {
                failure.next("openssl rand -hex 32 | tee token | railgun config hash-token")
            }
            SettingsError::Missing { .. } => failure.next("railgun serve --dev"),
            SettingsError::NoNodeCertificate { .. } => failure.next(
                "railgun cluster issue-node --ca DIR --out DIR --host HOST, after railgun cluster init-ca --dir DIR",
            ),
            SettingsError::File(error) => match error.exit() {
                Exit::Usage => failure.next("railgun config check FILE, once the file is mended"),
                exit => Self::new(exit, error.to_string()).next("pass another file with --config"),
            },
            SettingsError::Environment(_) => failure.next("unset the variable, or correct it"),
            SettingsError::Bucket(_)
            | SettingsError::OutOfRange { .. }
            | SettingsError::ClientsMemory { .. }
            | SettingsError::LogFilter { .. }
            | SettingsError::NoPeers { .. }
            | SettingsError::NoAddress { .. }
            | SettingsError::SameAddress { .. }
            | SettingsError::NoAdvertise { .. }
            | SettingsError::NoClientAdvertise { .. }
            | SettingsError::Replicas { .. }
            | SettingsError::NoDnsName { .. }
            | SettingsError::DnsServerAlone
            | SettingsError::HalfCertificate { .. } => failure.next(
                "correct the setting: its flags, variables and keys are in railgun serve --help",
            ),
        }
    }
}

impl Settings {
    /// The effective settings: flags over environment over file over defaults.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] when a source is malformed or the whole is not safe to run.
    pub(crate) fn resolve(
        args: &SettingsArgs,
        environment: impl Fn(&str) -> Option<OsString>,
        machine: Machine,
    ) -> Result<Self, SettingsError> {
        let mut layers = Layers {
            flags: args.layer(),
            environment: environment::read(environment)?,
            file: args.config.as_deref().map(file::read).transpose()?.unwrap_or_default(),
        };
        let dev = args.dev;
        let data_dir = layers.take(|layer| &mut layer.data_dir);
        let data_dir = or_dev(data_dir, dev, || "railgun-data".into())
            .ok_or(SettingsError::Missing { key: "data_dir", flag: "data-dir" })?;
        let bucket = layers.take(|layer| &mut layer.bucket);
        let bucket = or_dev(bucket, dev, || directory_url(&data_dir.value.join("bucket")))
            .ok_or(SettingsError::Missing { key: "bucket", flag: "bucket" })?;
        let hot_file_bytes = layers.or(|layer| &mut layer.hot.file_bytes, || HOT_FILE_BYTES);
        let clients_bytes_max =
            layers.or(|layer| &mut layer.clients.max_bytes, || clients_bytes_max(machine));
        let bootstrap_expect = layers.or(|layer| &mut layer.cluster.bootstrap_expect, || 1);
        let replicas =
            layers.or(|layer| &mut layer.shards.replicas, || replicas(bootstrap_expect.value));
        let settings = Self {
            dev,
            config: args.config.clone(),
            bucket,
            listen: layers.or(|layer| &mut layer.listen, || loopback(PORT)),
            advertise: layers.take(|layer| &mut layer.advertise),
            http: layers.or(|layer| &mut layer.http, || loopback(HTTP_PORT)),
            tls_ca: layers.take(|layer| &mut layer.tls.ca),
            tls_cert: layers.take(|layer| &mut layer.tls.cert),
            tls_key: layers.take(|layer| &mut layer.tls.key),
            tokens: layers.or(|layer| &mut layer.auth.tokens, Vec::new),
            admin_tokens: layers.or(|layer| &mut layer.auth.admin_tokens, Vec::new),
            hot_bytes_max: layers.or(
                |layer| &mut layer.hot.max_bytes,
                || hot_bytes_max(machine, &data_dir.value, hot_file_bytes.value),
            ),
            hot_file_bytes,
            shards: layers.or(|layer| &mut layer.shards.count, || shards(machine)),
            replicas,
            bootstrap_expect,
            peers: layers.or(|layer| &mut layer.cluster.peers, Vec::new),
            srv: layers.take(|layer| &mut layer.cluster.srv),
            dns_server: layers.take(|layer| &mut layer.cluster.dns_server),
            peer_listen: layers.or(|layer| &mut layer.cluster.peer_listen, || loopback(PEER_PORT)),
            peer_advertise: layers.take(|layer| &mut layer.cluster.peer_advertise),
            ca_dir: layers.take(|layer| &mut layer.cluster.ca_dir),
            keep_awake: layers.or(|layer| &mut layer.cpu.keep_awake, || false),
            streams_max: layers.or(|layer| &mut layer.streams.max_count, || STREAMS_DEFAULT),
            connections_max: layers.or(
                |layer| &mut layer.clients.max_connections,
                || connections_at(clients_bytes_max.value).min(CONNECTIONS_DEFAULT),
            ),
            clients_bytes_max,
            max_time_to_cold: layers.or(|layer| &mut layer.cold.max_time_to_cold, || TIME_TO_COLD),
            log_format: layers.or(|layer| &mut layer.log.format, || LogFormat::Pretty),
            log_filter: layers
                .or(|layer| &mut layer.log.filter, || "info,openraft=error".to_owned()),
            data_dir,
        };
        settings.check()?;
        Ok(settings)
    }

    /// The certificate and key files, where they are set.
    pub(crate) fn certificate(&self) -> Option<(&Path, &Path)> {
        Some((&self.tls_cert.as_ref()?.value, &self.tls_key.as_ref()?.value))
    }

    /// The `host:port` that clients are told.
    pub(crate) fn advertised(&self) -> String {
        let listen = || self.listen.value.to_string();
        self.advertise.as_ref().map_or_else(listen, |address| address.value.clone())
    }

    fn check(&self) -> Result<(), SettingsError> {
        let within = |key, value, min, max| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            let [value, min, max] = [value, min, max].map(|bytes: ByteSize| bytes.to_string());
            Err(SettingsError::OutOfRange { key, value, min, max })
        };
        let file_bytes = self.hot_file_bytes.value;
        within("hot.file_bytes", file_bytes, HOT_FILE_BYTES_MIN, HOT_FILE_BYTES_MAX)?;
        within("hot.max_bytes", self.hot_bytes_max.value, file_bytes, ByteSize(1 << 60))?;
        let time_to_cold = self.max_time_to_cold.value;
        if !(TIME_TO_COLD_MIN..=TIME_TO_COLD_MAX).contains(&time_to_cold) {
            return Err(SettingsError::OutOfRange {
                key: "cold.max_time_to_cold",
                value: time_to_cold.to_string(),
                min: TIME_TO_COLD_MIN.to_string(),
                max: TIME_TO_COLD_MAX.to_string(),
            });
        }
        let clients_bytes = self.clients_bytes_max.value;
        within("clients.max_bytes", clients_bytes, CLIENTS_BYTES_MIN, CLIENTS_BYTES_MAX)?;
        for (key, value, max) in [
            ("shards.count", self.shards.value, SHARDS_MAX),
            ("streams.max_count", self.streams_max.value, STREAMS_MAX),
            ("clients.max_connections", self.connections_max.value, CONNECTIONS_MAX),
        ] {
            if !(1..=max).contains(&value) {
                let [value, min, max] = [value, 1, max].map(|count| count.to_string());
                return Err(SettingsError::OutOfRange { key, value, min, max });
            }
        }
        let replicas = self.replicas.value;
        if !REPLICAS.contains(&replicas) {
            return Err(SettingsError::Replicas { replicas });
        }
        let (connections, connections_max) =
            (self.connections_max.value, connections_at(clients_bytes));
        if connections > connections_max {
            let bytes_min = ByteSize(ClientMemory::bytes_for(connections as usize) as u64);
            let bytes = clients_bytes;
            return Err(SettingsError::ClientsMemory {
                connections,
                bytes,
                connections_max,
                bytes_min,
            });
        }
        self.bucket.value.parse::<BucketUrl>()?;
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log_filter.value) {
            let filter = self.log_filter.value.clone();
            return Err(SettingsError::LogFilter { filter, reason: error.to_string() });
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => return Err(SettingsError::HalfCertificate { set: "tls.cert" }),
            (None, Some(_)) => return Err(SettingsError::HalfCertificate { set: "tls.key" }),
            _ => {}
        }
        self.cluster()?;
        self.check_exposure()
    }

    /// What other machines can reach needs a certificate that clients can check and a token.
    fn check_exposure(&self) -> Result<(), SettingsError> {
        let listen = self.listen.value;
        if self.dev || listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let missing = match (self.certificate(), self.tokens.value.is_empty()) {
            (None, true) => "a certificate (`tls.cert`, `tls.key`) and a token (`auth.tokens`)",
            (None, false) => "a certificate (`tls.cert`, `tls.key`)",
            (Some(_), true) => "a token (`auth.tokens`)",
            (Some(_), false) => return Ok(()),
        };
        Err(SettingsError::Exposed { listen, missing })
    }
}

/// The sources, from the one that wins to the one that loses.
struct Layers {
    flags: Layer,
    environment: Layer,
    file: Layer,
}

impl Layers {
    fn take<T>(&mut self, field: fn(&mut Layer) -> &mut Option<T>) -> Option<Sourced<T>> {
        [
            (&mut self.flags, Origin::Flag),
            (&mut self.environment, Origin::Environment),
            (&mut self.file, Origin::File),
        ]
        .into_iter()
        .find_map(|(layer, origin)| Some(Sourced { value: field(layer).take()?, origin }))
    }

    fn or<T>(
        &mut self,
        field: fn(&mut Layer) -> &mut Option<T>,
        default: impl FnOnce() -> T,
    ) -> Sourced<T> {
        self.take(field).unwrap_or_else(|| Sourced { value: default(), origin: Origin::Default })
    }
}

fn or_dev<T>(set: Option<Sourced<T>>, dev: bool, choice: impl FnOnce() -> T) -> Option<Sourced<T>> {
    set.or_else(|| dev.then(|| Sourced { value: choice(), origin: Origin::Dev }))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// DESIGN §1.7: a fifth of the disk, at most 10 GiB, at least a log file.
fn hot_bytes_max(machine: Machine, data_dir: &Path, file_bytes: ByteSize) -> ByteSize {
    let fifth = (machine.disk_bytes)(data_dir).map(|bytes| ByteSize(bytes / 5 / MIB * MIB));
    fifth.unwrap_or(HOT_BYTES_DEFAULT_MAX).min(HOT_BYTES_DEFAULT_MAX).max(file_bytes)
}

/// An eighth of the memory, at most 4 GiB: what is on its way between clients and network may take as
/// much again, and shards and caches have theirs.
fn clients_bytes_max(machine: Machine) -> ByteSize {
    let eighth = machine.memory_bytes.map(|bytes| ByteSize(bytes / 8 / MIB * MIB));
    let default = eighth.unwrap_or(ByteSize(1024 * MIB));
    default.clamp(CLIENTS_BYTES_MIN, CLIENTS_BYTES_DEFAULT_MAX)
}

/// How many connections so much memory is enough for.
fn connections_at(clients_bytes: ByteSize) -> u32 {
    let bytes = usize::try_from(clients_bytes.0).unwrap_or(usize::MAX);
    u32::try_from(ClientMemory::connections_max(bytes)).unwrap_or(u32::MAX)
}

/// DESIGN §1.2: one shard a core, at most 8.
fn shards(machine: Machine) -> u32 {
    u32::try_from(machine.cores.clamp(1, SHARDS_DEFAULT_MAX)).expect("8 fits in u32")
}

/// As many as survive the loss of one, where a cluster begins with enough nodes.
fn replicas(bootstrap_expect: u32) -> u32 {
    if bootstrap_expect < REPLICAS_DEFAULT { 1 } else { REPLICAS_DEFAULT }
}

/// The `file://` URL of a directory; a relative one counts from the working directory.
fn directory_url(dir: &Path) -> String {
    let root = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    BucketUrl::File { root }.to_string()
}

#[cfg(test)]
pub(crate) mod tests;
