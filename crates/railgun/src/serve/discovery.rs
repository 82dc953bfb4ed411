//! Where other nodes are, as the DNS says (CL-1): SRV records of `_railgun._udp.NAME`, each with the
//! addresses of its target.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use railgun_broker::{Discovery, DiscoveryError};

/// How long one question may take, and how often it is asked.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Targets whose addresses are asked for.
const TARGETS_MAX: usize = 128;

/// It is not known whom to ask.
#[derive(Debug, thiserror::Error)]
#[error("no DNS server is known: {0}")]
pub(crate) struct DnsError(#[from] NetError);

/// Asks the DNS.
pub(crate) struct Dns {
    resolver: TokioResolver,
    /// Of the records.
    name: String,
}

impl Dns {
    /// Asks the machine's DNS server for nodes of `name`, unless `server` is given.
    ///
    /// # Errors
    /// The machine does not say which server it uses.
    pub(crate) fn new(name: &str, server: Option<SocketAddr>) -> Result<Self, DnsError> {
        let mut builder = match server {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                let mut ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                ways.iter_mut().for_each(|way| way.port = server.port());
                let server = NameServerConfig::new(server.ip(), true, ways.to_vec());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        // It is asked seldom, and for what has changed.
        options.cache_size = 0;
        (options.timeout, options.attempts) = (QUESTION_TIMEOUT, ATTEMPTS);
        let name = format!("_railgun._udp.{name}");
        Ok(Self { resolver: builder.build()?, name })
    }

    async fn ask(&self) -> Result<Vec<String>, NetError> {
        let answer = self.resolver.srv_lookup(self.name.as_str()).await?;
        let targets: BTreeSet<_> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                // The root as a target says that there is nobody (RFC 2782).
                RData::SRV(srv) if !srv.target.is_root() => Some((srv.target.clone(), srv.port)),
                _ => None,
            })
            .take(TARGETS_MAX)
            .collect();
        let addresses = targets.into_iter().map(|(target, port)| async move {
            match self.resolver.lookup_ip(target.clone()).await {
                Ok(found) => found.iter().map(|ip| SocketAddr::new(ip, port)).collect(),
                Err(error) => {
                    // The others count all the same.
                    tracing::debug!(%target, %error, "a node that DNS names has no address");
                    Vec::new()
                }
            }
        });
        let addresses = futures::future::join_all(addresses).await;
        Ok(addresses.into_iter().flatten().map(|address| address.to_string()).collect())
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Discovery for Dns {
    fn seeds(&self) -> BoxFuture<'_, Result<Vec<String>, DiscoveryError>> {
        Box::pin(async {
            self.ask().await.map_err(|error| {
                DiscoveryError::Failed(format!("SRV records of {}: {error}", self.name).into())
            })
        })
    }
}
