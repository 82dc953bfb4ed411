//! A bucket in memory whose requests are counted and made to fail.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use railgun_cold::bucket::RetryPolicy;
use railgun_cold::testing::{Conditions, Fault, FaultyStore, Operation, Request};
use railgun_cold::{Bucket, BucketOptions};
use railgun_testkit::NodeOptions;
use tokio::sync::watch;

/// Objects of streams, whatever their kind.
pub(crate) const DATA: &str = "/data/";
pub(crate) const SEGMENTS: &str = "/data/stream=";
pub(crate) const BUNDLES: &str = "/data/bundle/";
pub(crate) const MANIFESTS: &str = "/manifest/";

/// Which requests fail, and how.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// All, if absent.
    operation: Option<Operation>,
    /// A part of their keys.
    part: String,
    /// Only those for a key that was written, or tried to.
    once_put: bool,
    fault: Fault,
}

impl Rule {
    pub(crate) fn new(operation: Operation, part: &str, fault: Fault) -> Self {
        let part = part.to_owned();
        Self { operation: Some(operation), part, once_put: false, fault }
    }

    /// Everything fails.
    pub(crate) fn all(fault: Fault) -> Self {
        Self { operation: None, part: String::new(), once_put: false, fault }
    }

    /// Spares requests for keys that were never written.
    pub(crate) fn once_put(self) -> Self {
        Self { once_put: true, ..self }
    }

    fn strikes(&self, request: &Request<'_>, before: &[Asked]) -> bool {
        let put = |asked: &Asked| asked.operation == Operation::Put && asked.path == request.path;
        self.operation.is_none_or(|operation| operation == request.operation)
            && request.path.contains(&self.part)
            && (!self.once_put || before.iter().any(put))
    }
}

/// A request that came.
#[derive(Debug)]
struct Asked {
    operation: Operation,
    path: String,
    /// A rule made it fail.
    struck: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Store {
    inner: Arc<InMemory>,
    rules: watch::Sender<Vec<Rule>>,
    asked: watch::Receiver<Vec<Asked>>,
    pub(crate) bucket: Bucket,
}

impl Store {
    pub(crate) fn new(conditions: Conditions) -> Self {
        let inner = Arc::new(InMemory::new());
        let (rules, ruled) = watch::channel(Vec::new());
        let (ask, asked) = watch::channel(Vec::new());
        let plan = move |request: &Request<'_>| {
            let rules: &Vec<Rule> = &ruled.borrow();
            let strikes = |rule: &&Rule| rule.strikes(request, &ask.borrow());
            let fault = rules.iter().find(strikes).map(|rule| rule.fault);
            ask.send_modify(|asked: &mut Vec<Asked>| {
                let path = request.path.to_owned();
                asked.push(Asked { operation: request.operation, path, struck: fault.is_some() });
            });
            fault
        };
        let store = FaultyStore::new(Arc::clone(&inner) as _, conditions, plan);
        let retry = RetryPolicy {
            attempts: 2,
            pause_min: Duration::from_millis(1),
            ..RetryPolicy::default()
        };
        let options = BucketOptions { retry, ..BucketOptions::new(1) };
        let bucket = Bucket::with_store(Arc::new(store), "", "the test's bucket", &options);
        Self { inner, rules, asked, bucket: bucket.expect("no prefix") }
    }

    /// A node on this bucket. One shard, so that a cut is one cut.
    pub(crate) fn node(&self) -> NodeOptions {
        NodeOptions { bucket: Some(self.bucket.clone()), shards: 1, ..NodeOptions::default() }
    }

    /// From now on these fail; the first rule that fits counts.
    pub(crate) fn fail(&self, rules: impl IntoIterator<Item = Rule>) {
        self.rules.send_replace(rules.into_iter().collect());
    }

    /// Nothing fails any more. What hangs goes on hanging.
    pub(crate) fn heal(&self) {
        self.fail([]);
    }

    /// Waits until `rule` has struck, if it is the only one.
    pub(crate) async fn struck(&self, rule: &Rule) {
        let mut asked = self.asked.clone();
        let struck = asked.wait_for(|asked| {
            asked.iter().enumerate().filter(|(_, asked)| asked.struck).any(|(number, one)| {
                let Asked { operation, path, .. } = one;
                let request = Request { operation: *operation, path, number: number as u64 };
                rule.strikes(&request, &asked[..number])
            })
        });
        let struck = tokio::time::timeout(crate::LIMIT, struck).await;
        struck.expect("the request comes").expect("the store is there");
    }

    /// How many times objects with such keys were written, or tried to.
    pub(crate) fn puts(&self, part: &str) -> usize {
        let asked = self.asked.borrow();
        asked
            .iter()
            .filter(|asked| asked.operation == Operation::Put && asked.path.contains(part))
            .count()
    }

    /// The keys that hold an object.
    pub(crate) async fn keys(&self, part: &str) -> Vec<String> {
        let listed: Vec<_> = self.inner.list(None).try_collect().await.expect("listed");
        let keys = listed.into_iter().map(|meta| meta.location.to_string());
        let mut keys: Vec<_> = keys.filter(|key| format!("/{key}").contains(part)).collect();
        keys.sort_unstable();
        keys
    }

    /// Takes an object away behind everybody's back.
    pub(crate) async fn remove(&self, key: &str) {
        self.inner.delete(&Path::from(key)).await.expect("it was there");
    }
}
