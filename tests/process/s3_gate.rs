//! An S3 server in this process that can be closed, made to hang, or to take no writes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;

use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::site::Site;

const BUCKET: &str = "logs";

/// How the server meets its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Every PUT is answered with 503.
    ReadOnly,
    /// Connections are taken and never answered.
    Hanging,
    /// Nobody listens.
    Closed,
}

/// Lives as long as the test's runtime.
#[derive(Debug)]
pub(crate) struct S3Gate {
    gate: watch::Sender<Gate>,
    address: SocketAddr,
    _root: TempDir,
}

impl S3Gate {
    pub(crate) async fn start(gate: Gate) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a bucket");
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let address = listener.local_addr().expect("an address");
        let (gate, watched) = watch::channel(gate);
        tokio::spawn(accept(listener, address, service(root.path()), watched));
        Self { gate, address, _root: root }
    }

    /// Makes this server the bucket of a place.
    pub(crate) fn serve(&self, site: &mut Site) {
        site.bucket = format!("s3://{BUCKET}/some/prefix");
        site.set("AWS_ENDPOINT_URL", self.endpoint());
        site.set("AWS_ACCESS_KEY_ID", "access");
        site.set("AWS_SECRET_ACCESS_KEY", "secret");
        site.set("AWS_REGION", "us-east-1");
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes how clients are met; those that are connected are cut off.
    pub(crate) fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }
}

fn service(root: &Path) -> S3Service {
    let files = s3s_fs::FileSystem::new(root).expect("a directory");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single("access", "secret"));
    service.build()
}

async fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.expect("the port is still free")
}

async fn accept(
    first: TcpListener,
    address: SocketAddr,
    service: S3Service,
    mut gate: watch::Receiver<Gate>,
) {
    let mut listener = Some(first);
    loop {
        let now = *gate.borrow_and_update();
        if now == Gate::Closed {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen(address).await);
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = gate.changed() => if changed.is_err() { return },
            Ok((socket, _)) = accepted => {
                tokio::spawn(meet(socket, service.clone(), now, gate.clone()));
            }
        }
    }
}

/// Serves a connection until the gate changes.
async fn meet(socket: TcpStream, service: S3Service, now: Gate, mut gate: watch::Receiver<Gate>) {
    let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
        let service = service.clone();
        async move {
            if now == Gate::ReadOnly && request.method() == Method::PUT {
                let mut refused = Response::new(s3s::Body::empty());
                *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return Ok::<_, Infallible>(refused);
            }
            let answered = hyper::service::Service::call(&service, request).await;
            Ok(answered.unwrap_or_else(|error| panic!("the S3 server failed: {error:?}")))
        }
    });
    let serve = async {
        if now == Gate::Hanging {
            std::future::pending::<()>().await;
        }
        // A client that leaves early is no failure of the server.
        let http = hyper::server::conn::http1::Builder::new();
        http.serve_connection(TokioIo::new(socket), answer).await.ok();
    };
    tokio::select! {
        _ = gate.changed() => {}
        () = serve => {}
    }
}
