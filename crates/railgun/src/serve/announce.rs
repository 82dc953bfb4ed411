//! What a node says once it runs.

use std::{
    env,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
};

use railgun_broker::Broker;
use railgun_net::tls::DevCa;

use super::ServeError;
use crate::{config::Settings, context};

/// Data that ships with the sources, for the commands to try.
const EXAMPLE: &str = "examples/data/orders.ndjson";

/// Logs the addresses; with `--dev` also writes the context `dev` and prints what to try next.
///
/// # Errors
///
/// [`ServeError::Context`] when the context cannot be written.
pub(crate) fn started(
    settings: &Settings,
    broker: &Broker,
    http: SocketAddr,
    ca: Option<&DevCa>,
) -> Result<(), ServeError> {
    let listen = broker.listen_addr();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster_uid = %broker.cluster_uid(),
        %listen,
        %http,
        data_dir = %settings.data_dir.value.display(),
        bucket = settings.bucket.value,
        "ready"
    );
    let (true, Some(ca)) = (settings.dev, ca) else { return Ok(()) };
    if !listen.ip().is_loopback() && settings.tokens.value.is_empty() {
        tracing::warn!(%listen, "no token is configured: whoever reaches this address can read and write every stream");
    }
    let selected = context::write_dev_context(reachable(listen), ca.pem())?;
    let program = env::args().next().unwrap_or_else(|| "railgun".to_owned());
    let guide = guide(&program, selected, Path::new(EXAMPLE).exists());
    // Whoever closed standard output does not want the guide.
    let _ = io::stdout().lock().write_all(guide.as_bytes());
    Ok(())
}

/// Where clients on this machine connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let loopback: std::net::IpAddr = if listen.is_ipv4() {
        std::net::Ipv4Addr::LOCALHOST.into()
    } else {
        std::net::Ipv6Addr::LOCALHOST.into()
    };
    (loopback, listen.port()).into()
}

/// The three commands to try next, as they work when pasted into another terminal here.
fn guide(program: &str, selected: bool, example: bool) -> String {
    let context = if selected { "" } else { " --context dev" };
    let publish = if example { format!("--file {EXAMPLE}") } else { "'hello, railgun'".to_owned() };
    format!(
        "\nTry next, in another terminal:\n\n  \
         {program}{context} stream ensure orders\n  \
         {program}{context} pub orders {publish}\n  \
         {program}{context} sub orders --from earliest --until-end\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_names_the_program_as_called_and_the_context_where_it_is_not_the_current_one() {
        let text = guide("target/release/railgun", true, true);
        assert!(text.contains("\n  target/release/railgun stream ensure orders\n"), "{text}");
        assert!(text.contains(" pub orders --file examples/data/orders.ndjson\n"), "{text}");
        let text = guide("railgun", false, false);
        assert!(text.contains("railgun --context dev sub orders --from earliest"), "{text}");
        assert!(text.contains("pub orders 'hello, railgun'"), "{text}");
    }

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        for (listen, reached) in [
            ("0.0.0.0:7410", "127.0.0.1:7410"),
            ("[::]:7410", "[::1]:7410"),
            ("192.0.2.7:1", "192.0.2.7:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
