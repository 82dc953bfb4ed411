//! How nodes find one another, and whom they refuse: real processes, made by `deploy/local-cluster`.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use railgun_net::peer::NodeTls;
use railgun_net::tls::NodeRequest;
use tempfile::TempDir;

use crate::site::{binary, free_address};
use crate::{eventually, not_tested};

/// Debug builds on a busy machine take their time.
const LIMIT: Duration = Duration::from_secs(90);

/// A cluster by the script. Everything in it goes with it.
struct Trial {
    dir: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Trial {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let environment = vec![
            ("RAILGUN_SHARDS_COUNT", "2".to_owned()),
            ("RAILGUN_HOT_MAX_BYTES", "64MiB".to_owned()),
            ("RAILGUN_HOT_FILE_BYTES", "1MiB".to_owned()),
            ("LOCAL_CLUSTER_TIMEOUT", LIMIT.as_secs().to_string()),
        ];
        // Every node may sign for others.
        let ca_dir = dir.path().join("cluster/ca").display().to_string();
        let environment = [environment, vec![("RAILGUN_CLUSTER_CA_DIR", ca_dir)]].concat();
        Self { dir, environment }
    }

    fn dir(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let binaries = binary().parent().expect("a directory").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        command.env_clear().env("HOME", self.dir.path()).env("PATH", format!("{binaries}:{path}"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).current_dir(self.dir.path());
        command
    }

    fn script(&self, word: &str) -> Command {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/local-cluster");
        let mut command = self.command(script);
        command.arg(word).arg(self.dir());
        command
    }

    fn run(&self, word: &str) {
        let output = output(&mut self.script(word));
        assert!(output.status.success(), "{word}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A command of the binary against the cluster.
    fn client(&self, args: &str) -> Output {
        let line = format!(". {}/env && railgun {args}", self.dir().display());
        output(self.command("bash").args(["-c", &line]))
    }

    /// The ports of a node, of clients and of nodes, once they are chosen.
    fn ports(&self, node: usize) -> Option<(u16, u16)> {
        let ports = fs::read_to_string(self.dir().join(format!("n{node}/ports"))).ok()?;
        let mut ports = ports.split_whitespace().map(|port| port.parse().expect("a port"));
        Some((ports.next()?, ports.next()?))
    }

    fn log(&self, node: &str) -> String {
        fs::read_to_string(self.dir.path().join(node).join("log")).unwrap_or_default()
    }

    /// A further node, beside those of the script, that shows this certificate.
    fn node(&self, name: &str, tls: &Path, peers: &str) -> Further {
        self.node_on(&self.dir().join("bucket"), name, tls, peers)
    }

    /// As [`Self::node`], with any directory as its bucket.
    fn node_on(&self, bucket: &Path, name: &str, tls: &Path, peers: &str) -> Further {
        let home = self.dir.path().join(name);
        fs::create_dir_all(&home).expect("a directory");
        let log = File::create(home.join("log")).expect("a log file");
        let mut command = self.command(binary());
        command.arg("serve").arg("--data-dir").arg(home.join("data"));
        command.args(["--bucket", &format!("file://{}", bucket.display())]);
        command.args(["--http", "127.0.0.1:0", "--listen", &free_address().to_string()]);
        let files = [("CA", "ca.pem"), ("CERT", "node.pem"), ("KEY", "node-key.pem")];
        for (name, file) in files {
            command.env(format!("RAILGUN_TLS_{name}"), tls.join(file));
        }
        command.env("RAILGUN_CLUSTER_PEERS", peers);
        command.env("RAILGUN_CLUSTER_PEER_LISTEN", free_address().to_string());
        Further(command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts"))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Also what a failure has left half up.
        for node in 1..=4 {
            self.script("kill").arg(node.to_string()).stderr(Stdio::null()).output().ok();
        }
    }
}

/// Killed when dropped.
struct Further(Child);

impl Drop for Further {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn output(command: &mut Command) -> Output {
    tokio::task::block_in_place(|| command.output()).expect("it runs")
}

/// What a join leaves that was killed before it had the answer is good for the same certificate.
fn joins_again_with_its_key(trial: &Trial) {
    let made = trial.client("cluster join-token");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let token = String::from_utf8(made.stdout).expect("text");
    let (client_port, _) = trial.ports(1).expect("the node has ports");
    let request = NodeRequest::new().expect("a request");
    let join = |name: &str| {
        let out = trial.dir.path().join(name);
        fs::create_dir_all(&out).expect("a directory");
        let text = format!("127.0.0.1\n{}", request.csr_pem);
        fs::write(out.join("node-request.pem"), text).expect("written");
        fs::write(out.join("node-key.pem"), &request.key_pem).expect("written");
        let mut command = trial.command(binary());
        command.args(["cluster", "join", "--token", token.trim(), "--host", "127.0.0.1"]);
        command.args(["--server", &format!("127.0.0.1:{client_port}"), "--out"]).arg(&out);
        let joined = output(&mut command);
        assert!(joined.status.success(), "{name}: {}", String::from_utf8_lossy(&joined.stderr));
        let file = |name| out.join(name);
        NodeTls::from_pem_files(&file("node.pem"), &file("node-key.pem"), &file("ca.pem"))
            .expect("the certificate is the key's");
        assert!(!file("node-request.pem").exists());
    };
    join("first");
    join("again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_refuses_foreigners_and_copies() {
    let trial = Trial::new();
    trial.run("up");
    trial.run("add");
    // A node that was just added may not have heard of all leaders.
    let mut status = trial.client("cluster status --json");
    for _ in 0..20 {
        if status.status.success() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        status = trial.client("cluster status --json");
    }
    let errors = String::from_utf8_lossy(&status.stderr);
    assert!(status.status.success(), "{errors}");
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["nodes"].as_array().expect("nodes").len(), 4, "{status}");

    joins_again_with_its_key(&trial);
    let (_, peer_port) = trial.ports(1).expect("the node has ports");
    let peers = format!("127.0.0.1:{peer_port}");
    let own = trial.dir.path().join("foreign-ca");
    let foreign_tls = trial.dir.path().join("foreign-tls");
    for args in [
        format!("cluster init-ca --dir {}", own.display()),
        format!(
            "cluster issue-node --ca {} --out {} --host 127.0.0.1",
            own.display(),
            foreign_tls.display()
        ),
    ] {
        let made = output(trial.command(binary()).args(args.split(' ')));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let foreign = trial.node("foreign", &foreign_tls, &peers);
    eventually("the foreigner is told why", LIMIT, || {
        let log = trial.log("foreign");
        let is_told = log.lines().any(|line| line.contains(&peers) && line.contains(" CA"));
        std::future::ready(is_told.then_some(()))
    })
    .await;
    drop(foreign);

    // A directory of the same name on another machine is another bucket.
    let (mistyped, tls) = (trial.dir.path().join("own-bucket"), trial.dir().join("n3/tls"));
    let mut other = trial.node_on(&mistyped, "other", &tls, &peers);
    let ended = eventually("the node with another bucket ends", LIMIT, || {
        std::future::ready(other.0.try_wait().expect("a child"))
    })
    .await;
    let log = trial.log("other");
    assert_eq!(ended.code(), Some(2), "{log}");
    let reason = log.lines().rev().find(|line| line.starts_with("error: ")).expect("a reason");
    let theirs = format!("has file://{}/bucket", trial.dir().display());
    for part in ["own-bucket is not the bucket of cluster ", "/owner.json", &theirs] {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(log.contains("\n next: give every node of a cluster the same --bucket"), "{log}");
    let files = |dir: &Path| fs::read_dir(dir).map_or(0, |files| files.count());
    assert_eq!(files(&mistyped.join("railgun")), 0, "nothing is uploaded there");

    let home = trial.dir.path().join("copy");
    fs::create_dir_all(&home).expect("a directory");
    let original = trial.dir().join("n2/data");
    let copied = output(Command::new("cp").arg("-r").arg(original).arg(home.join("data")));
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let mut copy = trial.node("copy", &trial.dir().join("n2/tls"), &peers);
    let ended = eventually("the copy ends", LIMIT, || {
        std::future::ready(copy.0.try_wait().expect("a child"))
    })
    .await;
    let log = trial.log("copy");
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("was its data directory copied?"), "{log}");
    let sent = trial.client("stream ensure s");
    assert!(sent.status.success(), "the cluster goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_find_one_another_by_dns() {
    let dnsmasq = ["/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq", "/usr/bin/dnsmasq"];
    let Some(dnsmasq) = dnsmasq.iter().find(|path| Path::new(path).exists()) else {
        return not_tested("discovery by DNS", "there is no dnsmasq");
    };
    let mut trial = Trial::new();
    let dns = free_address();
    trial.environment.push(("RAILGUN_CLUSTER_SRV", "nodes.test".to_owned()));
    trial.environment.push(("RAILGUN_CLUSTER_DNS_SERVER", dns.to_string()));
    let mut up = Further(trial.script("up").stderr(Stdio::null()).spawn().expect("the script"));
    let ports = eventually("the nodes have ports", LIMIT, || {
        std::future::ready([1, 2, 3].map(|node| trial.ports(node)).into_iter().collect())
    })
    .await;
    let ports: Vec<(u16, u16)> = ports;
    eventually("the nodes ask in vain", LIMIT, || {
        let log = trial.log("cluster/n1");
        std::future::ready(log.contains("cannot find out where other nodes are").then_some(()))
    })
    .await;

    let mut server = Command::new(dnsmasq);
    server.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    server.args(["--pid-file=", "--user=", "--bind-interfaces", "--listen-address=127.0.0.1"]);
    server.arg(format!("--port={}", dns.port()));
    for (node, (_, peer_port)) in (1..).zip(&ports) {
        let name = format!("n{node}.nodes.test");
        server.arg(format!("--srv-host=_railgun._udp.nodes.test,{name},{peer_port}"));
        server.arg(format!("--host-record={name},127.0.0.1"));
    }
    let _server = Further(server.spawn().expect("dnsmasq starts"));
    let ended = eventually("the cluster is up", LIMIT, || {
        std::future::ready(up.0.try_wait().expect("a child"))
    })
    .await;
    assert!(ended.success(), "{}", trial.log("cluster/n1"));
    let status = trial.client("cluster status --json");
    let errors = String::from_utf8_lossy(&status.stderr);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect(&errors);
    assert_eq!(status["nodes"].as_array().expect("nodes").len(), 3, "{status}");
    // Nobody else has taken the server's port meanwhile.
    assert!(UdpSocket::bind(dns).is_err(), "the DNS server runs");
}
