//! Opening a bucket from its address, and finding out whether it answers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::memory::InMemory;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};

use super::directory::{self, DirectoryStore};
use super::error::{Failure, FailureKind, RetryClass};
use super::{Bucket, BucketUrl, InvalidBucketUrl, Pacer, RetryPolicy, TokioPacer};

/// Time [`Bucket::probe`] takes at most.
const PROBE_TOTAL: Duration = Duration::from_secs(9);
/// Time one attempt of it takes at most.
const PROBE_ATTEMPT: Duration = Duration::from_secs(4);
/// Time to connect to an endpoint.
const CONNECT: &str = "3 seconds";
/// Silence after which a body counts as stalled.
const STALL: &str = "10 seconds";
/// Upper bound on one HTTP exchange: our own deadlines, which know the size, come first.
const EXCHANGE: &str = "600 seconds";

/// Where an S3 bucket finds its endpoint, region and credentials.
#[derive(Clone, Default)]
pub enum S3Environment {
    /// The `AWS_*` variables of the process.
    #[default]
    Process,
    /// These `AWS_*` variables instead.
    Given(Vec<(String, String)>),
}

impl std::fmt::Debug for S3Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process => f.write_str("Process"),
            // The values may be secrets.
            Self::Given(vars) => f.debug_list().entries(vars.iter().map(|(key, _)| key)).finish(),
        }
    }
}

/// How a bucket behaves.
#[derive(Clone, Debug)]
pub struct BucketOptions {
    /// How often and how patiently a request is tried.
    pub retry: RetryPolicy,
    /// Time and chance.
    pub pacer: Arc<dyn Pacer>,
    /// Settings of S3 buckets.
    pub environment: S3Environment,
}

impl BucketOptions {
    /// Defaults; `seed` spreads the retries of different processes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            retry: RetryPolicy::default(),
            pacer: Arc::new(TokioPacer::new(seed)),
            environment: S3Environment::default(),
        }
    }
}

/// Why a bucket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenBucketError {
    /// The address is none.
    #[error(transparent)]
    Url(#[from] InvalidBucketUrl),
    /// The prefix has empty parts or characters that no key may have.
    #[error("'{prefix}' cannot be the prefix of keys")]
    Prefix {
        /// The prefix.
        prefix: String,
    },
    /// The directory cannot be made or used.
    #[error("directory {path} cannot be used as a bucket: {reason}")]
    Directory {
        /// The directory.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The settings of the store do not fit together.
    #[error("the settings for {url} are not usable: {reason}; check the AWS_* variables")]
    Settings {
        /// The address.
        url: BucketUrl,
        /// What is wrong.
        reason: String,
    },
}

/// Why a bucket does not answer as it should.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProbeError {
    /// No answer, or none but failures.
    #[error(
        "{bucket} cannot be reached: {reason}; check the address, the network, and AWS_ENDPOINT_URL"
    )]
    Unreachable {
        /// Address and endpoint.
        bucket: String,
        /// What was seen last.
        reason: Arc<str>,
    },
    /// The store answers but has no such bucket.
    #[error("{bucket} does not exist on the store that answers; create it or correct its name")]
    NoSuchBucket {
        /// Address and endpoint.
        bucket: String,
    },
    /// The store answers but does not let us in.
    #[error(
        "{bucket} denies access: {reason}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the \
         bucket's policy (list, get, put and delete are needed)"
    )]
    Denied {
        /// Address and endpoint.
        bucket: String,
        /// The store's words.
        reason: Arc<str>,
    },
    /// The store answers with a refusal of another kind.
    #[error("{bucket} refuses to list: {reason}; check AWS_REGION and AWS_ENDPOINT_URL")]
    Refused {
        /// Address and endpoint.
        bucket: String,
        /// The store's words.
        reason: Arc<str>,
    },
}

impl Bucket {
    /// Opens the bucket at `url`. Makes the directory of a `file:` bucket, durably; speaks to no network:
    /// [`Bucket::probe`] does.
    ///
    /// # Errors
    /// [`OpenBucketError`] names the address and what is wrong with it.
    pub fn open(url: &str, options: &BucketOptions) -> Result<Self, OpenBucketError> {
        let url: BucketUrl = url.parse()?;
        let (store, prefix, name): (Arc<dyn ObjectStore>, String, String) = match &url {
            BucketUrl::Memory => (Arc::new(InMemory::new()), String::new(), url.to_string()),
            BucketUrl::File { root } => {
                let path = root.display().to_string();
                let refuse =
                    |reason: String| OpenBucketError::Directory { path: path.clone(), reason };
                directory::make_root(root).map_err(|error| refuse(error.to_string()))?;
                let store = DirectoryStore::open(root, options.pacer.random())
                    .map_err(|error| refuse(error.to_string()))?;
                (Arc::new(store), String::new(), format!("bucket {url}"))
            }
            BucketUrl::S3 { bucket, prefix } => {
                let (store, endpoint) = s3(&url, bucket, &options.environment)?;
                (store, prefix.clone(), format!("bucket {url} at {endpoint}"))
            }
        };
        Self::assemble(store, &prefix, url, name, options)
    }

    /// Finds out within 10 s whether the bucket answers and may be listed.
    ///
    /// # Errors
    /// [`ProbeError`] names bucket and endpoint and says what to check.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let bucket = || self.to_string();
        let silent = Failure::stalled(PROBE_TOTAL.as_secs());
        let failure = match self.within(PROBE_TOTAL, self.probe_attempts()).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(failure)) => failure,
            None => silent,
        };
        Err(match failure.kind {
            FailureKind::NoSuchBucket | FailureKind::NotFound => {
                ProbeError::NoSuchBucket { bucket: bucket() }
            }
            FailureKind::Denied => ProbeError::Denied { bucket: bucket(), reason: failure.reason },
            FailureKind::Transient | FailureKind::Throttled => {
                ProbeError::Unreachable { bucket: bucket(), reason: failure.reason }
            }
            FailureKind::AlreadyExists
            | FailureKind::Range
            | FailureKind::Unsupported
            | FailureKind::Refused => {
                ProbeError::Refused { bucket: bucket(), reason: failure.reason }
            }
        })
    }

    async fn probe_attempts(&self) -> Result<(), Failure> {
        const ATTEMPTS: u32 = 3;
        let inner = &*self.inner;
        for number in 1.. {
            let first = async {
                let prefix = Some(&inner.prefix).filter(|prefix| !prefix.as_ref().is_empty());
                inner.store.list(prefix).next().await.transpose()
            };
            let failure = match self.attempt(PROBE_ATTEMPT, first).await {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            let class = failure.retry_class();
            if class == RetryClass::Permanent || number == ATTEMPTS {
                return Err(failure);
            }
            inner.pacer.sleep(inner.retry.pause(number, class, &*inner.pacer)).await;
        }
        Ok(())
    }
}

/// The client for an S3 bucket and the name of its endpoint.
fn s3(
    url: &BucketUrl,
    bucket: &str,
    environment: &S3Environment,
) -> Result<(Arc<dyn ObjectStore>, String), OpenBucketError> {
    let variables: Vec<(String, String)> = match environment {
        S3Environment::Process => std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        S3Environment::Given(variables) => variables.clone(),
    };
    let defaults = [
        (ClientConfigKey::ConnectTimeout, CONNECT),
        (ClientConfigKey::ReadTimeout, STALL),
        (ClientConfigKey::Timeout, EXCHANGE),
    ];
    let builder = defaults.into_iter().fold(AmazonS3Builder::new(), |builder, (key, value)| {
        builder.with_config(AmazonS3ConfigKey::Client(key), value)
    });
    let mut builder = variables
        .iter()
        .filter(|(key, _)| key.starts_with("AWS_"))
        .filter_map(|(key, value)| Some((key.to_ascii_lowercase().parse().ok()?, value)))
        .fold(builder, |builder, (key, value)| builder.with_config(key, value))
        .with_bucket_name(bucket)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    // Whoever writes `http://` asks for it; nothing else needs AWS_ALLOW_HTTP.
    if endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    let settings = |reason: String| OpenBucketError::Settings { url: url.clone(), reason };
    let name = match &endpoint {
        Some(endpoint) => shown(endpoint).map_err(|reason| settings(reason.to_owned()))?,
        None => "AWS S3".to_owned(),
    };
    let store = builder.build().map_err(|error| settings(error.to_string()))?;
    Ok((Arc::new(store), name))
}

/// The endpoint as errors show it. One that carries credentials is refused: the transport's own
/// errors would show them.
fn shown(endpoint: &str) -> Result<String, &'static str> {
    let parsed = ::url::Url::parse(endpoint).map_err(|_| "the endpoint is not a URL")?;
    if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
        return Err("the endpoint carries credentials or a query");
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}
