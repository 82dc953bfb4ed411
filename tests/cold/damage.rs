//! An object that is missing or is not what was written: whoever needs it is told so, and nobody
//! else notices (I9).

use railgun_client::{Client, ErrorCode, Offset, StartPosition, WireCode};
use railgun_cold::replay::{Replay, ReplayBound};
use railgun_cold::testing::{Conditions, Fault, Operation};
use railgun_cold::{ColdReadError, ReaderOptions};
use railgun_testkit::TestNode;

use crate::outages::refusal;
use crate::records::{Told, message, publish, read, replay};
use crate::store::{DATA, Rule, Store};
use crate::{name, publisher, retire};

struct Scene {
    store: Store,
    node: TestNode,
    client: Client,
    /// Offsets 0 to 99 in the object that will suffer, 100 to 199 in another, the rest in the log.
    hurt: Vec<Told>,
    /// In the second object and the log.
    other: Vec<Told>,
    object: String,
    object_bytes: u64,
}

async fn scene() -> Scene {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let publisher_of_hurt = publisher(&client, "hurt").await;
    let mut hurt = publish(&publisher_of_hurt, (0..100).map(message)).await;
    retire(&client, "hurt").await;
    let object = store.keys(DATA).await.remove(0);
    hurt.extend(publish(&publisher_of_hurt, (100..200).map(message)).await);
    let other = publish(&publisher(&client, "other").await, (0..100).map(message)).await;
    retire(&client, "hurt").await;
    hurt.extend(publish(&publisher_of_hurt, (200..210).map(message)).await);
    let listed = client.admin().list_segments(&name("hurt")).await.expect("listed").segments;
    assert_eq!((listed.len(), &listed[0].key), (2, &object));
    let object_bytes = listed[0].object_bytes;
    Scene { store, node, client, hurt, other, object, object_bytes }
}

impl Scene {
    /// Readers of the object are told; all others read what was published.
    async fn check(self) {
        let Self { client, store, hurt, other, .. } = &self;
        for offset in [0, 99] {
            let code = refusal(client, "hurt", offset).await;
            assert_eq!(code, WireCode::Known(ErrorCode::ColdCorrupt));
        }
        let behind = read(client, "hurt", StartPosition::Offset(Offset(100))).await;
        assert_eq!(behind, (hurt[100..].to_vec(), vec!["cold", "ring"]));
        assert_eq!(read(client, "other", StartPosition::Earliest).await.0, *other);
        publish(&publisher(client, "hurt").await, (0..10).map(message)).await;

        let from = ReplayBound::Offset(Offset(100));
        let behind = replay(&store.bucket, "hurt", from, ReplayBound::Unbounded).await;
        assert_eq!(behind, hurt[100..200]);
        let direct = Replay::open(&store.bucket, None, &ReaderOptions::default()).await;
        let direct = direct.expect("one cluster");
        let stream = direct.stream(&name("hurt")).expect("in the manifest");
        let all = direct.read(stream, ReplayBound::Unbounded, ReplayBound::Unbounded).await;
        let error = all.expect("no object is needed yet").next().await.expect("records").err();
        let named = match &error {
            Some(ColdReadError::Missing { object } | ColdReadError::Corrupt { object, .. }) => {
                object.as_ref()
            }
            _ => panic!("{error:?}"),
        };
        assert_eq!(named, self.object);
        drop(self.node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_missing() {
    let scene = scene().await;
    scene.store.remove(&scene.object).await;
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_among_the_records() {
    let scene = scene().await;
    scene.store.fail([Rule::new(Operation::Get, &scene.object, Fault::FlippedByte(100))]);
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_footer() {
    let scene = scene().await;
    let position = scene.object_bytes - 30;
    scene.store.fail([Rule::new(Operation::Get, &scene.object, Fault::FlippedByte(position))]);
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_ends_early() {
    let scene = scene().await;
    let end = scene.object_bytes / 2;
    scene.store.fail([Rule::new(Operation::Get, &scene.object, Fault::CutAt(end))]);
    scene.check().await;
}
