//! An object store in front of another one, which fails where a plan says so.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write an object.
    Put,
    /// Read an object or a part of it.
    Get,
    /// Ask for its size.
    Head,
    /// List keys.
    List,
    /// Delete an object.
    Delete,
}

/// One request, as the plan sees it.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// What it wants.
    pub operation: Operation,
    /// The full key or prefix.
    pub path: &'a str,
    /// Requests before this one.
    pub number: u64,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 403.
    Denied,
    /// 404, whatever is there.
    Missing,
    /// 503 with `SlowDown`.
    SlowDown,
    /// 500.
    Internal,
    /// It is carried out, but its answer is lost: a broken connection.
    AnswerLost,
    /// It is acknowledged, but was not carried out.
    Pretended,
    /// The object's byte at this position arrives with its bits flipped; of a PUT in the store, and
    /// the last byte of an object that is shorter.
    FlippedByte(u64),
    /// The object ends here; after a PUT it stays so.
    CutAt(u64),
    /// No answer ever.
    Hangs,
}

/// How the store treats conditional PUTs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conditions {
    /// As S3 does.
    #[default]
    Honoured,
    /// Accepted and ignored: the JuiceFS gateway.
    Ignored,
    /// 501.
    Refused,
}

type Plan = dyn Fn(&Request<'_>) -> Option<Fault> + Send + Sync;

/// The store. Its plan is asked once per request; a refused condition is none.
pub struct FaultyStore {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn ObjectStore>,
    conditions: Conditions,
    requests: AtomicU64,
    plan: Box<Plan>,
}

impl FaultyStore {
    /// Puts `plan` in front of `inner`.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        conditions: Conditions,
        plan: impl Fn(&Request<'_>) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let requests = AtomicU64::new(0);
        Self { shared: Arc::new(Shared { inner, conditions, requests, plan: Box::new(plan) }) }
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.shared.inner).finish()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.shared.inner)
    }
}

impl Shared {
    fn fault(&self, operation: Operation, path: Option<&Path>) -> Option<Fault> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let path = path.map_or("", AsRef::as_ref);
        (self.plan)(&Request { operation, path, number })
    }

    /// Carries `request` out, or not, as `fault` says. Faults of content pass it through.
    async fn strike<T>(
        &self,
        fault: Option<Fault>,
        path: &str,
        request: impl Future<Output = Result<T>> + Send,
        pretended: impl FnOnce() -> Option<T> + Send,
    ) -> Result<T> {
        let Some(fault) = fault else { return request.await };
        let status = |status: &str| Error::Generic {
            store: "faulty",
            source: format!("Server returned non-2xx status code: {status}").into(),
        };
        match fault {
            Fault::Denied => {
                let source = "injected 403".into();
                Err(Error::PermissionDenied { path: path.to_owned(), source })
            }
            Fault::Missing => {
                Err(Error::NotFound { path: path.to_owned(), source: "injected 404".into() })
            }
            Fault::SlowDown => Err(status("503 Service Unavailable: SlowDown")),
            Fault::Internal => Err(status("500 Internal Server Error: injected")),
            Fault::AnswerLost => {
                request.await?;
                Err(Error::Generic { store: "faulty", source: "injected loss of an answer".into() })
            }
            Fault::Pretended => match pretended() {
                Some(answer) => Ok(answer),
                None => request.await,
            },
            Fault::FlippedByte(_) | Fault::CutAt(_) => request.await,
            Fault::Hangs => std::future::pending().await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        let shared = &self.shared;
        match (shared.conditions, &opts.mode) {
            (Conditions::Ignored, _) => opts.mode = PutMode::Overwrite,
            (Conditions::Refused, PutMode::Create | PutMode::Update(_)) => {
                return Err(Error::NotImplemented {
                    operation: "conditional PUT".to_owned(),
                    implementer: self.to_string(),
                });
            }
            (Conditions::Refused | Conditions::Honoured, _) => {}
        }
        let fault = shared.fault(Operation::Put, Some(location));
        let payload = spoilt(payload, fault);
        let put = shared.inner.put_opts(location, payload, opts);
        let pretended =
            || Some(PutResult { e_tag: None, version: None, extensions: Default::default() });
        shared.strike(fault, location.as_ref(), put, pretended).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.shared.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let shared = &self.shared;
        let operation = if options.head { Operation::Head } else { Operation::Get };
        let fault = shared.fault(operation, Some(location));
        let get = shared.inner.get_opts(location, options);
        let answer = shared.strike(fault, location.as_ref(), get, || None).await?;
        match fault {
            Some(Fault::FlippedByte(_) | Fault::CutAt(_)) => damage(answer, fault).await,
            _ => Ok(answer),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut pieces = Vec::with_capacity(ranges.len());
        for range in ranges {
            pieces.push(self.get_range(location, range.clone()).await?);
        }
        Ok(pieces)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let shared = self.shared.clone();
        locations
            .and_then(move |location| {
                let shared = shared.clone();
                async move {
                    let fault = shared.fault(Operation::Delete, Some(&location));
                    let delete = shared.inner.delete(&location);
                    shared.strike(fault, location.as_ref(), delete, || Some(())).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (shared, prefix) = (self.shared.clone(), prefix.cloned());
        let listing = async move {
            let fault = shared.fault(Operation::List, prefix.as_ref());
            let path = prefix.as_ref().map_or("", AsRef::as_ref).to_owned();
            let all = shared.inner.list(prefix.as_ref()).try_collect::<Vec<_>>();
            let listed = shared.strike(fault, &path, all, || Some(Vec::new())).await?;
            Ok::<_, Error>(futures::stream::iter(listed.into_iter().map(Ok)))
        };
        futures::stream::once(listing).try_flatten().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix).try_filter(move |meta| std::future::ready(meta.location > offset)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let shared = &self.shared;
        let fault = shared.fault(Operation::List, prefix);
        let path = prefix.map_or("", AsRef::as_ref);
        let list = shared.inner.list_with_delimiter(prefix);
        shared.strike(fault, path, list, || None).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.shared.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.shared.inner.rename_opts(from, to, options).await
    }
}

/// The content of a PUT as it is stored.
fn spoilt(payload: PutPayload, fault: Option<Fault>) -> PutPayload {
    let mut bytes = match fault {
        Some(Fault::FlippedByte(_) | Fault::CutAt(_)) => BytesMut::from(Bytes::from(payload)),
        _ => return payload,
    };
    match fault {
        Some(Fault::FlippedByte(position)) => {
            let last = bytes.len().saturating_sub(1);
            if let Some(byte) = bytes.get_mut(last.min(position as usize)) {
                *byte ^= 0xff;
            }
        }
        Some(Fault::CutAt(end)) => bytes.truncate(end as usize),
        _ => {}
    }
    bytes.freeze().into()
}

/// The answer with its content damaged.
async fn damage(answer: GetResult, fault: Option<Fault>) -> Result<GetResult> {
    let GetResult { ref meta, ref range, ref attributes, .. } = answer;
    let (mut meta, mut range) = (meta.clone(), range.clone());
    let (attributes, extensions) = (attributes.clone(), answer.extensions.clone());
    let mut bytes = BytesMut::from(&answer.bytes().await?[..]);
    match fault {
        Some(Fault::FlippedByte(position)) if range.contains(&position) => {
            bytes[(position - range.start) as usize] ^= 0xff;
        }
        Some(Fault::CutAt(end)) => {
            if range.start >= end {
                return Err(Error::Generic {
                    store: "faulty",
                    source: "Server returned non-2xx status code: 416 injected".into(),
                });
            }
            range.end = range.end.min(end);
            meta.size = meta.size.min(end);
            bytes.truncate((range.end - range.start) as usize);
        }
        _ => {}
    }
    let bytes = bytes.freeze();
    let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}
