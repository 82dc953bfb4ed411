//! What no honest client sends, against a running node: real QUIC, real files. After every abuse the
//! client at fault was told the documented code, and everybody else is served as before.

mod administration;
mod attacker;
mod batch_lies;
mod bystander;
mod crowds;
mod floods;
mod frames;
mod handshake;
mod limits;
mod names;
mod order;
mod raw_batch;
mod reading;
mod sequences;
mod unbinding;

use std::time::Duration;

use railgun_testkit::TestNode;

use crate::attacker::Attacker;
use crate::bystander::Bystander;

/// Bound of a wait that ends at once while the node works.
const DEADLINE: Duration = Duration::from_secs(20);

/// The future's value; fails the test if it takes too long.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing came within {DEADLINE:?}"))
}

/// A node, an honest client of it, and an attacker who has made the stream `target`.
async fn arena() -> (TestNode, Bystander, Attacker) {
    let node = TestNode::start().await;
    let bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    (node, bystander, attacker)
}
