//! A place for a node: its data directory, its bucket, its ports. And the node's process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use railgun_client::{Client, ClientOptions, StreamName};
use railgun_cold::BucketUrl;
use railgun_testkit::sim::Random;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::eventually;
use crate::seed::seed_of;

/// How long a node may take to serve, in a debug build on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Lines of a node's log that a failure shows.
const LOG_LINES: usize = 30;

/// See the module. Everything in it goes with it.
#[derive(Debug)]
pub(crate) struct Site {
    dir: TempDir,
    pub(crate) data_dir: PathBuf,
    pub(crate) bucket: String,
    listen: SocketAddr,
    environment: Vec<(&'static str, String)>,
}

impl Site {
    /// With a directory as its bucket.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self {
            data_dir: dir.path().join("data"),
            bucket: BucketUrl::File { root: dir.path().join("bucket") }.to_string(),
            listen: free_address(),
            environment: Vec::new(),
            dir,
        }
    }

    /// Sets an environment variable of all its processes.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.environment.push((name, value.into()));
    }

    /// Small log files and one budget for all shards, so that little data moves through all tiers.
    pub(crate) fn set_hot_tier(&mut self, shards: u32, max_bytes: &str, time_to_cold: &str) {
        self.set("RAILGUN_SHARDS_COUNT", shards.to_string());
        self.set("RAILGUN_HOT_FILE_BYTES", "1MiB");
        self.set("RAILGUN_HOT_MAX_BYTES", max_bytes);
        self.set("RAILGUN_COLD_MAX_TIME_TO_COLD", time_to_cold);
    }

    pub(crate) fn bucket_dir(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    /// What the node has logged so far, of all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The last lines of the log, for failures.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// A process of the binary in this place's environment and no other.
    fn command(&self) -> Command {
        self.process(binary())
    }

    fn process(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.dir.path()).current_dir(self.dir.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Starts a node here; it may not serve yet.
    pub(crate) fn spawn(&self) -> Process {
        self.spawn_at(self.listen)
    }

    /// As [`Self::spawn`], listening elsewhere.
    pub(crate) fn spawn_at(&self, listen: SocketAddr) -> Process {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log"));
        let mut command = self.command();
        command.args(["serve", "--dev", "--http", "127.0.0.1:0", "--bucket", &self.bucket]);
        command.arg("--data-dir").arg(&self.data_dir).arg("--listen").arg(listen.to_string());
        command.stdout(Stdio::null()).stderr(log.expect("a log file"));
        Process::start(&mut command)
    }

    /// Starts a node here and waits until it serves.
    pub(crate) async fn start(&self) -> Process {
        let mut process = self.spawn();
        self.serves(&mut process).await;
        process
    }

    /// Waits until the node serves.
    pub(crate) async fn serves(&self, process: &mut Process) {
        let serving = async {
            loop {
                if let Some(status) = process.exited() {
                    panic!("the node ended with {status}:\n{}", self.log_tail());
                }
                if let Some(client) = self.try_client(Duration::from_millis(250)).await {
                    return client.close().await;
                }
            }
        };
        if tokio::time::timeout(READY_LIMIT, serving).await.is_err() {
            panic!("the node does not serve after {READY_LIMIT:?}:\n{}", self.log_tail());
        }
    }

    /// How clients reach the node.
    pub(crate) fn client_options(&self) -> Option<ClientOptions> {
        let mut options = ClientOptions::new(self.listen.to_string());
        options.ca_pem = Some(fs::read(self.authority()).ok()?);
        Some(options)
    }

    /// The certificate of the node's authority, which it makes when it is started.
    pub(crate) fn authority(&self) -> PathBuf {
        self.data_dir.join("ca/ca.pem")
    }

    async fn try_client(&self, connect_timeout: Duration) -> Option<Client> {
        let Some(options) = self.client_options() else {
            tokio::time::sleep(crate::LOOK_EVERY).await;
            return None;
        };
        Client::connect(ClientOptions { connect_timeout, ..options }).await.ok()
    }

    /// A client of the running node.
    pub(crate) async fn client(&self) -> Client {
        let options = self.client_options().expect("the node has made its authority");
        Client::connect(options).await.expect("the node takes clients")
    }

    /// Another command of the binary, against this node.
    pub(crate) fn client_command(&self, args: &[&str]) -> Command {
        let mut command = self.command();
        command.env("RAILGUN_SERVER", self.listen.to_string()).args(args);
        command
    }

    /// A shell's command at a terminal, against this node; `$railgun` is the binary. Needs `script`.
    pub(crate) fn terminal_command(&self, command: &str) -> Command {
        let mut terminal = self.process("script");
        terminal.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm");
        terminal.env("RAILGUN_SERVER", self.listen.to_string()).env("railgun", binary());
        terminal.args(["--quiet", "--return", "--command", command, "/dev/null"]);
        terminal
    }

    /// Runs another command of the binary against this node.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = self.client_command(args);
        tokio::task::block_in_place(|| command.output()).expect("the binary runs")
    }

    /// As [`Self::output`], of a command that reads `input`.
    pub(crate) fn output_with_input(&self, args: &[&str], input: &str) -> Vec<u8> {
        let file = self.dir.path().join("input");
        fs::write(&file, input).expect("a file");
        let mut command = self.client_command(args);
        command.stdin(File::open(&file).expect("a file"));
        let output = tokio::task::block_in_place(|| command.output()).expect("the binary runs");
        assert!(output.status.success(), "{args:?}");
        output.stdout
    }

    /// The home of all its processes.
    pub(crate) fn home(&self) -> &Path {
        self.dir.path()
    }

    /// Where its node listens.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// As [`Self::run`]; what it prints. It must succeed.
    pub(crate) fn output(&self, args: &[&str]) -> Vec<u8> {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {}: {errors}", output.status);
        output.stdout
    }

    /// The lines that a replay of the stream straight from the bucket prints.
    pub(crate) fn replay(&self, stream: &StreamName) -> Vec<String> {
        let printed = self.output(&["replay", &self.bucket, "--stream", stream.as_str(), "--raw"]);
        String::from_utf8(printed).expect("text").lines().map(str::to_owned).collect()
    }

    /// Files of the hot log whose name ends so, of all data shards.
    pub(crate) fn log_files(&self) -> Vec<String> {
        let shards = fs::read_dir(self.data_dir.join("shards")).expect("shards");
        let logs = shards.flatten().filter(|shard| shard.file_name() != "0");
        let files = logs.flat_map(|shard| fs::read_dir(shard.path().join("log")).expect("a log"));
        let names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".log")).collect()
    }
}

/// A node's process. Killed when dropped, so that no test leaves one behind.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self { child: command.spawn().expect("the binary starts") }
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of this process")
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, as a crash would.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Fails where it has ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Any signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).expect("the process is there");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, limit: Duration) -> ExitStatus {
        eventually("the process ends", limit, || std::future::ready(self.exited())).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// An address that nobody listens on. Below the ports that the system gives to clients, so that
/// none of them takes it while the node is down.
pub(crate) fn free_address() -> SocketAddr {
    let mut random = Random::new(seed_of("RAILGUN_TEST_PORT_SEED"));
    loop {
        let port = 20_000 + random.below(12_000) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// The binary beside this test's own, in the directory of the profile.
pub(crate) fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a path of this test");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let binary = profile.join(format!("railgun{}", std::env::consts::EXE_SUFFIX));
    assert!(
        binary.is_file(),
        "there is no {}: run `cargo test --workspace`, or `cargo build -p railgun` first",
        binary.display()
    );
    binary
}

pub(crate) fn name(name: &str) -> StreamName {
    StreamName::new(name).expect("a valid name")
}
