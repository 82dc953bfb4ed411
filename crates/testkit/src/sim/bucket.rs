//! The bucket of a simulated node: one store that outlives every life of the node, behind weather.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use railgun_cold::testing::{Conditions, Fault, FaultyStore, Operation, Request};
use railgun_cold::{Bucket, BucketOptions};

use super::cut::{Cut, Passage};
use super::options::Bug;
use super::random::Random;
use super::shared::Shared;
use super::trace::Trace;

/// Longest time a request takes in fair weather.
const LATENCY_MAX_US: u64 = 30_000;

/// How the bucket behaves for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// Every request is carried out.
    Fair,
    /// Every request is answered with 403.
    Denied,
    /// Every request is answered with 503.
    Throttling,
    /// No request is answered.
    Away,
    /// One request in so many goes wrong, each in its own way.
    Stormy(u64),
}

/// See the module. Clones are one bucket.
#[derive(Clone, Debug)]
pub(super) struct SimBucket {
    pub(super) cut: Cut,
    store: Arc<InMemory>,
    pub(super) conditions: Conditions,
    weather: Shared<Weather>,
    random: Shared<Random>,
    trace: Trace,
}

impl SimBucket {
    pub(super) fn new(conditions: Conditions, random: Random, trace: Trace) -> Self {
        let (weather, random) = (Shared::new(Weather::Fair), Shared::new(random));
        let store = Arc::new(InMemory::new());
        Self { cut: Cut::new(), store, conditions, weather, random, trace }
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.weather.with(|now| *now = weather);
    }

    /// Whether no request is carried out.
    pub(super) fn is_away(&self) -> bool {
        matches!(self.weather(), Weather::Denied | Weather::Throttling | Weather::Away)
    }

    pub(super) fn weather(&self) -> Weather {
        self.weather.with(|now| *now)
    }

    /// What lies in the bucket, whatever the weather.
    pub(super) fn store(&self) -> &InMemory {
        &self.store
    }

    /// The bucket for those who check it: nothing goes wrong.
    pub(super) fn in_fair_weather(&self) -> Bucket {
        assemble(Arc::clone(&self.store) as _, 0)
    }

    /// The bucket as a node sees it whose life ends with `ended`: from then on nothing is answered.
    pub(super) fn of_life(&self, ended: Arc<AtomicBool>, bug: Option<Bug>) -> Bucket {
        let (bucket, was_ended) = (self.clone(), Arc::clone(&ended));
        let plan = move |request: &Request<'_>| bucket.fault(request, &was_ended);
        let faulty = FaultyStore::new(Arc::clone(&self.store) as _, self.conditions, plan);
        let seed = self.random.with(Random::next);
        let store = LifeStore { faulty, ended, random: self.random.clone() };
        let bucket = assemble(Arc::new(store), seed);
        if bug == Some(Bug::Overwrite) { bucket.overwriting() } else { bucket }
    }

    fn fault(&self, request: &Request<'_>, ended: &AtomicBool) -> Option<Fault> {
        let passage = self.cut.on_request();
        if passage != Passage::Free {
            ended.store(true, Ordering::Relaxed);
        }
        let fault = match self.weather() {
            _ if passage == Passage::Lost => Some(Fault::Hangs),
            Weather::Fair => None,
            Weather::Denied => Some(Fault::Denied),
            Weather::Throttling => Some(Fault::SlowDown),
            Weather::Away => Some(Fault::Hangs),
            Weather::Stormy(one_in) => self.random.with(|random| {
                let strikes = random.within(0..one_in) == 0;
                strikes.then(|| storm(request.operation, random))
            }),
        };
        let Request { operation, path, .. } = request;
        self.trace.note(format_args!("bucket {operation:?} {path}: {fault:?}"));
        fault
    }
}

/// A fault that may befall an operation.
fn storm(operation: Operation, random: &mut Random) -> Fault {
    let everywhere = [Fault::SlowDown, Fault::Internal, Fault::AnswerLost, Fault::Hangs];
    match operation {
        Operation::Put if random.percent(30) => Fault::Pretended,
        Operation::Head | Operation::Get if random.percent(20) => Fault::Missing,
        Operation::Get if random.percent(50) => {
            let at = random.within(0..20_000);
            *random.pick(&[Fault::FlippedByte(at), Fault::FlippedByte(at % 200), Fault::CutAt(at)])
        }
        _ => *random.pick(&everywhere),
    }
}

fn assemble(store: Arc<dyn ObjectStore>, seed: u64) -> Bucket {
    let bucket = Bucket::with_store(store, "", "simulated bucket", &BucketOptions::new(seed));
    bucket.expect("an empty prefix is valid")
}

/// Gives every request its time, and those of an ended life no answer.
struct LifeStore {
    faulty: FaultyStore,
    ended: Arc<AtomicBool>,
    random: Shared<Random>,
}

impl LifeStore {
    /// The request is on its way. It may still arrive when its sender has ended.
    async fn travel(&self) {
        let (us, arrives) =
            self.random.with(|random| (random.within(0..LATENCY_MAX_US), random.percent(50)));
        tokio::time::sleep(Duration::from_micros(us)).await;
        if self.ended.load(Ordering::Relaxed) && !arrives {
            std::future::pending().await
        }
    }

    async fn answer<T>(&self, answer: T) -> T {
        none_if(&self.ended).await;
        answer
    }
}

/// Never resolves in a life that has ended.
async fn none_if(ended: &AtomicBool) {
    if ended.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

impl fmt::Debug for LifeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LifeStore").finish_non_exhaustive()
    }
}

impl fmt::Display for LifeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated bucket")
    }
}

#[async_trait]
impl ObjectStore for LifeStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.travel().await;
        self.answer(self.faulty.put_opts(location, payload, opts).await).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.faulty.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.travel().await;
        self.answer(self.faulty.get_opts(location, options).await).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.travel().await;
        self.answer(self.faulty.get_ranges(location, ranges).await).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.faulty.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.ended.load(Ordering::Relaxed) {
            return futures::stream::pending().boxed();
        }
        let (listing, ended) = (self.faulty.list(prefix), Arc::clone(&self.ended));
        let listing = async move {
            let listed: Vec<_> = listing.collect().await;
            none_if(&ended).await;
            futures::stream::iter(listed)
        };
        futures::stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.travel().await;
        self.answer(self.faulty.list_with_delimiter(prefix).await).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faulty.copy_opts(from, to, options).await
    }
}
