//! What the README and a started node tell people to type, typed.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::eventually;
use crate::site::binary;

/// Where the sources are.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// For a node to say that it is ready, in a debug build on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Lines of `examples/data/orders.ndjson`.
const ORDERS: usize = 1_000;

/// A directory like a clone's root after `cargo build --release`, and a node that was started there
/// with no more than `serve --dev` (but for its ports). Killed when dropped.
struct Clone {
    dir: tempfile::TempDir,
    node: Child,
}

impl Clone {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with further flags.
    fn start_with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let release = dir.path().join("target/release");
        fs::create_dir_all(&release).expect("a directory");
        symlink(binary(), release.join("railgun")).expect("a link");
        for part in ["examples", "deploy"] {
            symlink(Path::new(ROOT).join(part), dir.path().join(part)).expect("a link");
        }
        let log = fs::File::create(dir.path().join("log")).expect("a log file");
        let mut node = command(dir.path(), "target/release/railgun");
        node.args(["serve", "--dev", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        node.args(flags);
        node.stdout(Stdio::piped()).stderr(log);
        let node = node.spawn().expect("the binary starts");
        Self { dir, node }
    }

    /// The three commands that the node prints.
    fn guide(&mut self) -> Vec<String> {
        let printed = BufReader::new(self.node.stdout.take().expect("piped"));
        let (found, commands) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let lines = printed.lines().map(|line| line.expect("text"));
            let indented = lines.filter_map(|line| line.strip_prefix("  ").map(str::to_owned));
            found.send(indented.take(3).collect::<Vec<_>>())
        });
        match commands.recv_timeout(READY_LIMIT) {
            Ok(commands) if commands.len() == 3 => commands,
            other => panic!("the node printed {other:?}, and logged:\n{}", self.log()),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).expect("a log")
    }

    /// What the node has logged as the value of a field.
    fn logged(&self, field: &str) -> String {
        let log = self.log();
        let value = log.split_once(field).and_then(|(_, rest)| rest.split_whitespace().next());
        value.expect("the field").to_owned()
    }

    /// Runs a script as somebody at a terminal in that directory would.
    fn bash(&self, script: &str) -> Output {
        let mut bash = command(self.dir.path(), "bash");
        bash.args(["-euo", "pipefail", "-c", script]);
        bash.output().expect("bash runs")
    }

    /// As [`Self::bash`]; what it prints. It must succeed.
    fn succeeds(&self, script: &str) -> String {
        let Output { status, stdout, stderr } = self.bash(script);
        let errors = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{status}: {script}\n{errors}");
        String::from_utf8(stdout).expect("text")
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        // Fails where it has ended by itself.
        self.node.kill().ok();
        self.node.wait().ok();
    }
}

/// A process in that directory, which is its home, too.
fn command(dir: &Path, program: &str) -> Command {
    let path = std::env::var_os("PATH").expect("a path");
    let mut command = Command::new(program);
    command.env_clear().env("HOME", dir).env("PATH", path).current_dir(dir).stdin(Stdio::null());
    command
}

/// The shell blocks of a section of the README.
fn blocks(section: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("a README");
    let (_, section) = readme.split_once(&format!("## {section}\n")).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_that_a_dev_node_prints_work_as_printed() {
    let mut clone = Clone::start();
    let commands = tokio::task::block_in_place(|| clone.guide());
    let printed: Vec<_> = commands.iter().map(|command| clone.succeeds(command)).collect();
    assert_eq!(printed[2].lines().count(), ORDERS, "{commands:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_works_as_written() {
    let mut clone = Clone::start();
    tokio::task::block_in_place(|| clone.guide());
    let [tour, replay, sql] = &blocks("Two minutes")[..] else {
        panic!("the tour has other parts now: see which of them can be typed here");
    };
    assert!(sql.contains("import duckdb"), "what is left out here: {sql}");
    // An alias is for people at a prompt.
    let alias = "alias railgun=target/release/railgun\n";
    assert!(tour.contains(alias), "{tour}");
    let typed = |block: &str| {
        let railgun = "railgun() { target/release/railgun \"$@\"; }\n";
        format!("set -m\n{railgun}{}", block.replace(alias, ""))
    };

    let printed = clone.succeeds(&typed(tour));
    for part in ["offsets 0 to 999", "999 20", "offset 1000", "up to offset 1001", ".parquet"] {
        assert!(printed.contains(part), "{part} is not in what the tour prints:\n{printed}");
    }
    clone.node.kill().expect("it runs");
    // Its `cmp` fails where a byte differs.
    clone.succeeds(&typed(replay));
}

/// Kills what a tour of several nodes has left, whatever came of it.
struct Cluster<'a>(&'a Clone);

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.0.bash("for n in 1 2 3 4; do deploy/local-cluster kill cluster $n; done");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_three_nodes_works_as_written() {
    let clone = Clone::start();
    let [tour] = &blocks("Three nodes")[..] else { panic!("the tour has other parts now") };
    let alias = "alias railgun=target/release/railgun\n";
    assert!(tour.contains(alias), "{tour}");
    let functions =
        "railgun() { target/release/railgun \"$@\"; }\nexport LOCAL_CLUSTER_TIMEOUT=120\n";
    let cluster = Cluster(&clone);
    let printed = tokio::task::block_in_place(|| {
        clone.succeeds(&format!("{functions}{}", tour.replace(alias, "")))
    });
    drop(cluster);
    for part in ["3 nodes are ready", "without node 1", "node 4 has joined", "1001\n"] {
        assert!(printed.contains(part), "{part} is not in what the tour prints:\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_its_health_and_figures() {
    let mut clone = Clone::start();
    let commands = tokio::task::block_in_place(|| clone.guide());
    for command in &commands {
        clone.succeeds(command);
    }
    let http: SocketAddr = clone.logged("http=").parse().expect("an address");
    let get = |path: &str| {
        let mut connection = TcpStream::connect(http).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("it answers");
        answer
    };
    for path in ["/livez", "/readyz"] {
        assert!(get(path).starts_with("HTTP/1.1 200 "), "{path}: {}", get(path));
    }
    let value = |metrics: &str, name: &str| -> f64 {
        let values = metrics.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next()? == name).then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    };
    let metrics = get("/metrics");
    assert_eq!(value(&metrics, "railgun_up"), 1.0, "{metrics}");
    assert_eq!(value(&metrics, "railgun_shard_records_total"), ORDERS as f64, "{metrics}");
    eventually("the commands' connections are gone", READY_LIMIT, || {
        std::future::ready((value(&get("/metrics"), "railgun_connections") == 0.0).then_some(()))
    })
    .await;

    let id = i32::try_from(clone.node.id()).ok().and_then(rustix::process::Pid::from_raw);
    let id = id.expect("a process id");
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it is there");
    let status = eventually("the node ends", READY_LIMIT, || {
        std::future::ready(clone.node.try_wait().expect("a child of this process"))
    });
    assert!(status.await.success());
    assert!(TcpStream::connect(http).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_under_one_prefix_are_told_apart() {
    let bucket = tempfile::tempdir().expect("a temporary directory");
    let url = format!("file://{}", bucket.path().display());
    let mut uids = Vec::new();
    let mut clones = Vec::new();
    for message in ["of the first", "of the second"] {
        let mut clone = Clone::start_with(&["--bucket", &url]);
        tokio::task::block_in_place(|| clone.guide());
        clone.succeeds(&format!(
            "railgun=target/release/railgun; $railgun stream ensure orders; \
             $railgun pub orders '{message}'; $railgun segment seal orders"
        ));
        uids.push(clone.logged("cluster_uid="));
        clones.push(clone);
    }
    let replay = format!("target/release/railgun replay {url} --stream orders --raw");
    let asked = clones[0].bash(&replay);
    let errors = String::from_utf8_lossy(&asked.stderr);
    assert!(!asked.status.success() && asked.stdout.is_empty(), "{errors}");
    for part in ["--cluster", &uids[0], &uids[1]] {
        assert!(errors.contains(part), "{part} is missing: {errors}");
    }
    for (uid, message) in uids.iter().zip(["of the first\n", "of the second\n"]) {
        assert_eq!(clones[0].succeeds(&format!("{replay} --cluster {uid}")), message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bench_runs_and_checks_what_it_reads() {
    let mut clone = Clone::start();
    tokio::task::block_in_place(|| clone.guide());
    for (command, field) in [
        ("publish --size 100 --count 5000", "messages"),
        ("publish --size 1024 --count 200 --depth 1", "latency"),
        ("publish --size 100 --count 1000 --streams 10", "messages"),
        ("read", "messages"),
        ("e2e --size 100 --rate 1000 --duration 1s", "latency"),
    ] {
        let report = clone.succeeds(&format!("target/release/railgun bench {command} -o json"));
        assert!(report.contains(field), "{command}: {report}");
    }
}
