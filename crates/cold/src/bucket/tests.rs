use futures::FutureExt;
use object_store::memory::InMemory;

use super::*;
use crate::testing::{Conditions, Fault, FaultyStore, Operation, Request};

/// A bucket whose requests fail as `faults` says: one per request, then none.
#[expect(clippy::disallowed_types, reason = "a test's script of faults")]
fn scripted(conditions: Conditions, faults: Vec<(Operation, Fault)>) -> (Bucket, Arc<InMemory>) {
    let memory = Arc::new(InMemory::new());
    let script = std::sync::Mutex::new(std::collections::VecDeque::from(faults));
    let plan = move |request: &Request<'_>| {
        let mut script = script.lock().unwrap();
        let due = script.front().is_some_and(|(operation, _)| *operation == request.operation);
        if due { script.pop_front().map(|(_, fault)| fault) } else { None }
    };
    let store = FaultyStore::new(memory.clone(), conditions, plan);
    (on(Arc::new(store)), memory)
}

fn on(store: Arc<dyn ObjectStore>) -> Bucket {
    Bucket::with_store(store, "pre/fix", "test bucket", &BucketOptions::new(1)).unwrap()
}

fn content(byte: u8, len: usize) -> Bytes {
    Bytes::from(vec![byte; len])
}

/// Everything a bucket does, on any kind of it.
async fn suite(bucket: Bucket) {
    bucket.probe().await.unwrap();
    assert_eq!(bucket.list("a").await.unwrap(), []);
    assert_eq!(bucket.list_folders("a").await.unwrap(), [""; 0]);
    assert!(matches!(bucket.get("a/x", 1 << 20).await, Err(BucketError::NotFound { .. })));
    assert_eq!(bucket.size("a/x").await.unwrap(), None);

    let large = content(7, 100_000);
    assert_eq!(bucket.put_immutable("a/x=1/k", large.clone()).await.unwrap(), Put::Stored);
    assert_eq!(bucket.put_immutable("a/x=1/k", large.clone()).await.unwrap(), Put::Existed);
    for other in [content(8, 100_000), content(7, 99_999), content(7, 0)] {
        let refused = bucket.put_immutable("a/x=1/k", other).await;
        assert!(matches!(refused, Err(BucketError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!(bucket.get("a/x=1/k", 100_000).await.unwrap(), large);
    bucket.put_immutable("ab", content(1, 0)).await.unwrap();
    assert_eq!(bucket.get_range("a/x=1/k", 10..20).await.unwrap(), content(7, 10));
    assert_eq!(bucket.get("ab", 0).await.unwrap(), Bytes::new());
    assert_eq!(bucket.get_range("a/x=1/k", 10..10).await.unwrap(), Bytes::new());
    for beyond in [99_999..100_001, 100_000..100_001, 200_000..200_001] {
        let refused = bucket.get_range("a/x=1/k", beyond.clone()).await;
        assert!(matches!(refused, Err(BucketError::OutOfRange { .. })), "{beyond:?}: {refused:?}");
    }

    bucket.put_immutable("a/x=2/k", content(1, 1)).await.unwrap();
    assert_eq!(bucket.list_folders("a").await.unwrap(), ["x=1", "x=2"]);
    let listed = bucket.list("a").await.unwrap();
    let listed: Vec<_> = listed.iter().map(|listed| (listed.key.as_str(), listed.bytes)).collect();
    assert_eq!(listed, [("a/x=1/k", 100_000), ("a/x=2/k", 1)]);

    let keys =
        |listed: Vec<Listed>| listed.into_iter().map(|listed| listed.key).collect::<Vec<_>>();
    let both = ["a/x=1/k", "a/x=2/k"];
    for (after, limit, expected) in [
        ("a/a", 9, &both[..]),
        ("a/x=1", 9, &both),
        ("a/x=1/k", 9, &both[1..]),
        ("a/x=2/k", 9, &[]),
        ("a/a", 0, &[]),
    ] {
        let found = keys(bucket.list_after("a", after, limit).await.unwrap());
        assert_eq!(found, expected, "{after} {limit}");
    }
    assert_eq!(bucket.list_after("a", "a/a", 1).await.unwrap().len(), 1);
    for count in 0..4 {
        let found = keys(bucket.list_greatest("a", count).await.unwrap());
        assert_eq!(found, both[2usize.saturating_sub(count)..], "{count}");
    }

    bucket.delete("a/x=1/k").await.unwrap();
    bucket.delete("a/x=1/k").await.unwrap();
    assert_eq!(bucket.size("a/x=1/k").await.unwrap(), None);
}

#[tokio::test]
async fn a_bucket_in_memory_behaves() {
    suite(Bucket::open("memory://", &BucketOptions::new(1)).unwrap()).await;
    suite(scripted(Conditions::Honoured, vec![]).0).await;
    suite(scripted(Conditions::Ignored, vec![]).0).await;
    suite(scripted(Conditions::Refused, vec![]).0).await;
}

#[tokio::test]
async fn a_bucket_in_a_directory_behaves() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}/not/yet there", directory.path().display());
    suite(Bucket::open(&url, &BucketOptions::new(1)).unwrap()).await;
}

#[tokio::test]
async fn what_cannot_be_a_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let refused = Bucket::open(&format!("file://{}", file.display()), &BucketOptions::new(1));
    let error = refused.unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
}

/// A lost answer, an answer that lies, a store that asks for patience: the object is there once.
#[tokio::test(start_paused = true)]
async fn a_put_survives_what_passes() {
    for conditions in [Conditions::Honoured, Conditions::Ignored, Conditions::Refused] {
        for fault in
            [Fault::AnswerLost, Fault::Pretended, Fault::SlowDown, Fault::Internal, Fault::Hangs]
        {
            for repeats in 1..4 {
                let (bucket, _) = scripted(conditions, vec![(Operation::Put, fault); repeats]);
                let put = bucket.put_immutable("k", content(3, 5000)).await;
                let expected = if fault == Fault::AnswerLost { Put::Existed } else { Put::Stored };
                assert_eq!(put.unwrap(), expected, "{conditions:?} {fault:?} {repeats}");
                assert_eq!(bucket.get("k", 5000).await.unwrap(), content(3, 5000));
            }
        }
    }
}

/// A store that says yes and has something else: nobody counts on it, however often it is asked.
#[tokio::test]
async fn what_was_stored_short_or_otherwise_is_no_success() {
    for len in [1, 5_000, 64 << 10, 200_000] {
        let last = len as u64 - 1;
        for fault in [Fault::CutAt(last), Fault::CutAt(0), Fault::FlippedByte(last)] {
            let (bucket, _) = scripted(Conditions::Honoured, vec![(Operation::Put, fault)]);
            for _ in 0..2 {
                let put = bucket.put_immutable("k", content(3, len)).await;
                assert!(
                    matches!(put, Err(BucketError::Conflict { .. })),
                    "{len} {fault:?} {put:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_gives_up_in_the_end() {
    let (bucket, _) = scripted(Conditions::Honoured, vec![(Operation::Put, Fault::SlowDown); 4]);
    let error = bucket.put_immutable("k", content(3, 10)).await.unwrap_err();
    assert!(matches!(error, BucketError::Unavailable { attempts: 4, .. }), "{error}");
    assert_eq!(error.retry_class(), RetryClass::Throttled);
    // The last of its answers may have been lost.
    let mut faults = vec![(Operation::Put, Fault::SlowDown); 3];
    faults.push((Operation::Put, Fault::AnswerLost));
    let (bucket, _) = scripted(Conditions::Honoured, faults);
    assert_eq!(bucket.put_immutable("k", content(3, 10)).await.unwrap(), Put::Existed);
}

/// Nothing is fetched that there may be no memory for.
#[tokio::test]
async fn an_object_that_is_too_large_is_not_fetched() {
    let memory = Arc::new(InMemory::new());
    memory.put(&Path::from("pre/fix/k"), content(1, 100).into()).await.unwrap();
    let plan = |request: &Request<'_>| {
        assert_ne!(request.operation, Operation::Get);
        None
    };
    let bucket = on(Arc::new(FaultyStore::new(memory, Conditions::Honoured, plan)));
    let error = bucket.get("k", 99).await.unwrap_err();
    assert!(matches!(error, BucketError::TooLarge { bytes: 100, bytes_max: 99, .. }), "{error}");
    assert_eq!(error.retry_class(), RetryClass::Permanent);
}

#[tokio::test]
async fn a_denied_request_is_not_repeated() {
    let (bucket, _) = scripted(Conditions::Honoured, vec![(Operation::Put, Fault::Denied)]);
    let error = bucket.put_immutable("k", content(3, 10)).await.unwrap_err();
    assert!(matches!(error, BucketError::Denied { .. }), "{error}");
    bucket.put_immutable("k", content(3, 10)).await.unwrap();
}

/// A store without conditions, and another writer between our look and our write.
#[tokio::test]
async fn a_race_without_conditions_is_noticed() {
    let memory = Arc::new(InMemory::new());
    let rival = memory.clone();
    let plan = move |request: &Request<'_>| {
        // Our second look: the rival has just written over our object.
        if request.operation == Operation::Head && request.number == 2 {
            let (rival, path) = (rival.clone(), Path::from(request.path));
            // Memory answers at once.
            rival.put(&path, content(9, 10).into()).now_or_never().unwrap().unwrap();
        }
        None
    };
    let bucket = on(Arc::new(FaultyStore::new(memory, Conditions::Ignored, plan)));
    let error = bucket.put_immutable("k", content(3, 10)).await.unwrap_err();
    assert!(matches!(error, BucketError::Conflict { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_within_ten_seconds_and_says_what_to_check() {
    let clock = tokio::time::Instant::now;
    for (fault, words) in [
        (Fault::Hangs, "cannot be reached"),
        (Fault::Internal, "cannot be reached"),
        (Fault::Denied, "AWS_ACCESS_KEY_ID"),
        (Fault::Missing, "does not exist"),
    ] {
        let (bucket, _) = scripted(Conditions::Honoured, vec![(Operation::List, fault); 9]);
        let begun = clock();
        let error = bucket.probe().await.unwrap_err().to_string();
        assert!(begun.elapsed() < Duration::from_secs(10), "{fault:?}");
        assert!(error.contains("test bucket") && error.contains(words), "{error}");
    }
    let (bucket, _) = scripted(Conditions::Honoured, vec![(Operation::List, Fault::Internal); 2]);
    bucket.probe().await.unwrap();
}

fn s3_options(endpoint: &str) -> BucketOptions {
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "hidden"),
        ("AWS_SECRET_ACCESS_KEY", "hidden"),
    ];
    let environment = S3Environment::Given(
        variables.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    );
    BucketOptions { environment, ..BucketOptions::new(1) }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named() {
    let options = s3_options("http://127.0.0.1:1/");
    assert!(!format!("{options:?}").contains("hidden"));
    let bucket = Bucket::open("s3://logs/cold", &options).unwrap();
    assert_eq!(bucket.to_string(), "bucket s3://logs/cold at http://127.0.0.1:1");
    let error = bucket.probe().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ProbeError::Unreachable { .. }), "{text}");
    assert!(text.contains("http://127.0.0.1:1") && text.contains("refused"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn an_endpoint_with_credentials_is_refused_and_not_shown() {
    for endpoint in ["http://user:hidden@127.0.0.1:1", "http://127.0.0.1/?hidden", "hidden"] {
        let error = Bucket::open("s3://logs", &s3_options(endpoint)).unwrap_err().to_string();
        assert!(error.contains("endpoint") && !error.contains("hidden"), "{error}");
    }
}

mod s3;
