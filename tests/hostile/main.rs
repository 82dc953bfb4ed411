//! What no honest client sends, against a running node: real QUIC, real files. After every abuse the
//! client at fault was told the documented code, and everybody else is served as before.

mod administration;
mod attacker;
mod batch_lies;
mod bystander;
mod crowds;
mod floods;
mod frames;
mod groups;
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

/// Bound of a wait for something that the node does when its patience is at an end.
const LAST_DEADLINE: Duration = Duration::from_secs(90);

/// The future's value; fails the test if it takes too long.
fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    within_time(DEADLINE, what, future)
}

/// As [`within`], of what may take as long as the node's patience.
fn in_the_end<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    within_time(LAST_DEADLINE, what, future)
}

async fn within_time<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(limit, future).await;
    done.unwrap_or_else(|_| panic!("{what}: nothing came within {limit:?}"))
}

/// A node, an honest client of it, and an attacker who has made the stream `target`.
async fn arena() -> (TestNode, Bystander, Attacker) {
    let node = TestNode::start().await;
    let bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    attacker.ensure_group("target", Default::default()).await;
    (node, bystander, attacker)
}
