//! The catalog's whole way round: what it says is checkpointed, the checkpoint becomes a snapshot, the
//! log up to it goes, and after a power cut the names are what they were.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use railgun_broker::{CheckpointCadence, Thresholds};
use railgun_client::{Client, ClientOptions, EnsureOptions, SpecPatch};
use railgun_log::{CrashPlan, Disk};
use railgun_net::memory::MemoryNetwork;

use super::bucket::SimBucket;
use super::dial::SimDial;
use super::node::SimNode;
use super::options::Shape;
use super::random::Random;
use super::trace::Trace;
use super::workload::stream_name;
use super::world::in_virtual_time;

const STREAMS: u64 = 300;
/// Longest time that anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node whose catalog soon has more log than it keeps.
fn node() -> SimNode {
    let mut random = Random::new(1);
    let trace = Trace::begin();
    let checkpoints =
        CheckpointCadence { log_bytes: 16 << 10, size_factor: 1, ..CheckpointCadence::default() };
    let shape = Shape {
        shards: 2,
        hot_bytes_max: 64 << 20,
        file_bytes: 16 << 10,
        thresholds: Thresholds { checkpoints, ..Thresholds::default() },
        ..Shape::draw(1, &mut random)
    };
    let bucket = SimBucket::of(&shape, random.fork(), trace.clone());
    let dial = SimDial::new(MemoryNetwork::new());
    SimNode::new(shape, None, bucket, dial, random, trace)
}

async fn client(node: &SimNode) -> Client {
    let options = ClientOptions { seed: Some([7; 16]), ..ClientOptions::new("simulated:1") };
    Client::connect_over(Arc::new(node.dial.clone()), options).await.expect("the node listens")
}

/// The catalog's log files.
fn files(node: &SimNode) -> Vec<String> {
    let names = node.disk.list(Path::new("shards/0/log")).expect("the catalog has a log");
    names.into_iter().filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn names_outlive_the_log_that_told_them() {
    in_virtual_time(1, async {
        let node = node();
        let life = node.start().await.expect("starts");
        let first = files(&node).into_iter().next().expect("a file");
        let (admin, name) =
            (client(&node).await.admin(), |number| stream_name(&format!("orders.{number}")));
        for number in 0..STREAMS {
            admin.create_if_absent(&name(number)).await.expect("made");
        }
        // What has not stayed as it was made.
        let patch = SpecPatch { max_message_bytes: Some(77), ..SpecPatch::default() };
        let options = EnsureOptions {
            mode: railgun_client::EnsureMode::Overwrite,
            ..EnsureOptions::default()
        };
        admin.ensure_stream(&name(3), patch, options).await.expect("changed");
        admin.delete_stream(&name(5)).await.expect("deleted");
        admin.delete_stream(&name(7)).await.expect("deleted");
        admin.create_if_absent(&name(7)).await.expect("made again");
        let gone = async {
            while files(&node).contains(&first) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the catalog gives up its log");
        let told = admin.list_all_streams("").await.expect("listed");
        assert_eq!(told.len() as u64, STREAMS - 1);

        node.crash(Some(life), &CrashPlan::LoseAll);
        let life = node.start().await.expect("starts on what is left");
        let admin = client(&node).await.admin();
        assert_eq!(admin.list_all_streams("").await.expect("listed"), told);
        // And it goes on.
        admin.create_if_absent(&name(5)).await.expect("made again");
        let deleted = admin.delete_stream(&name(8)).await.expect("deleted");
        assert!(told.iter().any(|stream| stream.name == name(8) && stream.uid == deleted));
        let names = admin.list_all_streams("").await.expect("listed").len() as u64;
        assert_eq!(names, STREAMS - 1);
        node.crash(Some(life), &CrashPlan::LoseAll);
    });
}
