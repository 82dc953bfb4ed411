//! Three processes of the binary that are one cluster, and whatever is needed to hurt them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use railgun_client::{Client, ClientOptions, ClusterStatus, NodeId};
use railgun_cold::BucketUrl;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::eventually;
use crate::mount::Mount;
use crate::network::Network;
use crate::site::{Process, binary};

/// Nodes of the cluster.
pub(crate) const NODES: usize = 3;
/// Data shards: enough that not all are led by the same node.
pub(crate) const SHARDS: u32 = 2;
/// How long a cluster may take to form, in a debug build on a busy machine.
const FORMED_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a node's log that a failure shows.
const LOG_LINES: usize = 15;
/// What clients show: nodes that other machines can reach take nobody without.
const TOKEN: &str = "of the suite `chaos`, 0123456789abcdef";
/// The disk of the node that has one of its own.
const DISK: &str = "256m";

/// See the module. Its files stay when a test fails.
#[derive(Debug)]
pub(crate) struct Cluster {
    // Before what they lie on.
    nodes: Vec<Node>,
    disk: Option<Mount>,
    pub(crate) network: Network,
    ca_pem: Vec<u8>,
    /// What nodes know of the token.
    token_hash: String,
    dir: TempDir,
}

#[derive(Debug)]
struct Node {
    home: PathBuf,
    data_dir: PathBuf,
    process: Option<Process>,
}

impl Cluster {
    /// Forms one on this network.
    pub(crate) async fn start(network: Network) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (ca, disk) = (dir.path().join("ca"), Mount::new(DISK));
        run(railgun(&dir).args(["cluster", "init-ca", "--dir"]).arg(&ca));
        let mut nodes = Vec::new();
        for index in 0..NODES {
            let home = dir.path().join(format!("n{}", index + 1));
            fs::create_dir(&home).expect("a directory");
            let host = network.of(index).listen.ip().to_string();
            let issue = ["cluster", "issue-node", "--host", &host, "--ca"];
            run(railgun(&dir).args(issue).arg(&ca).arg("--out").arg(home.join("tls")));
            let is_last = index == NODES - 1;
            let own_disk = disk.as_ref().filter(|_| is_last).map(Mount::path);
            let data_dir = own_disk.unwrap_or_else(|| home.clone()).join("data");
            nodes.push(Node { home, data_dir, process: None });
        }
        let ca_pem = fs::read(ca.join("ca.pem")).expect("an authority");
        let token = dir.path().join("token");
        fs::write(&token, TOKEN).expect("a file");
        let token = File::open(&token).expect("a file");
        let token_hash = run(railgun(&dir).args(["config", "hash-token"]).stdin(token));
        let mut cluster = Self { nodes, disk, network, ca_pem, token_hash, dir };
        println!("the cluster is in {}", cluster.dir.path().display());
        (0..NODES).for_each(|node| cluster.spawn(node));
        cluster.whole(FORMED_LIMIT).await;
        cluster
    }

    /// Starts a node's process.
    pub(crate) fn spawn(&mut self, index: usize) {
        let addresses = self.network.of(index);
        let bucket = BucketUrl::File { root: self.dir.path().join("bucket") }.to_string();
        let mut command = railgun(&self.dir);
        let node = &mut self.nodes[index];
        let log = File::options().create(true).append(true).open(node.home.join("log"));
        let tls = node.home.join("tls");
        command.args(["serve", "--http", "127.0.0.1:0", "--bucket", &bucket]);
        command.arg("--data-dir").arg(&node.data_dir);
        command.arg("--listen").arg(addresses.listen.to_string());
        command.env("RAILGUN_AUTH_TOKENS", self.token_hash.trim());
        command.env("RAILGUN_TLS_CA", tls.join("ca.pem"));
        command.env("RAILGUN_TLS_CERT", tls.join("node.pem"));
        command.env("RAILGUN_TLS_KEY", tls.join("node-key.pem"));
        command.env("RAILGUN_CLUSTER_BOOTSTRAP_EXPECT", NODES.to_string());
        command.env("RAILGUN_CLUSTER_PEERS", self.network.seeds().join(","));
        command.env("RAILGUN_CLUSTER_PEER_LISTEN", addresses.peer_listen.to_string());
        command.env("RAILGUN_CLUSTER_PEER_ADVERTISE", addresses.advertise.to_string());
        command.env("RAILGUN_SHARDS_COUNT", SHARDS.to_string());
        // So that data moves through all tiers.
        command.env("RAILGUN_HOT_FILE_BYTES", "1MiB").env("RAILGUN_HOT_MAX_BYTES", "128MiB");
        command.env("RAILGUN_COLD_MAX_TIME_TO_COLD", "2s");
        if let Some(filter) = std::env::var_os("RAILGUN_CHAOS_LOG_FILTER") {
            command.env("RAILGUN_LOG_FILTER", filter);
        }
        command.stdout(Stdio::null()).stderr(log.expect("a log file"));
        node.process = Some(self.network.spawn(index, &mut command));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].process.take().expect("the node runs").kill();
    }

    /// SIGSTOP: it is there and does nothing.
    pub(crate) fn pause(&self, node: usize) {
        self.process(node).signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self, node: usize) {
        self.process(node).signal(Signal::CONT);
    }

    fn process(&self, node: usize) -> &Process {
        self.nodes[node].process.as_ref().expect("the node runs")
    }

    /// The nodes whose process has ended by itself.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let status = node.process.as_mut().and_then(Process::exited);
            ended.extend(status.map(|status| format!("node {} ended: {status}", index + 1)));
        }
        ended
    }

    /// What the nodes have logged of panics, of their tasks as well.
    pub(crate) fn panics(&self) -> Vec<String> {
        let mut panics = Vec::new();
        for node in &self.nodes {
            let log = fs::read_to_string(node.home.join("log")).unwrap_or_default();
            let lines = log.lines().filter(|line| line.contains("panicked at"));
            panics.extend(lines.map(|line| format!("{}: {line}", node.home.display())));
        }
        panics
    }

    /// The disk of the last node, where it has one of its own.
    pub(crate) fn disk(&self) -> Option<&Mount> {
        self.disk.as_ref()
    }

    /// How clients reach these nodes, and no others.
    pub(crate) fn options(&self, nodes: &[usize]) -> ClientOptions {
        let servers = nodes.iter().map(|node| self.network.of(*node).listen.to_string());
        let mut options = ClientOptions::new("");
        options.servers = servers.collect();
        options.ca_pem = Some(self.ca_pem.clone());
        options.token = Some(TOKEN.to_owned());
        options
    }

    /// A client of these nodes, once one of them serves.
    pub(crate) async fn client(&self, nodes: &[usize], limit: Duration) -> Client {
        Self::connected(self.options(nodes), limit).await
    }

    /// The same of one with these options.
    pub(crate) async fn connected(options: ClientOptions, limit: Duration) -> Client {
        eventually("a node takes clients", limit, async || {
            Client::connect(options.clone()).await.ok()
        })
        .await
    }

    /// What a node of these says of the cluster, when it does.
    pub(crate) async fn status(&self, nodes: &[usize], limit: Duration) -> ClusterStatus {
        let client = self.client(nodes, limit).await;
        let status = eventually("a node tells of the cluster", limit, async || {
            client.admin().cluster_status().await.ok()
        })
        .await;
        client.close().await;
        status
    }

    /// Waits until every node is heard and every shard is led, as the first node sees it.
    pub(crate) async fn whole(&self, limit: Duration) {
        eventually("the cluster is whole", limit, async || {
            let status = self.status(&[0], limit).await;
            let heard = status.nodes.iter().filter(|node| node.reachable).count();
            let led = status.shards.len() > SHARDS as usize && status.is_available();
            let full = status.shards.iter().all(|shard| !shard.under_replicated);
            (heard == NODES && led && full).then_some(())
        })
        .await;
    }

    /// The number by which the cluster knows a node.
    pub(crate) fn id_of(&self, status: &ClusterStatus, node: usize) -> Option<NodeId> {
        let listen = self.network.of(node).listen.to_string();
        Some(status.nodes.iter().find(|it| it.client_address == listen)?.node)
    }

    /// The node with this number.
    pub(crate) fn index_of(&self, status: &ClusterStatus, id: NodeId) -> Option<usize> {
        (0..NODES).find(|node| self.id_of(status, *node) == Some(id))
    }

    /// Another command of the binary, against all nodes: what it says if it fails.
    pub(crate) async fn command(&self, args: &[&str]) -> Result<(), String> {
        let mut command = railgun(&self.dir);
        let servers = self.options(&[0, 1, 2]).servers.join(",");
        command.env("RAILGUN_SERVER", servers).env("RAILGUN_TOKEN", TOKEN);
        command.env("RAILGUN_CA", self.dir.path().join("ca/ca.pem")).args(args);
        let output = tokio::task::block_in_place(|| command.output()).expect("the binary runs");
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// Where its files are, and what the nodes said last.
    pub(crate) fn told(&self) -> String {
        let mut told = format!("everything is in {}", self.dir.path().display());
        for node in &self.nodes {
            let path = node.home.join("log");
            let log = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            told.push_str(&format!("\n{}:\n{last}", path.display()));
        }
        told
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            println!("{}", self.told());
        }
    }
}

/// A process of the binary in an environment of its own.
fn railgun(dir: &TempDir) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("HOME", dir.path()).current_dir(dir.path()).stdin(Stdio::null());
    command
}

/// What it prints.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the binary runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}
