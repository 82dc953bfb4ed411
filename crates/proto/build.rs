//! Generates the message types from `/proto/railgun/v1/*.proto`. Needs no `protoc`.

use std::path::Path;

const INCLUDE: &str = "../../proto";
const FILES: [&str; 6] = [
    "railgun/v1/session.proto",
    "railgun/v1/publish.proto",
    "railgun/v1/subscribe.proto",
    "railgun/v1/admin.proto",
    "railgun/v1/group.proto",
    "railgun/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={}", Path::new(INCLUDE).join(file).display());
    }
    let descriptors = protox::compile(FILES, [INCLUDE])?;
    // Identifiers and other bytes fields are slices of the received head, not copies.
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
