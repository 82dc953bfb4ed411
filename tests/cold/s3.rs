//! The same over the S3 protocol: a server in this process, plain http, path style.

use hyper_util::rt::TokioIo;
use railgun_client::StartPosition;
use railgun_cold::bucket::S3Environment;
use railgun_cold::{Bucket, BucketOptions};
use railgun_testkit::{NodeOptions, TestNode};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::brokerless::in_all_kinds_of_objects;
use crate::publisher;
use crate::records::{message, publish, read, replay_all};

/// Lives as long as the test's runtime.
struct Server {
    endpoint: String,
    _root: TempDir,
}

impl Server {
    async fn start() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(root.path().join("logs")).expect("a bucket");
        let files = s3s_fs::FileSystem::new(root.path()).expect("a directory");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single("access", "secret"));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                let server = hyper::server::conn::http1::Builder::new();
                // Ends with an error when the client goes away.
                tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { endpoint, _root: root }
    }

    fn bucket(&self) -> Bucket {
        let variables = [
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "access"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = S3Environment::Given(variables.into());
        let options = BucketOptions { environment, ..BucketOptions::new(1) };
        Bucket::open("s3://logs/some/prefix", &options).expect("a bucket")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_seal_restart_and_replay_on_s3() {
    let server = Server::start().await;
    let bucket = server.bucket();
    let options = NodeOptions { bucket: Some(bucket.clone()), ..NodeOptions::default() };
    let node = TestNode::start_with(options.clone()).await;
    let client = node.client().await;
    let mut told = in_all_kinds_of_objects(&client, "mixed").await;
    told.extend(publish(&publisher(&client, "mixed").await, (0..50).map(message)).await);
    client.close().await;
    let node = node.restart(options).await;
    let client = node.client().await;
    assert_eq!(read(&client, "mixed", StartPosition::Earliest).await.0, told);
    let (seen, sources) = read(&client, "mixed", StartPosition::Earliest).await;
    assert_eq!((seen, sources[0]), (told.clone(), "cold"));
    // The restart was an orderly one: what was in the log is in the bucket too.
    assert_eq!(replay_all(&bucket, "mixed").await, told);
}
