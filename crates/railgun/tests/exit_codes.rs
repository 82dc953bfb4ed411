//! The exit codes that need no node, of the real binary. (That there is a test of this kind also
//! makes `cargo test --workspace` build the binary, which the suite `process` runs.)

use std::process::{Command, Output};

/// Runs the binary in an environment of its own.
fn railgun(args: &[&str]) -> Output {
    let dir = std::env::temp_dir();
    let mut command = Command::new(env!("CARGO_BIN_EXE_railgun"));
    command.args(args).env_clear().env("HOME", dir);
    command.output().expect("the binary runs")
}

#[test]
fn failures_end_with_the_documented_code_and_say_why() {
    let unused = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    // Bound and never answered, so nobody else can answer there either.
    let nobody = unused.local_addr().expect("an address").to_string();
    for (args, code, told) in [
        (&["--help"][..], 0, ""),
        (&["publish"], 2, "unrecognized"),
        (&["serve"], 2, "--data-dir"),
        (&["--server", &nobody, "stream", "ls"], 3, "next:"),
        (&["replay", "file:///nowhere/at/all", "--stream", "s"], 4, "no such directory"),
    ] {
        let output = railgun(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        assert!(errors.contains(told), "{args:?}: {errors}");
        assert_eq!(output.stdout.is_empty(), code != 0, "{args:?}");
    }
}
