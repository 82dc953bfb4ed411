//! `RAILGUN_…` environment variables as a layer of settings.

use std::{ffi::OsString, fmt::Display, str::FromStr};

use super::layer::{KEYS, Layer};

/// An environment variable was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {name}: {reason}")]
pub(crate) struct EnvironmentError {
    name: String,
    reason: String,
}

/// The variable that sets `key`, such as `RAILGUN_HOT_MAX_BYTES` for `hot.max_bytes`.
pub(crate) fn variable_of(key: &str) -> String {
    format!("RAILGUN_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Reads the layer through `lookup`, such as `std::env::var_os`. An empty variable counts as
/// absent. Tokens and peers are separated by commas.
///
/// # Errors
///
/// [`EnvironmentError`] for the first variable that does not parse.
pub(crate) fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Layer, EnvironmentError> {
    let mut layer = Layer::default();
    for key in KEYS {
        let name = variable_of(key);
        let Some(value) = lookup(&name).filter(|value| !value.is_empty()) else { continue };
        set(&mut layer, key, value).map_err(|reason| EnvironmentError { name, reason })?;
    }
    Ok(layer)
}

fn set(layer: &mut Layer, key: &str, value: OsString) -> Result<(), String> {
    // Paths may be any bytes; everything else is text.
    match key {
        "data_dir" => layer.data_dir = Some(value.into()),
        "cluster.ca_dir" => layer.cluster.ca_dir = Some(value.into()),
        "tls.ca" => layer.tls.ca = Some(value.into()),
        "tls.cert" => layer.tls.cert = Some(value.into()),
        "tls.key" => layer.tls.key = Some(value.into()),
        _ => {
            let text = value.into_string().map_err(|_| "the value is not UTF-8".to_owned())?;
            set_text(layer, key, &text)?;
        }
    }
    Ok(())
}

fn set_text(layer: &mut Layer, key: &str, text: &str) -> Result<(), String> {
    match key {
        "bucket" => layer.bucket = Some(text.to_owned()),
        "listen" => layer.listen = Some(parse(text)?),
        "advertise" => layer.advertise = Some(text.to_owned()),
        "http" => layer.http = Some(parse(text)?),
        "auth.tokens" => {
            layer.auth.tokens = Some(text.split(',').map(parse).collect::<Result<_, _>>()?);
        }
        "auth.admin_tokens" => {
            layer.auth.admin_tokens = Some(text.split(',').map(parse).collect::<Result<_, _>>()?);
        }
        "hot.max_bytes" => layer.hot.max_bytes = Some(parse(text)?),
        "hot.file_bytes" => layer.hot.file_bytes = Some(parse(text)?),
        "shards.count" => layer.shards.count = Some(parse(text)?),
        "shards.replicas" => layer.shards.replicas = Some(parse(text)?),
        "cluster.bootstrap_expect" => layer.cluster.bootstrap_expect = Some(parse(text)?),
        "cluster.peers" => {
            let peers = text.split(',').map(|peer| peer.trim().to_owned());
            layer.cluster.peers = Some(peers.collect());
        }
        "cluster.srv" => layer.cluster.srv = Some(text.to_owned()),
        "cluster.dns_server" => layer.cluster.dns_server = Some(parse(text)?),
        "cluster.peer_listen" => layer.cluster.peer_listen = Some(parse(text)?),
        "cluster.peer_advertise" => layer.cluster.peer_advertise = Some(text.to_owned()),
        "cpu.keep_awake" => layer.cpu.keep_awake = Some(parse(text)?),
        "streams.max_count" => layer.streams.max_count = Some(parse(text)?),
        "clients.max_connections" => layer.clients.max_connections = Some(parse(text)?),
        "clients.max_bytes" => layer.clients.max_bytes = Some(parse(text)?),
        "cold.max_time_to_cold" => layer.cold.max_time_to_cold = Some(parse(text)?),
        "log.format" => layer.log.format = Some(parse(text)?),
        "log.filter" => layer.log.filter = Some(text.to_owned()),
        _ => unreachable!("every other key of KEYS is a path"),
    }
    Ok(())
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|error: T::Err| error.to_string())
}

/// Variables among `names` that set nothing but look like a misspelling of one that would, with
/// the one that was probably meant. Other `RAILGUN_…` variables belong to the client commands.
pub(crate) fn near_misses(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let known = KEYS.map(variable_of);
    let near = |name: String| {
        if !name.starts_with("RAILGUN_") || known.contains(&name) {
            return None;
        }
        let meant = known.iter().find(|known| strsim::damerau_levenshtein(&name, known) <= 2)?;
        Some((name, meant.clone()))
    };
    names.filter_map(near).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_variable() {
        let hash = format!("sha256:{}", "0a".repeat(32));
        let layer = read(|name| {
            let value = match name {
                "RAILGUN_LISTEN"
                | "RAILGUN_HTTP"
                | "RAILGUN_CLUSTER_PEER_LISTEN"
                | "RAILGUN_CLUSTER_DNS_SERVER" => "127.0.0.1:9",
                "RAILGUN_AUTH_TOKENS" => return Some(format!("{hash}, {hash}").into()),
                "RAILGUN_AUTH_ADMIN_TOKENS" => return Some(hash.clone().into()),
                "RAILGUN_SHARDS_COUNT"
                | "RAILGUN_SHARDS_REPLICAS"
                | "RAILGUN_CLUSTER_BOOTSTRAP_EXPECT" => "3",
                "RAILGUN_CLUSTER_PEERS" => "a:1, b:2",
                "RAILGUN_CPU_KEEP_AWAKE" => "true",
                "RAILGUN_HOT_MAX_BYTES" | "RAILGUN_HOT_FILE_BYTES" => "64MiB",
                "RAILGUN_STREAMS_MAX_COUNT" | "RAILGUN_CLIENTS_MAX_CONNECTIONS" => "5",
                "RAILGUN_CLIENTS_MAX_BYTES" => "1GiB",
                "RAILGUN_COLD_MAX_TIME_TO_COLD" => "1m",
                "RAILGUN_LOG_FORMAT" => "json",
                name if name.starts_with("RAILGUN_") => "x",
                _ => return None,
            };
            Some(value.into())
        })
        .unwrap();
        assert_eq!(layer.data_dir.as_deref(), Some("x".as_ref()));
        assert_eq!(layer.auth.tokens.map(|tokens| tokens.len()), Some(2));
        assert_eq!(layer.auth.admin_tokens.map(|tokens| tokens.len()), Some(1));
        assert_eq!((layer.shards.count, layer.cluster.bootstrap_expect), (Some(3), Some(3)));
        assert_eq!(layer.cluster.peers.as_deref(), Some(&["a:1".to_owned(), "b:2".to_owned()][..]));
        assert!(layer.cluster.peer_listen.is_some() && layer.cluster.peer_advertise.is_some());
        assert!(layer.cluster.srv.is_some() && layer.cluster.dns_server.is_some());
        assert!(layer.cluster.ca_dir.is_some() && layer.advertise.is_some());
        assert_eq!(layer.shards.replicas, Some(3));
        assert_eq!((layer.streams.max_count, layer.clients.max_connections), (Some(5), Some(5)));
        assert!(layer.clients.max_bytes.is_some() && layer.log.filter.is_some());
    }

    #[test]
    fn a_value_that_does_not_parse_names_its_variable_and_an_empty_one_is_absent() {
        let bad = |name: &str| (name == "RAILGUN_LISTEN").then(|| "here".into());
        let error = read(bad).unwrap_err().to_string();
        assert!(error.starts_with("environment variable RAILGUN_LISTEN: "), "{error}");
        let empty = read(|_| Some(OsString::new())).unwrap();
        assert!(empty.listen.is_none() && empty.data_dir.is_none());
    }

    #[test]
    fn misspelt_variables_are_found_and_those_of_the_client_left_alone() {
        let names = ["RAILGUN_DATADIR", "RAILGUN_DATA_DIR", "RAILGUN_SERVER", "DATA_DIR"];
        assert_eq!(
            near_misses(names.map(str::to_owned).into_iter()),
            [("RAILGUN_DATADIR".to_owned(), "RAILGUN_DATA_DIR".to_owned())]
        );
    }
}
