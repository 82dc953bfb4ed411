//! The listening socket and its life.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, sync::watch};

use crate::{
    connections,
    metrics::{MetricsPage, MetricsSource},
    readiness::Readiness,
    routes::{NodeView, router},
};

/// The HTTP address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} for http: {source}")]
pub struct BindError {
    /// The address asked for.
    pub addr: SocketAddr,
    source: io::Error,
}

/// A bound HTTP server, not yet answering.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl HttpServer {
    /// Listens on `addr`; port 0 takes a free one. Connections wait until [`HttpServer::run`].
    ///
    /// # Errors
    ///
    /// [`BindError`] when the address is taken or not of this machine.
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let bound = async {
            let listener = TcpListener::bind(addr).await?;
            let local_addr = listener.local_addr()?;
            Ok(Self { listener, local_addr })
        };
        bound.await.map_err(|source| BindError { addr, source })
    }

    /// The address really listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers for ever. Cancel it (drop the future, abort its task) to stop: responses are small
    /// and complete at once, so there is nothing to drain.
    pub async fn run(self, readiness: watch::Receiver<Readiness>, metrics: Arc<dyn MetricsSource>) {
        let node = NodeView { readiness, metrics: Arc::new(MetricsPage::new(metrics)) };
        connections::serve(self.listener, router(node)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::metrics::Samples;

    #[derive(Debug)]
    struct OneCounter;

    impl MetricsSource for OneCounter {
        fn collect(&self, samples: &mut Samples) {
            samples.counter("railgun_published_records", "Records committed", 41);
        }
    }

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn readiness_follows_the_node_and_liveness_does_not() {
        let server = HttpServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = server.local_addr();
        let (readiness, watched) = watch::channel(Readiness::not_ready("recovering the log"));
        let task = tokio::spawn(server.run(watched, Arc::new(OneCounter)));

        let starting = get(addr, "/readyz").await;
        assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
        assert!(starting.ends_with("not ready: recovering the log\n"), "{starting}");
        assert!(get(addr, "/livez").await.starts_with("HTTP/1.1 200"));

        readiness.send(Readiness::Ready).unwrap();
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200"));

        let metrics = get(addr, "/metrics").await;
        assert!(metrics.contains("application/openmetrics-text"), "{metrics}");
        assert!(metrics.contains("railgun_published_records_total 41"), "{metrics}");
        assert!(get(addr, "/elsewhere").await.starts_with("HTTP/1.1 404"));

        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(TcpStream::connect(addr).await.is_err(), "a stopped server listens no more");
    }

    #[tokio::test]
    async fn connections_that_stay_open_hold_up_nobody() {
        let server = HttpServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = server.local_addr();
        let (_readiness, watched) = watch::channel(Readiness::Ready);
        tokio::spawn(server.run(watched, Arc::new(OneCounter)));

        // Half of them never ask, the others would ask again on the same connection.
        let mut held = Vec::new();
        for number in 0..2 * crate::connections::CONNECTIONS {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n").await.unwrap();
            }
            held.push(stream);
        }
        let probe = tokio::time::timeout(Duration::from_secs(2), get(addr, "/livez")).await;
        let answer = probe.expect("a probe is answered while all places are taken");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let first = HttpServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let error = HttpServer::bind(first.local_addr()).await.unwrap_err();
        assert!(error.to_string().contains(&first.local_addr().to_string()), "{error}");
    }
}
