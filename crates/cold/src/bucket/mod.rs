//! The bucket: immutable objects under keys, on a local directory, an S3-compatible store, or in
//! memory. Every request has a deadline of its own and is retried by class; keys are relative to the
//! prefix of the bucket's address.

mod directory;
mod error;
mod open;
mod put;
mod retry;
mod url;

use std::collections::BTreeMap;
use std::fmt;
use std::future::ready;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, FutureExt, Shared};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

pub use error::{BucketError, RetryClass};
pub use open::{BucketOptions, OpenBucketError, ProbeError, S3Environment};
pub use put::Put;
pub use retry::{Pacer, RetryPolicy, TokioPacer};
pub use url::{BucketUrl, InvalidBucketUrl};

use error::{Failure, FailureKind};

/// Most keys one listing returns.
pub const LIST_KEYS_MAX: usize = 1 << 20;

/// Time a listing has, whatever its length.
const LIST_DEADLINE: Duration = Duration::from_secs(60);

/// How long an attempt waits for the gate of a bucket that is [behind](Bucket::behind) one: readers are
/// told soon that the bucket is away.
const GATE_WAIT: Duration = Duration::from_secs(1);

/// An object store with a prefix. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: BucketUrl,
    /// What errors call it; tells the endpoint.
    name: String,
    retry: RetryPolicy,
    pacer: Arc<dyn Pacer>,
    /// Falls when the store says that it knows no `If-None-Match`.
    creates_only: AtomicBool,
    /// An object that can be seen is stored. Not so in a directory, where its name may not be on the
    /// device yet: only the answer to a PUT tells.
    seen_is_stored: bool,
    /// See [`Bucket::behind`].
    gate: Option<Shared<BoxFuture<'static, ()>>>,
    /// See [`Bucket::overwriting`].
    #[cfg(any(test, feature = "testing"))]
    overwrites: bool,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.inner.name).finish()
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.name)
    }
}

/// A key that was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the bucket's prefix.
    pub key: String,
    /// Size of the object.
    pub bytes: u64,
}

impl Bucket {
    /// A bucket on a store made elsewhere: for simulations. `name` is what errors call it.
    ///
    /// # Errors
    /// [`OpenBucketError::Prefix`] if `prefix` is not a key.
    pub fn with_store(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        name: &str,
        options: &BucketOptions,
    ) -> Result<Self, OpenBucketError> {
        Self::assemble(store, prefix, BucketUrl::Memory, name.to_owned(), options)
    }

    fn assemble(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        url: BucketUrl,
        name: String,
        options: &BucketOptions,
    ) -> Result<Self, OpenBucketError> {
        let prefix = Path::parse(prefix)
            .map_err(|_| OpenBucketError::Prefix { prefix: prefix.to_owned() })?;
        let inner = Inner {
            store,
            prefix,
            seen_is_stored: !matches!(url, BucketUrl::File { .. }),
            url,
            name,
            retry: options.retry.clone(),
            pacer: options.pacer.clone(),
            creates_only: AtomicBool::new(true),
            gate: None,
            #[cfg(any(test, feature = "testing"))]
            overwrites: false,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same bucket, no request to which is made before `gate` has resolved. Until then it is as one
    /// whose store does not answer.
    #[must_use]
    pub fn behind(&self, gate: impl Future<Output = ()> + Send + 'static) -> Self {
        let Inner { store, prefix, url, name, retry, pacer, seen_is_stored, .. } = &*self.inner;
        let inner = Inner {
            store: Arc::clone(store),
            prefix: prefix.clone(),
            url: url.clone(),
            name: name.clone(),
            retry: retry.clone(),
            pacer: Arc::clone(pacer),
            creates_only: AtomicBool::new(self.inner.creates_only.load(Ordering::Relaxed)),
            seen_is_stored: *seen_is_stored,
            gate: Some(gate.boxed().shared()),
            #[cfg(any(test, feature = "testing"))]
            overwrites: self.inner.overwrites,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The address it was opened with.
    #[must_use]
    pub fn url(&self) -> &BucketUrl {
        &self.inner.url
    }

    /// The whole object of at most `bytes_max` bytes. Asks for its size first: the deadline of the
    /// read depends on it, and so does whether there is memory for it.
    ///
    /// # Errors
    /// [`BucketError`], after retries; [`BucketError::TooLarge`] before anything is fetched.
    pub async fn get(&self, key: &str, bytes_max: u64) -> Result<Bytes, BucketError> {
        match self.size(key).await? {
            Some(bytes) if bytes > bytes_max => {
                Err(BucketError::TooLarge { key: key.into(), bytes, bytes_max })
            }
            Some(bytes) => self.get_range(key, 0..bytes).await,
            None => Err(BucketError::NotFound { key: key.into() }),
        }
    }

    /// Bytes `range` of the object, exactly.
    ///
    /// # Errors
    /// [`BucketError`], after retries; [`BucketError::OutOfRange`] if the object is shorter.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, BucketError> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let out_of_range = || BucketError::OutOfRange { key: key.into(), end: range.end };
        let path = self.path(key)?;
        let read = self
            .retry_loop(len, || {
                let range = Some(GetRange::Bounded(range.clone()));
                let options = GetOptions::new().with_range(range);
                let path = path.clone();
                async move { self.inner.store.get_opts(&path, options).await?.bytes().await }
            })
            .await;
        match read {
            // A range that ends behind the object is clipped by the store.
            Ok(bytes) if bytes.len() as u64 == len => Ok(bytes),
            Ok(_) => Err(out_of_range()),
            Err((failure, _)) if failure.kind == FailureKind::Range => Err(out_of_range()),
            Err((failure, attempts)) => Err(failure.into_error(key, attempts)),
        }
    }

    /// Size of the object; `None` if there is none.
    ///
    /// # Errors
    /// [`BucketError`], after retries.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, BucketError> {
        let head = |path: Path| async move { self.inner.store.head(&path).await };
        match self.retried(key, head).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(BucketError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every key under the path `prefix`, sorted.
    ///
    /// # Errors
    /// [`BucketError`], after retries; [`BucketError::TooManyKeys`] past [`LIST_KEYS_MAX`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BucketError> {
        let path = self.path(prefix)?;
        let listing = self.retry_loop_within(LIST_DEADLINE, || {
            let pages = self.inner.store.list(Some(&path)).take(LIST_KEYS_MAX + 1);
            pages.try_collect::<Vec<_>>()
        });
        let found = listing.await.map_err(|(failure, n)| failure.into_error(prefix, n))?;
        if found.len() > LIST_KEYS_MAX {
            return Err(BucketError::TooManyKeys { key: prefix.into() });
        }
        Ok(self.sorted(found))
    }

    /// Up to `limit` keys under the path `prefix` that sort behind the key `after`, sorted. They are
    /// the first ones there, unless the bucket is a directory, which lists in no order.
    ///
    /// # Errors
    /// [`BucketError`], after retries.
    pub async fn list_after(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Listed>, BucketError> {
        let (path, after) = (self.path(prefix)?, self.path(after)?);
        let listing = self.retry_loop_within(LIST_DEADLINE, || {
            let pages = self.inner.store.list_with_offset(Some(&path), &after).take(limit);
            pages.try_collect::<Vec<_>>()
        });
        let found = listing.await.map_err(|(failure, n)| failure.into_error(prefix, n))?;
        Ok(self.sorted(found))
    }

    /// The `count` greatest keys under the path `prefix`, sorted. Walks all of them, but keeps no
    /// more than it returns.
    ///
    /// # Errors
    /// [`BucketError`], after retries.
    pub async fn list_greatest(
        &self,
        prefix: &str,
        count: usize,
    ) -> Result<Vec<Listed>, BucketError> {
        let path = self.path(prefix)?;
        let listing = self.retry_loop_within(LIST_DEADLINE, || {
            let pages = self.inner.store.list(Some(&path));
            pages.try_fold(BTreeMap::new(), |mut greatest, meta| {
                greatest.insert(meta.location.clone(), meta);
                if greatest.len() > count {
                    greatest.pop_first();
                }
                ready(Ok(greatest))
            })
        });
        let found = listing.await.map_err(|(failure, n)| failure.into_error(prefix, n))?;
        Ok(self.sorted(found.into_values()))
    }

    /// The names directly under the path `prefix` that have keys below them, sorted.
    ///
    /// # Errors
    /// [`BucketError`], after retries.
    pub async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, BucketError> {
        let path = self.path(prefix)?;
        let listing = self.retry_loop_within(LIST_DEADLINE, || {
            let path = path.clone();
            async move { self.inner.store.list_with_delimiter(Some(&path)).await }
        });
        let found = listing.await.map_err(|(failure, n)| failure.into_error(prefix, n))?;
        let mut names: Vec<String> = found
            .common_prefixes
            .iter()
            .filter_map(|folder| Some(folder.filename()?.to_owned()))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes the object. One that does not exist counts as deleted. A PUT of it that is still on its way
    /// may bring it back: nobody may be writing it any more.
    ///
    /// # Errors
    /// [`BucketError`], after retries; the object may be there or not.
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        let delete = |path: Path| async move { self.inner.store.delete(&path).await };
        match self.retried(key, delete).await {
            Err(BucketError::NotFound { .. }) => Ok(()),
            answer => answer,
        }
    }

    fn path(&self, key: &str) -> Result<Path, BucketError> {
        let prefix = self.inner.prefix.as_ref();
        let full = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
        Path::parse(full).map_err(|error| BucketError::Refused {
            key: key.into(),
            reason: error.to_string().into(),
        })
    }

    fn sorted(&self, found: impl IntoIterator<Item = ObjectMeta>) -> Vec<Listed> {
        let listed = |meta: ObjectMeta| {
            Some(Listed { key: self.relative(&meta.location)?, bytes: meta.size })
        };
        let mut listed: Vec<Listed> = found.into_iter().filter_map(listed).collect();
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        listed
    }

    fn relative(&self, path: &Path) -> Option<String> {
        let prefix = self.inner.prefix.as_ref();
        if prefix.is_empty() {
            return Some(path.as_ref().to_owned());
        }
        Some(path.as_ref().strip_prefix(prefix)?.strip_prefix('/')?.to_owned())
    }

    /// Runs `request` on the path of `key` until it succeeds, fails for good, or attempts run out.
    async fn retried<T, F>(&self, key: &str, request: impl Fn(Path) -> F) -> Result<T, BucketError>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let path = self.path(key)?;
        let answer = self.retry_loop(0, || request(path.clone())).await;
        answer.map_err(|(failure, attempts)| failure.into_error(key, attempts))
    }

    async fn retry_loop<T, F>(
        &self,
        bytes: u64,
        request: impl Fn() -> F,
    ) -> Result<T, (Failure, u32)>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        self.retry_loop_within(self.inner.retry.attempt_deadline(bytes), request).await
    }

    async fn retry_loop_within<T, F>(
        &self,
        deadline: Duration,
        request: impl Fn() -> F,
    ) -> Result<T, (Failure, u32)>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let Inner { retry, pacer, .. } = &*self.inner;
        let mut attempts = 1;
        loop {
            let failure = match self.attempt(deadline, request()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let class = failure.retry_class();
            if class == RetryClass::Permanent || attempts >= retry.attempts {
                return Err((failure, attempts));
            }
            pacer.sleep(retry.pause(attempts, class, &**pacer)).await;
            attempts += 1;
        }
    }

    /// Runs one attempt under `deadline`. It waits for the gate for [`GATE_WAIT`] at most.
    async fn attempt<T>(
        &self,
        deadline: Duration,
        request: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, Failure> {
        let pacer = &*self.inner.pacer;
        if let Some(gate) = &self.inner.gate {
            let open = gate.clone().map(Ok);
            retry::attempt(pacer, deadline.min(GATE_WAIT), open).await?;
        }
        retry::attempt(pacer, deadline, request).await
    }

    /// Runs `work` under an overall deadline; `None` when it passes.
    async fn within<T>(&self, deadline: Duration, work: impl Future<Output = T>) -> Option<T> {
        match futures::future::select(pin!(work), self.inner.pacer.sleep(deadline)).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(((), _)) => None,
        }
    }
}

#[cfg(test)]
mod tests;
