//! What needs no node, of the real binary: exit codes, what failures say, configuration and contexts.
//! (That there is a test of this kind also makes `cargo test --workspace` build the binary, which the
//! suite `process` runs.)

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

/// Longer than the 3 s of one attempt, shorter than two.
const CONNECT_LIMIT: Duration = Duration::from_secs(6);

/// A home and working directory for the binary.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs the binary in an environment of its own.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_railgun"));
        command.args(args).env_clear().env("HOME", self.path()).current_dir(self.path());
        command.output().expect("the binary runs")
    }

    /// What it prints. It must succeed.
    fn printed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// It must end with `code`, print nothing, and say `told` and what to do next.
    fn fails(&self, args: &[&str], code: i32, told: &str) {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        assert!(errors.contains(told), "{args:?}: {errors}");
        // Those of the argument parser end otherwise.
        assert!(errors.contains("\n next: ") || errors.contains("--help"), "{args:?}: {errors}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn failures_end_with_the_documented_code_and_say_why_and_what_next() {
    let home = Home::new();
    let help = home.printed(&["--help"]);
    assert!(help.contains("Exit codes:") && help.contains("\n  130  "), "{help}");
    for (args, code, told) in [
        (&["publish"][..], 2, "unrecognized"),
        (&["serve"], 2, "--data-dir"),
        (&["serve", "--dev", "--config", "nope.toml"], 4, "nope.toml"),
        (&["config", "check", "nope.toml"], 4, "nope.toml"),
        (&["config", "show", "--dev", "--bucket", "s3://logs?x"], 2, "query"),
        (&["pub", "orders", "--file", "nope.ndjson"], 4, "nope.ndjson"),
        (&["pub", "orders", "x", "--rate", "0"], 2, "0.000001"),
        (&["pub", "orders", "x", "--count", "2", "--rate", "1e-30"], 2, "0.000001"),
        (&["stream", "ls"], 2, "no server is named"),
        (&["--server", "127.0.0.1:1", "--ca", "nope.pem", "stream", "ls"], 4, "nope.pem"),
        (&["--server", "nowhere", "stream", "ls"], 2, "host:port"),
        (&["--server", "a:1,nowhere,b:2", "stream", "ls"], 2, "'nowhere' is not an address"),
        (&["context", "set", "c", "--server", "a:1,b"], 2, "'b' is not an address"),
        (&["--context", "nope", "stream", "ls"], 4, "no context 'nope'"),
        (&["replay", "file:///nowhere/at/all", "--stream", "s"], 4, "no such directory"),
        (&["replay", "/nowhere", "--stream", "s"], 2, "is not a URL"),
        // Accepted and ignored, they would mean something else than who wrote them meant.
        (&["--server", "a:1", "replay", "file:///", "--stream", "s"], 2, "--server means nothing"),
        (&["serve", "--dev", "--token", "t"], 2, "--token means nothing"),
        (&["config", "show", "--dev", "--ca", "ca.pem"], 2, "--ca means nothing"),
        (&["context", "ls", "--context", "c"], 2, "--context means nothing"),
    ] {
        home.fails(args, code, told);
    }
}

#[test]
fn a_server_that_does_not_answer_is_given_up_after_three_seconds() {
    // Bound and never answered, so nobody else can answer there either.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().map(|address| (silent, address)).expect("an address");
    let began = Instant::now();
    Home::new().fails(&["--server", &silent.1.to_string(), "stream", "ls"], 3, "within 3s");
    assert!(began.elapsed() < CONNECT_LIMIT, "{:?}", began.elapsed());
}

#[test]
fn where_no_server_answers_all_that_were_tried_are_told() {
    let silent = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").expect("a port"));
    let [one, other] = silent.each_ref().map(|silent| silent.local_addr().expect("an address"));
    let servers = format!("{one},{other},nowhere.invalid:1");
    let output = Home::new().run(&["--server", &servers, "stream", "ls"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    for told in [
        format!("{one} (no answer within 3s)"),
        format!("{other} (no answer within 3s)"),
        "nowhere.invalid:1 (no address: ".to_owned(),
    ] {
        assert!(errors.contains(&told), "{errors}");
    }
}

#[test]
fn a_configuration_is_checked_as_serve_would_and_shown_without_secrets() {
    let home = Home::new();
    let file = home.path().join("railgun.toml");
    let hash = format!("sha256:{}", "0a".repeat(32));
    let good = format!(
        "data_dir = 'data'\nbucket = 's3://logs/prod'\nauth.tokens = ['{hash}']\n\
         [cold]\nmax_time_to_cold = '1h 30m'\n"
    );
    fs::write(&file, &good).expect("written");
    assert_eq!(home.printed(&["config", "check", "railgun.toml"]), "railgun.toml: ok\n");
    let shown = home.printed(&["config", "show", "--config", "railgun.toml"]);
    assert!(shown.contains("bucket = \"s3://logs/prod\""), "{shown}");
    assert!(shown.contains("max_time_to_cold = \"1h 30m\""), "{shown}");
    assert!(shown.contains("tokens = [\"hidden\"]") && !shown.contains("0a0a"), "{shown}");
    for (bad, told) in [
        (good.replace("s3://logs/prod", "s3://logs/a%20b"), "escapes"),
        (good.replace("s3://logs/prod", "s3://logs?versions"), "query"),
        (good.replace("bucket", "buckett"), "did you mean `bucket`"),
        (good.replace("1h 30m", "soon"), "`soon` is not a span"),
        (good.replace("sha256:", ""), "hash-token"),
        (format!("{good}[tls]\ncert = 'nope.pem'\n"), "only `tls.cert`"),
    ] {
        fs::write(&file, bad).expect("written");
        home.fails(&["config", "check", "railgun.toml"], 2, told);
    }
    fs::write(&file, format!("{good}[tls]\ncert = 'nope.pem'\nkey = 'nope.key'\n"))
        .expect("written");
    home.fails(&["config", "check", "railgun.toml"], 4, "nope.pem");
}

#[test]
fn contexts_are_made_selected_and_shown() {
    let home = Home::new();
    home.fails(&["context", "show"], 4, "no context is selected");
    home.fails(&["context", "set", "prod"], 2, "nothing is to be set");
    home.fails(&["context", "set", "prod", "--token", "hush"], 2, "needs a server");
    home.fails(&["context", "set", "prod", "--server", "a:1", "--ca", "nope.pem"], 4, "nope.pem");
    fs::write(home.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").expect("written");
    home.printed(&["context", "set", "prod", "--server", "logs:7410", "--ca", "ca.pem"]);
    home.printed(&["context", "set", "test", "--server", "localhost:1"]);
    // What is not named stays.
    home.printed(&["context", "set", "prod", "--token", "hush"]);

    let shown = home.printed(&["context", "show", "-o", "json"]);
    assert!(shown.contains("\"name\": \"prod\"") && shown.contains("\"logs:7410\""), "{shown}");
    assert!(shown.contains("BEGIN CERTIFICATE") && !shown.contains("hush"), "{shown}");
    home.printed(&["context", "use", "test"]);
    let listed = home.printed(&["context", "ls"]);
    assert!(listed.lines().any(|line| line.starts_with("*        test ")), "{listed}");
    home.fails(&["context", "use", "nope"], 4, "no context 'nope'");
    home.fails(&["context", "show", "nope"], 4, "no context 'nope'");
}
