//! A disk whose syncs fail: the node acknowledges nothing more, ends, and says why and what to do; a
//! restart finds everything acknowledged. By what `strace` makes the kernel answer, and on a device
//! that loses its writes.

use std::time::Duration;

use railgun_client::{Client, PublishError, Publisher, SendError};

use crate::bucket_lost::{check_numbers, impatient, numbered};
use crate::mount::Device;
use crate::site::{Process, Site, name};
use crate::strace::Strace;

/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(30);
/// "Failed" in the table of exit codes.
const FAILED: Option<i32> = Some(1);
/// Every sync of a file fails so.
const FAIL_SYNCS: [&str; 2] = ["trace=fdatasync,fsync", "inject=fdatasync,fsync:error=EIO"];
/// The device may still make a few messages durable, in blocks that it has written before.
const MESSAGES_MAX: u64 = 50;

/// A node with a stream of one message.
struct Node {
    site: Site,
    process: Process,
    client: Client,
    publisher: Publisher,
}

impl Node {
    async fn start(mut site: Site) -> Self {
        site.set_hot_tier(1, "64MiB", "10m");
        let process = site.start().await;
        let client = impatient(&site).await;
        client.admin().create_if_absent(&name("orders")).await.expect("ensured");
        let publisher = client.publisher(name("orders")).open().await.expect("opened");
        publisher.send(numbered(0)).await.expect("sent").await.expect("published");
        Self { site, process, client, publisher }
    }

    /// Publishes until a message is not acknowledged; returns its number. Nobody knows what became
    /// of it, and all that comes behind it is certainly not there.
    async fn publish_until_failed(&self) -> u64 {
        for number in 1..MESSAGES_MAX {
            let ticket = self.publisher.send(numbered(number)).await.expect("sent");
            match tokio::time::timeout(LIMIT, ticket).await.expect("answered") {
                Ok(published) => assert_eq!(published.offset.0, number),
                Err(error) => {
                    assert!(matches!(error, PublishError::Unknown { .. }), "{error}");
                    return number;
                }
            }
        }
        panic!("{MESSAGES_MAX} messages were acknowledged by a disk that fails");
    }

    /// The node has ended as the documentation says.
    async fn check_ended(&mut self) {
        match self.publisher.send(numbered(MESSAGES_MAX)).await {
            Err(SendError::OrderBroken { .. }) => {}
            other => panic!("{other:?}"),
        }
        let status = self.process.ended(LIMIT).await;
        assert_eq!(status.code(), FAILED, "{}", self.site.log_tail());
        let log = self.site.log();
        let reason = log.lines().rev().find(|line| line.starts_with("error: "));
        let reason = reason.expect("a reason");
        assert!(reason.contains("the disk failed: could not sync shards/1/log/"), "{reason}");
        assert!(reason.contains("Input/output error"), "{reason}");
        assert!(log.contains("\n next: start it again"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_ends_the_node_and_loses_nothing_acknowledged() {
    let mut node = Node::start(Site::new()).await;
    let what = "a node whose syncs fail";
    let Some(_strace) = Strace::attach(&node.site, node.process.id(), &FAIL_SYNCS, what) else {
        return;
    };
    let failed = node.publish_until_failed().await;
    assert_eq!(failed, 1, "acknowledged without a sync");
    node.check_ended().await;
    node.client.close().await;
    let _process = node.site.start().await;
    let client = node.site.client().await;
    let told = client.admin().describe_stream(&name("orders")).await.expect("described");
    let end = told.next_offset.0;
    assert!((failed..=failed + 1).contains(&end), "{end}");
    check_numbers(&client, &name("orders"), end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_loses_writes_ends_the_node() {
    let Some(device) = Device::new() else { return };
    let mut site = Site::new();
    site.data_dir = device.path().join("data");
    let mut node = Node::start(site).await;
    device.lose_journal();
    node.publish_until_failed().await;
    node.check_ended().await;
}
