//! A disk that is really full: publishing is refused so that it may be tried again, nothing else is
//! affected, and it goes on by itself when there is space.

use std::time::Duration;

use railgun_client::{Client, Publisher, StreamName};

use crate::bucket_lost::{check_numbers, impatient, numbered, publish_until_refused};
use crate::mount::Mount;
use crate::s3_gate::{Gate, S3Gate};
use crate::site::{Process, Site, name};

/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(60);
/// Less is no test: the disk has room for more than these messages.
const ENOUGH: u64 = 500;

/// A node whose disk is full, because the bucket takes nothing.
struct FullDisk {
    // Before the mount, which goes when nobody uses it any more.
    node: Process,
    site: Site,
    s3: S3Gate,
    mount: Mount,
    stream: StreamName,
    /// Messages in the stream.
    end: u64,
}

impl FullDisk {
    async fn new() -> Option<Self> {
        let mount = Mount::new("12m")?;
        let s3 = S3Gate::start(Gate::Open).await;
        let mut site = Site::new();
        s3.serve(&mut site);
        site.data_dir = mount.path().join("data");
        // The budget is larger than the disk, so the disk is what fills up.
        site.set_hot_tier(1, "1GiB", "1s");
        let node = site.start().await;
        assert!(
            site.log().contains("the data directory is in memory (tmpfs)"),
            "nobody was warned"
        );
        let stream = name("orders");
        let client = impatient(&site).await;
        client.admin().create_if_absent(&stream).await.expect("ensured");
        s3.set(Gate::ReadOnly);
        let publisher = open(&client, &stream).await;
        let end = publish_until_refused(&publisher, 0).await;
        assert!(end > ENOUGH, "refused after {end} messages");
        client.close().await;
        Some(Self { node, site, s3, mount, stream, end })
    }

    /// Refused again, and everything acknowledged can be read.
    async fn check_full(&mut self) {
        let client = impatient(&self.site).await;
        let publisher = open(&client, &self.stream).await;
        // What little room there is may take a few more.
        self.end = publish_until_refused(&publisher, self.end).await;
        check_numbers(&client, &self.stream, self.end).await;
        assert!(self.node.exited().is_none(), "{}", self.site.log_tail());
        client.close().await;
    }

    /// One who waits for space gets it when `free` makes some.
    async fn check_goes_on(&mut self, free: impl FnOnce(&Self)) {
        let client = self.site.client().await;
        let publisher = open(&client, &self.stream).await;
        let waiting = publisher.send(numbered(self.end)).await.expect("sent");
        free(self);
        let published = tokio::time::timeout(LIMIT, waiting).await;
        let published = published.unwrap_or_else(|_| panic!("{}", self.site.log_tail()));
        assert_eq!(published.expect("published").offset.0, self.end);
        self.end += 1;
        check_numbers(&client, &self.stream, self.end).await;
        client.close().await;
    }
}

async fn open(client: &Client, stream: &StreamName) -> Publisher {
    client.publisher(stream.clone()).open().await.expect("opened")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishers_until_the_bucket_takes_data_again() {
    let Some(mut full) = FullDisk::new().await else { return };
    full.check_full().await;
    full.check_goes_on(|full| full.s3.set(Gate::Open)).await;
    let client = full.site.client().await;
    client.admin().seal_stream(&full.stream, true, LIMIT).await.expect("drained");
    check_numbers(&client, &full.stream, full.end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_on_a_full_disk_starts_again_and_goes_on_with_more_space() {
    let Some(mut full) = FullDisk::new().await else { return };
    // Others fill disks, too.
    full.mount.fill();
    let restarted = full.site.spawn();
    std::mem::replace(&mut full.node, restarted).kill();
    full.site.serves(&mut full.node).await;
    full.check_full().await;
    full.check_goes_on(|full| full.mount.resize("64m")).await;
}
