//! Engines that know nothing of railgun read its objects: DuckDB by the query that the CLI prints,
//! pyarrow from the files it lists.
//!
//! They run in the Python that `RAILGUN_PYTHON` names, else in a virtual environment in the target
//! directory, which the first run makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use railgun_client::StreamUid;
use railgun_testkit::{NodeOptions, TestNode};
use sha2::{Digest, Sha256};

use crate::brokerless::in_all_kinds_of_objects;
use crate::name;
use crate::records::Told;

/// What can be done where no Python with the packages is to be had.
const REMEDY: &str = "install python3 with its venv module and let it reach PyPI, or set \
    RAILGUN_PYTHON to a Python that has the packages of tests/cold/requirements.txt";

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "pip runs for a while, beside the test's tasks")]
async fn duckdb_and_pyarrow_read_what_was_published() {
    let python = tokio::task::spawn_blocking(python).await.expect("a Python");
    // Shared with a neighbour, so that the bundles hold more than the stream.
    let node = TestNode::start_with(NodeOptions { shards: 1, ..NodeOptions::default() }).await;
    let client = node.client().await;
    let told = in_all_kinds_of_objects(&client, "mixed").await;
    let uid = client.admin().describe_stream(&name("mixed")).await.expect("described").uid;

    let ca = node.dir().join("ca.pem");
    std::fs::write(&ca, node.ca_pem()).expect("written");
    let list = |what: &str| {
        let file = node.dir().join(what);
        let mut command = Command::new(beside_deps("railgun"));
        command.env_clear().env("HOME", node.dir()).arg("--ca").arg(&ca);
        command.args(["--server", &node.broker().listen_addr().to_string()]);
        let printed = run(command.args(["segment", "ls", "mixed", what]));
        std::fs::write(&file, printed.stdout).expect("written");
        file
    };
    let (query, files) = (list("--sql"), list("--files"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cold/engines.py");
    let mut engines = Command::new(python);
    engines.arg(script).args([&query, &files]).arg(uid.to_string());
    let printed = String::from_utf8(run(&mut engines).stdout).expect("text");
    let summary = summary(&told);
    assert_eq!(printed, format!("duckdb {summary}\npyarrow {summary}\n"), "{uid}");
    other_streams_are_there(&files, uid);
}

/// As the script prints it.
fn summary(told: &[Told]) -> String {
    let mut digest = Sha256::new();
    let add_bytes = |digest: &mut Sha256, bytes: Option<&[u8]>| {
        digest.update(bytes.map_or(-1, |bytes| bytes.len() as i64).to_le_bytes());
        digest.update(bytes.unwrap_or_default());
    };
    for told in told {
        digest.update(told.offset.to_le_bytes());
        digest.update(told.ts.to_le_bytes());
        add_bytes(&mut digest, told.id.as_deref());
        add_bytes(&mut digest, told.key.as_deref());
        digest.update((told.headers.len() as i64).to_le_bytes());
        for (key, value) in &told.headers {
            add_bytes(&mut digest, Some(key.as_bytes()));
            add_bytes(&mut digest, Some(value));
        }
        add_bytes(&mut digest, Some(&told.value));
    }
    let bytes: usize = told.iter().map(|told| told.value.len()).sum();
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {bytes} {hex}", told.len())
}

/// The test shows nothing if the stream has all objects to itself.
fn other_streams_are_there(files: &Path, uid: StreamUid) {
    let files = std::fs::read_to_string(files).expect("readable");
    let bundles = files.lines().filter(|file| file.contains("/data/bundle/")).count();
    assert_eq!((files.lines().count(), bundles), (3, 2), "{uid}: {files}");
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    output
}

/// A Python that has the packages.
fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("RAILGUN_PYTHON") {
        return python.into();
    }
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("cold/requirements.txt");
    let venv = beside_deps("python-engines");
    let python = venv.join("bin/python");
    // Only a whole environment has a copy of what it was made from.
    let made_from = venv.join("requirements.txt");
    let wanted = std::fs::read(&requirements).expect("in the repository");
    if std::fs::read(&made_from).is_ok_and(|made| made == wanted) {
        return python;
    }
    let succeed = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            panic!("{command:?}: {}: {errors}\n{REMEDY}", output.status)
        }
        Err(error) => panic!("{command:?}: {error}\n{REMEDY}"),
    };
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    succeed(Command::new(&python).args(pip).arg(&requirements));
    std::fs::copy(requirements, made_from).expect("written");
    python
}

/// A file in the directory of the profile, such as the binary.
fn beside_deps(file: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path of this test");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    profile.join(file)
}
