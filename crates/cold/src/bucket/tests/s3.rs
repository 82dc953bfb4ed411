//! The same on the S3 protocol, against a server in this process.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

use super::*;

/// A server over a directory that holds the buckets; ends with the test's runtime.
struct Server {
    endpoint: String,
    _root: tempfile::TempDir,
}

impl Server {
    async fn start(buckets: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for bucket in buckets {
            std::fs::create_dir(root.path().join(bucket)).unwrap();
        }
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("access", "secret"));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { endpoint, _root: root }
    }

    fn open(&self, url: &str, secret: &str) -> Bucket {
        let variables = [
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "access"),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ];
        let environment = S3Environment::Given(
            variables.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        );
        Bucket::open(url, &BucketOptions { environment, ..BucketOptions::new(1) }).unwrap()
    }
}

#[tokio::test]
async fn a_bucket_on_s3_behaves() {
    let server = Server::start(&["logs"]).await;
    suite(server.open("s3://logs/some/prefix", "secret")).await;
    let other_prefix = server.open("s3://logs", "secret");
    let listed = other_prefix.list("some").await.unwrap();
    assert!(listed.iter().all(|listed| listed.key.starts_with("some/prefix/")), "{listed:?}");
    assert_eq!(listed.len(), 2);
}

#[tokio::test]
async fn a_probe_tells_what_is_wrong_with_the_bucket() {
    let server = Server::start(&["logs"]).await;
    let missing = server.open("s3://other", "secret").probe().await.unwrap_err();
    assert!(matches!(missing, ProbeError::NoSuchBucket { .. }), "{missing}");
    let denied = server.open("s3://logs", "wrong").probe().await.unwrap_err();
    assert!(matches!(denied, ProbeError::Denied { .. }), "{denied}");
    assert!(!denied.to_string().contains("wrong"), "{denied}");
}
