//! The bucket of a simulated node: one store that outlives every life of the node, behind weather.

use std::collections::BTreeMap;
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
use railgun_types::StreamName;
use tokio::sync::Notify;

use super::cut::{Cut, Passage};
use super::options::{Bug, Shape};
use super::random::Random;
use super::shared::Shared;
use super::trace::Trace;

/// Longest time a request takes in fair weather.
const LATENCY_MAX_US: u64 = 30_000;
/// Requests that are slow notice that the weather is another after so long.
const SLOW_STEP: Duration = Duration::from_millis(200);
/// Of the records that are sent in a storm, so many in a hundred PUTs arrive late, when nobody waits for an
/// answer any more.
const LATE_PERCENT: u64 = 10;

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
    /// A request takes up to so many ms. What is to be stored gets there, whether or not somebody still
    /// waits for it.
    Slow(u64),
}

/// See the module. Clones are one bucket.
#[derive(Clone, Debug)]
pub(super) struct SimBucket {
    pub(super) cut: Cut,
    store: Arc<InMemory>,
    pub(super) conditions: Conditions,
    weather: Shared<Weather>,
    random: Shared<Random>,
    /// A PUT that is late is so by no more than this.
    late_max: Duration,
    /// Where to the PUTs go that have not arrived, each by its number.
    puts: Shared<BTreeMap<u64, Path>>,
    another_put: Arc<Notify>,
    /// The next PUT of records is late, whatever the weather.
    delays_next: Shared<bool>,
    trace: Trace,
}

impl SimBucket {
    /// That of a run of this shape.
    pub(super) fn of(shape: &Shape, random: Random, trace: Trace) -> Self {
        Self::new(shape.conditions, shape.thresholds.upload_lease, random, trace)
    }

    pub(super) fn new(
        conditions: Conditions,
        late_max: Duration,
        random: Random,
        trace: Trace,
    ) -> Self {
        let (weather, random) = (Shared::new(Weather::Fair), Shared::new(random));
        let store = Arc::new(InMemory::new());
        let (puts, another_put) = (Shared::new(BTreeMap::new()), Arc::default());
        let (cut, delays_next) = (Cut::new(), Shared::new(false));
        Self {
            cut,
            store,
            conditions,
            weather,
            random,
            late_max,
            puts,
            another_put,
            delays_next,
            trace,
        }
    }

    /// Whether the next PUT of records will be late.
    pub(super) fn delay_next_put(&self, is_late: bool) {
        self.delays_next.with(|delays| *delays = is_late);
    }

    /// Until an object, of `stream` perhaps, is on its way.
    pub(super) async fn until_put(&self, stream: &StreamName) {
        let (segments, bundles) = (format!("/stream={stream}/"), "/bundle/");
        let is_of = |path: &Path| [&segments, bundles].iter().any(|at| path.as_ref().contains(*at));
        loop {
            let another = self.another_put.notified();
            if self.puts.with(|puts| puts.values().any(is_of)) {
                return;
            }
            another.await;
        }
    }

    /// A PUT is on its way until what this gives is dropped.
    fn begin_put(&self, location: &Path) -> PutBegun {
        let number = self.puts.with(|puts| {
            let number = puts.last_key_value().map_or(0, |(number, _)| number + 1);
            puts.insert(number, location.clone());
            number
        });
        self.another_put.notify_waiters();
        PutBegun { puts: self.puts.clone(), number }
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
        let store = LifeStore { faulty: Arc::new(faulty), ended, bucket: self.clone() };
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
            Weather::Fair | Weather::Slow(_) => None,
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

/// Of the PUTs of a bucket one that has not arrived.
struct PutBegun {
    puts: Shared<BTreeMap<u64, Path>>,
    number: u64,
}

impl Drop for PutBegun {
    fn drop(&mut self) {
        self.puts.with(|puts| puts.remove(&self.number));
    }
}

/// Gives every request its time, and those of an ended life no answer.
struct LifeStore {
    faulty: Arc<FaultyStore>,
    ended: Arc<AtomicBool>,
    bucket: SimBucket,
}

/// What becomes of a request on its way.
struct Way {
    time: Duration,
    /// Whether it arrives when its sender has ended.
    arrives: bool,
    is_slow: bool,
    /// Nobody is told that it has arrived.
    is_late: bool,
    ended: Arc<AtomicBool>,
}

impl LifeStore {
    /// The way of a request, which stores something there if it is to.
    fn draw_way(&self, stored: Option<&Path>) -> Way {
        let weather = self.bucket.weather();
        let is_data = stored.is_some_and(|location| location.as_ref().contains("/data/"));
        let late_us = (self.bucket.late_max.as_micros() as u64).max(1);
        self.bucket.random.with(|random| {
            let is_stormy = matches!(weather, Weather::Stormy(_));
            let is_late = is_data
                && (self.bucket.delays_next.with(std::mem::take)
                    || is_stormy && random.percent(LATE_PERCENT));
            let us_max = match weather {
                Weather::Slow(ms_max) if is_data => late_us.min(ms_max * 1_000),
                Weather::Slow(ms_max) => ms_max * 1_000,
                _ if is_late => late_us,
                _ => LATENCY_MAX_US,
            };
            // What is late is so by long enough for others to go on without it.
            let us_min = if is_late { us_max / 2 } else { 0 };
            let time = Duration::from_micros(random.within(us_min..us_max));
            let is_slow = matches!(weather, Weather::Slow(_));
            let (arrives, ended) = (random.percent(50), Arc::clone(&self.ended));
            Way { time, arrives, is_slow, is_late, ended }
        })
    }

    /// The request is on its way. A slow one is there at once when the weather is another.
    async fn travel(&self) {
        let way = self.draw_way(None);
        if way.is_slow {
            let mut left = way.time;
            while !left.is_zero() && matches!(self.bucket.weather(), Weather::Slow(_)) {
                let step = left.min(SLOW_STEP);
                tokio::time::sleep(step).await;
                left -= step;
            }
        } else {
            tokio::time::sleep(way.time).await;
        }
        way.arrive().await;
    }

    async fn answer<T>(&self, answer: T) -> T {
        none_if(&self.ended).await;
        answer
    }
}

impl Way {
    /// It may still arrive when its sender has ended.
    async fn arrive(&self) {
        if self.ended.load(Ordering::Relaxed) && !self.arrives {
            std::future::pending().await
        }
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
        let (way, faulty) = (self.draw_way(Some(location)), Arc::clone(&self.faulty));
        let (is_slow, is_late, place) = (way.is_slow, way.is_late, location.clone());
        let begun = self.bucket.begin_put(location);
        if is_late {
            let time = way.time;
            self.bucket.trace.note(format_args!("bucket: a PUT of {location} comes {time:?} late"));
        }
        let put = async move {
            tokio::time::sleep(way.time).await;
            drop(begun);
            way.arrive().await;
            faulty.put_opts(&place, payload, opts).await
        };
        // Whoever gives up a slow one does not stop it.
        let put = if is_slow || is_late {
            let stored = tokio::spawn(put).await;
            stored.expect("nobody ends it but the end of everything")
        } else {
            put.await
        };
        if is_late {
            return std::future::pending().await;
        }
        self.answer(put).await
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

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use tokio::time::{sleep, timeout};

    use super::*;

    const LATE_MAX: Duration = Duration::from_secs(20);

    /// Whether a PUT that is given up at once is carried out all the same, in a minute.
    async fn arrives(weather: Weather) -> bool {
        let bucket = SimBucket::new(Conditions::Honoured, LATE_MAX, Random::new(1), Trace::begin());
        bucket.set_weather(weather);
        let faulty = FaultyStore::new(Arc::clone(&bucket.store) as _, bucket.conditions, |_| None);
        let (faulty, ended) = (Arc::new(faulty), Arc::default());
        let store = LifeStore { faulty, ended, bucket: bucket.clone() };
        let path = Path::from("late");
        let put = store.put_opts(&path, PutPayload::from_static(b"content"), PutOptions::default());
        assert!(timeout(Duration::from_micros(1), put).await.is_err(), "it takes its time");
        sleep(Duration::from_secs(60)).await;
        bucket.store().head(&path).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_slow_arrives_though_nobody_waits_for_it() {
        assert!(arrives(Weather::Slow(20_000)).await);
        assert!(!arrives(Weather::Fair).await);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_reads_end_with_the_weather() {
        let bucket = SimBucket::new(Conditions::Honoured, LATE_MAX, Random::new(1), Trace::begin());
        bucket.set_weather(Weather::Slow(1_000_000));
        let life = bucket.of_life(Arc::default(), None);
        let reading = tokio::spawn(async move { life.list("").await.is_ok() });
        sleep(Duration::from_secs(3)).await;
        bucket.set_weather(Weather::Fair);
        assert!(timeout(Duration::from_secs(5), reading).await.is_ok_and(|read| read.is_ok()));
    }
}
