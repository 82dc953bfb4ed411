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
    if !settings.dev {
        return Ok(());
    }
    if !listen.ip().is_loopback() && settings.tokens.value.is_empty() {
        tracing::warn!(%listen, "no token is configured: whoever reaches this address can read and write every stream");
    }
    // A name that is not UTF-8 cannot be printed as it is, but is no reason to stop.
    let program = env::args_os().next().map(|name| name.to_string_lossy().into_owned());
    let program = program.unwrap_or_else(|| "railgun".to_owned());
    let tokens = &settings.tokens.value;
    let first = match ca {
        Some(ca) => {
            let dev = context::write_dev_context(
                reachable(listen),
                ca.pem(),
                tokens,
                &settings.admin_tokens.value,
            )?;
            First { selected: dev.selected, set: (!dev.authorised).then(|| TOKEN.to_owned()) }
        }
        // Whose CA signed it, and for which name, its owner knows.
        None => {
            let token = if tokens.is_empty() { String::new() } else { format!(" {TOKEN}") };
            let set = format!("--server HOST:{} --ca CA.pem{token}", listen.port());
            First { selected: false, set: Some(set) }
        }
    };
    let guide = guide(&program, &first, Path::new(EXAMPLE).exists());
    // Whoever closed standard output does not want the guide.
    let _ = io::stdout().lock().write_all(guide.as_bytes());
    Ok(())
}

/// The flag of a token, which only its owner can fill in: a node knows hashes.
const TOKEN: &str = "--token TOKEN";

/// What must be so before the commands of the guide work.
#[derive(Debug)]
struct First {
    /// The context `dev` is the current one.
    selected: bool,
    /// Flags that only the reader can fill in.
    set: Option<String>,
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

/// The three commands to try next, as they work when pasted into another terminal here; in front of
/// them what makes them work, where the node does not know all of it.
fn guide(program: &str, first: &First, example: bool) -> String {
    let context = if first.selected { "" } else { " --context dev" };
    let publish = if example { format!("--file {EXAMPLE}") } else { "'hello, railgun'".to_owned() };
    let set = match &first.set {
        Some(flags) => format!(
            "\nTell clients how to reach this node, once, in another terminal:\n\n  \
             {program} context set dev {flags}\n"
        ),
        None => String::new(),
    };
    let there = if first.set.is_some() { "there" } else { "in another terminal" };
    format!(
        "{set}\nTry next, {there}:\n\n  \
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
        let text = guide("target/release/railgun", &First { selected: true, set: None }, true);
        assert!(text.contains("\n  target/release/railgun stream ensure orders\n"), "{text}");
        assert!(text.contains(" pub orders --file examples/data/orders.ndjson\n"), "{text}");
        let text = guide("railgun", &First { selected: false, set: None }, false);
        assert!(text.contains("railgun --context dev sub orders --from earliest"), "{text}");
        assert!(text.contains("pub orders 'hello, railgun'"), "{text}");
        assert!(!text.contains("context set"), "{text}");
    }

    #[test]
    fn what_a_node_does_not_know_is_asked_for_first() {
        let text = guide("railgun", &First { selected: true, set: Some(TOKEN.into()) }, false);
        let set = text.find("  railgun context set dev --token TOKEN\n").unwrap();
        assert!(set < text.find("stream ensure").unwrap(), "{text}");
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
