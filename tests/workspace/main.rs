//! The workspace keeps its own rules.

mod documents;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Levels of the crates: a dependency points down, or sideways to nobody.
const LEVELS: &[(&str, u8)] = &[
    ("railgun-types", 0),
    ("railgun-proto", 1),
    ("railgun-core", 1),
    ("railgun-log", 1),
    ("railgun-cold", 2),
    ("railgun-net", 2),
    ("railgun-raft", 2),
    ("railgun-broker", 3),
    ("railgun-client", 3),
    ("railgun-http", 4),
    ("railgun", 5),
    ("railgun-testkit", 6),
    ("railgun-tests", 7),
    ("railgun-benches", 7),
    ("xtask", 7),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

#[test]
fn arrows_point_down() {
    let levels: BTreeMap<_, _> = LEVELS.iter().copied().collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    assert_eq!(packages.len(), LEVELS.len(), "every crate has a level");
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let level = levels.get(name).unwrap_or_else(|| panic!("{name} has no level"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let other = dependency["name"].as_str().expect("a name");
            // Tests may use what is beside them.
            let is_dev = dependency["kind"].as_str() == Some("dev");
            let Some(below) = levels.get(other).filter(|_| !is_dev) else { continue };
            assert!(below < level, "{name} (level {level}) depends on {other} (level {below})");
        }
    }
}

#[test]
fn only_the_raft_crate_names_openraft() {
    for package in metadata()["packages"].as_array().expect("packages") {
        let names_openraft = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .any(|d| d["name"].as_str().is_some_and(|name| name.starts_with("openraft")));
        assert_eq!(names_openraft, package["name"] == "railgun-raft", "{}", package["name"]);
    }
}

#[test]
fn decisions_know_neither_runtime_nor_randomness_nor_the_wire() {
    for package in metadata()["packages"].as_array().expect("packages") {
        if !matches!(package["name"].as_str(), Some("railgun-types" | "railgun-core")) {
            continue;
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = dependency["name"].as_str().expect("a name");
            let is_dev = dependency["kind"].as_str() == Some("dev");
            let impure = ["tokio", "prost", "quinn", "getrandom", "rand"].contains(&name);
            assert!(is_dev || !impure, "{} depends on {name}", package["name"]);
        }
    }
}
