//! One bucket for all nodes of a cluster and all their lives: who was given another one is told so and
//! uploads nothing; and who belongs to the cluster needs no bucket to start.

use std::sync::atomic::AtomicU8;

use futures::FutureExt;
use object_store::memory::InMemory;
use railgun_cold::owner::Owner;
use railgun_cold::testing::{Conditions, Fault, FaultyStore, Operation, Request};
use railgun_net::memory::Crash;

use super::cluster_rig::{Cluster, PATIENCE, ip};
use super::site::until;
use super::*;

const FAIR: u8 = 0;
const HANGS: u8 = 1;
const DENIED: u8 = 2;
const NO_PUTS: u8 = 3;

/// A bucket under weather.
struct Sky {
    bucket: Bucket,
    weather: Arc<AtomicU8>,
    puts: Arc<AtomicUsize>,
}

impl Sky {
    fn new(name: &str) -> Self {
        let (weather, puts) = (Arc::<AtomicU8>::default(), Arc::<AtomicUsize>::default());
        let plan = {
            let (weather, puts) = (Arc::clone(&weather), Arc::clone(&puts));
            move |request: &Request<'_>| {
                let is_put = request.operation == Operation::Put;
                puts.fetch_add(usize::from(is_put), Relaxed);
                match weather.load(Relaxed) {
                    HANGS => Some(Fault::Hangs),
                    DENIED => Some(Fault::Denied),
                    NO_PUTS if is_put => Some(Fault::Hangs),
                    _ => None,
                }
            }
        };
        let store = FaultyStore::new(Arc::new(InMemory::new()), Conditions::Honoured, plan);
        let bucket = Bucket::with_store(Arc::new(store), "p", name, &BucketOptions::new(1));
        Self { bucket: bucket.unwrap(), weather, puts }
    }

    fn set(&self, weather: u8) {
        self.weather.store(weather, Relaxed);
    }

    fn puts(&self) -> usize {
        self.puts.load(Relaxed)
    }
}

/// Begins to start a node on a bucket.
async fn start_on(
    cluster: &Cluster,
    number: usize,
    life: u64,
    sky: &Sky,
) -> Result<Broker, StartError> {
    let spec = BrokerSpec { bucket: sky.bucket.clone(), ..cluster.spec(number, life) };
    let started = timeout(PATIENCE, Broker::start(spec)).await;
    let started = started.expect("it starts, or says why not");
    if started.is_err() {
        // Its tasks end, and its process.
        cluster.disturbance.crash(ip(number), Crash::Told);
        sleep(Duration::from_millis(1)).await;
    }
    started
}

/// What is published while a lead moves may be published twice.
async fn leads_stay() {
    sleep(Duration::from_secs(15)).await;
}

fn wrong(started: Result<Broker, StartError>) -> crate::WrongBucket {
    match started {
        Err(StartError::WrongBucket(wrong)) => wrong,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_with_another_bucket_is_not_taken_in_until_it_has_the_clusters() {
    let mut cluster = Cluster::new(4);
    cluster.start(&[1, 2, 3]).await;
    let mistyped = Sky::new("the mistyped one");
    let told = wrong(start_on(&cluster, 4, 90, &mistyped).await);
    assert_eq!(told.cluster, cluster.node(1).cluster_uid());
    let text = told.to_string();
    assert!(text.starts_with("the mistyped one is not the bucket of cluster "), "{text}");
    assert!(text.contains("/owner.json") && text.contains(" has memory:"), "{text}");
    assert_eq!(mistyped.puts(), 0, "nothing goes there");
    let nodes = cluster.node(1).view.borrow().nodes.len();
    assert_eq!(nodes, 3, "the cluster does not wait for it");
    cluster.start(&[4]).await;
    assert!(cluster.node(4).knows_bucket());
}

#[tokio::test(start_paused = true)]
async fn founders_with_a_bucket_each_are_told_and_form_the_cluster_with_the_first_ones() {
    let mut cluster = Cluster::new(3);
    let own = [1, 2, 3].map(|number| Sky::new(&format!("the bucket of {number}")));
    let first = tokio::spawn(Broker::start(BrokerSpec {
        bucket: own[0].bucket.clone(),
        ..cluster.spec(1, 91)
    }));
    let (second, third) =
        tokio::join!(start_on(&cluster, 2, 92, &own[1]), start_on(&cluster, 3, 93, &own[2]));
    for (told, given) in [(second, &own[1]), (third, &own[2])] {
        let text = wrong(told).to_string();
        assert!(text.starts_with(&given.bucket.to_string()), "{text}");
        assert!(text.contains("the node at 10.0.0.1:9401 has memory:"), "{text}");
        assert_eq!(given.puts(), 0);
    }
    assert!(!first.is_finished(), "it waits for the others");
    let (second, third) =
        tokio::join!(start_on(&cluster, 2, 94, &own[0]), start_on(&cluster, 3, 95, &own[0]));
    cluster.nodes[1] = Some(second.unwrap());
    cluster.nodes[2] = Some(third.unwrap());
    cluster.nodes[0] = Some(first.await.unwrap().unwrap());
    let claimed = own[0].bucket.list("railgun/v1").await.unwrap();
    assert_eq!(claimed.len(), 1, "one owner: {claimed:?}");
    assert!((1..=3).all(|number| cluster.node(number).knows_bucket()));
}

#[tokio::test(start_paused = true)]
async fn a_founder_that_did_not_get_its_claim_through_makes_it_when_it_starts_again() {
    let mut cluster = Cluster::new(3);
    let sky = Sky::new("the bucket");
    sky.set(NO_PUTS);
    let others = [2, 3].map(|number| {
        let spec =
            BrokerSpec { bucket: sky.bucket.clone(), ..cluster.spec(number, 80 + number as u64) };
        tokio::spawn(Broker::start(spec))
    });
    let first = start_on(&cluster, 1, 91, &sky).await;
    assert!(matches!(first, Err(StartError::Probe(_))), "{first:?}");
    sky.set(FAIR);
    let first = start_on(&cluster, 1, 92, &sky).await.unwrap();
    cluster.nodes[0] = Some(first);
    for (number, other) in [2, 3].into_iter().zip(others) {
        cluster.nodes[number - 1] = Some(other.await.unwrap().unwrap());
    }
    let cluster_uid = cluster.node(1).cluster_uid();
    let owner = owner::read(&sky.bucket, cluster_uid).await.unwrap().expect("it is claimed");
    assert_eq!(owner.node, NodeId(1));
}

#[tokio::test(start_paused = true)]
async fn members_start_and_serve_while_the_bucket_is_away_and_upload_when_it_is_back() {
    let sky = Sky::new("the bucket");
    let mut cluster = Cluster::new(3);
    cluster.bucket = sky.bucket.clone();
    cluster.start(&[1, 2, 3]).await;
    let ensured = cluster.node(2).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
    ensured.unwrap();
    let mut values = vec![b"before".to_vec()];
    cluster.publish(1, "s", &values[0]).await;
    for (weather, number) in [(HANGS, 1), (DENIED, 2), (HANGS, 3)] {
        sky.set(weather);
        cluster.kill(number).await;
        cluster.start(&[number]).await;
        leads_stay().await;
        let value = format!("without a bucket, through {number}").into_bytes();
        assert_eq!(cluster.publish(number, "s", &value).await, values.len() as u64);
        values.push(value);
        assert_eq!(cluster.read(number, "s").await, values, "node {number}");
        assert!(!cluster.node(number).knows_bucket());
    }
    // Two of three: the one that stays up does not lead alone.
    cluster.kill(1).await;
    cluster.kill(2).await;
    cluster.start(&[1, 2]).await;
    leads_stay().await;
    cluster.publish(1, "s", b"after").await;
    values.push(b"after".to_vec());
    let puts = sky.puts();
    sleep(Duration::from_secs(120)).await;
    assert_eq!(sky.puts(), puts, "nobody uploads to a bucket that is not known");

    sky.set(FAIR);
    until("all know their bucket", async || {
        (1..=3).all(|number| cluster.node(number).knows_bucket())
    })
    .await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    let leader = cluster.leader(1, shard).expect("there is one");
    let stream = name("s");
    let sealed = cluster.node(leader).streams.seal(&stream, false);
    timeout(PATIENCE, sealed).await.expect("it is uploaded").unwrap();
    assert!(sky.puts() > puts);
    assert_eq!(cluster.read(3, "s").await, values);
}

/// A node alone on a disk that outlives it.
async fn alone(disk: &SimDisk, sky: &Sky) -> Broker {
    let spec =
        spec_with(&MemoryNetwork::new(), Arc::<Pool>::default(), Box::new(|| READ_TIME / 1_000));
    let seams = Seams { disk: Arc::new(disk.clone()), ..spec.seams };
    let started = Broker::start(BrokerSpec { seams, bucket: sky.bucket.clone(), ..spec });
    timeout(PATIENCE, started).await.expect("it starts").unwrap()
}

async fn crash(broker: Broker, disk: &SimDisk) {
    drop(broker);
    sleep(Duration::from_millis(1)).await;
    disk.crash(&railgun_log::CrashPlan::LoseAll);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_was_emptied_ends_the_node_and_gets_nothing() {
    let (disk, sky) = (SimDisk::default(), Sky::new("the bucket"));
    let broker = alone(&disk, &sky).await;
    publish(&broker, 1, b"x").await;
    let uid = broker.cluster_uid();
    crash(broker, &disk).await;

    let emptied = Sky::new("the emptied one");
    emptied.set(HANGS);
    let broker = alone(&disk, &emptied).await;
    sleep(Duration::from_secs(120)).await;
    assert!(broker.failed().now_or_never().is_none(), "it may be the right one");
    emptied.set(FAIR);
    let failure = timeout(PATIENCE, broker.failed()).await.expect("it is told");
    let NodeFailure::WrongBucket(wrong) = failure else { panic!("{failure}") };
    assert_eq!((wrong.cluster, wrong.theirs), (uid, None));
    assert_eq!(emptied.puts(), 0);
    crash(broker, &disk).await;

    // A copy of the right one is as good.
    let copy = Sky::new("the copy");
    for listed in sky.bucket.list("railgun").await.unwrap() {
        let object = sky.bucket.get(&listed.key, 1 << 20).await.unwrap();
        copy.bucket.put_immutable(&listed.key, object).await.unwrap();
    }
    let broker = alone(&disk, &copy).await;
    until("it is known", async || broker.knows_bucket()).await;
    let stream = name("s");
    let sealed = broker.streams.seal(&stream, false);
    timeout(PATIENCE, sealed).await.expect("it is uploaded").unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_another_cluster_in_the_place_of_ours_is_not_ours() {
    let (disk, sky) = (SimDisk::default(), Sky::new("the bucket"));
    let broker = alone(&disk, &sky).await;
    let (ours, foreign) = (broker.cluster_uid(), ClusterUid([9; 16]));
    crash(broker, &disk).await;
    let other = Sky::new("another");
    let owner =
        Owner { cluster: foreign, created: Timestamp(1), format: owner::FORMAT, node: NodeId(1) };
    owner::claim(&other.bucket, &owner).await.unwrap();
    let key = |cluster| railgun_cold::keys::Key::Owner { cluster }.to_string();
    let file = other.bucket.get(&key(foreign), 1 << 16).await.unwrap();
    other.bucket.put_immutable(&key(ours), file).await.unwrap();
    let broker = alone(&disk, &other).await;
    let failure = timeout(PATIENCE, broker.failed()).await.expect("it is told").to_string();
    assert!(failure.contains(&format!("it names cluster {foreign}")), "{failure}");
}
