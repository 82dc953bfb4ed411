use std::{fs, path::PathBuf};

use super::*;

const MACHINE: Machine =
    Machine { cores: 2, disk_bytes: |_| Some(20 << 30), memory_bytes: Some(16 << 30) };

fn dev() -> SettingsArgs {
    SettingsArgs { dev: true, ..SettingsArgs::default() }
}

fn node(listen: &str) -> SettingsArgs {
    SettingsArgs {
        data_dir: Some("/flag/data".into()),
        bucket: Some("s3://logs/prod".to_owned()),
        listen: Some(listen.parse().unwrap()),
        ..SettingsArgs::default()
    }
}

fn resolve(args: &SettingsArgs, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let lookup = |name: &str| {
        environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
    };
    Settings::resolve(args, lookup, MACHINE)
}

fn refused(args: &SettingsArgs, environment: &[(&str, &str)]) -> String {
    resolve(args, environment).unwrap_err().to_string()
}

/// A configuration file that is deleted with the value.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("railgun-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Flag, environment, file and default each win somewhere.
pub(crate) fn settings_of_every_origin() -> Settings {
    let file = ConfigFile::new(
        "origins.toml",
        "data_dir = \"/file/data\"\nbucket = \"file:///file/bucket\"\n[shards]\ncount = 3\n",
    );
    let args = SettingsArgs {
        config: Some(file.0.clone()),
        data_dir: Some("/flag/data".into()),
        ..SettingsArgs::default()
    };
    let token = format!("sha256:{}", "0a".repeat(32));
    let admin_tokens = format!("{token},{token}");
    resolve(
        &args,
        &[
            ("RAILGUN_DATA_DIR", "/env/data"),
            ("RAILGUN_BUCKET", "file:///env/bucket"),
            ("RAILGUN_AUTH_TOKENS", &token),
            ("RAILGUN_AUTH_ADMIN_TOKENS", &admin_tokens),
        ],
    )
    .unwrap()
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let settings = settings_of_every_origin();
    assert_eq!(settings.data_dir.value, PathBuf::from("/flag/data"));
    assert_eq!(settings.data_dir.origin, Origin::Flag);
    assert_eq!(settings.bucket.value, "file:///env/bucket");
    assert_eq!(settings.bucket.origin, Origin::Environment);
    assert_eq!(settings.shards, Sourced { value: 3, origin: Origin::File });
    assert_eq!(settings.listen.origin, Origin::Default);
}

#[test]
fn dev_needs_nothing_and_keeps_the_bucket_in_the_data_directory() {
    let settings = resolve(&dev(), &[]).unwrap();
    assert_eq!(settings.data_dir.value, PathBuf::from("railgun-data"));
    assert_eq!(settings.data_dir.origin, Origin::Dev);
    let working_dir = std::env::current_dir().unwrap();
    let expected = format!("file://{}/railgun-data/bucket", working_dir.display());
    assert_eq!(settings.bucket.value, expected);
    assert_eq!(settings.listen.value.to_string(), "127.0.0.1:7410");
    assert_eq!(settings.http.value.to_string(), "127.0.0.1:7411");

    let moved = SettingsArgs { data_dir: Some("/srv/a b".into()), ..dev() };
    assert_eq!(resolve(&moved, &[]).unwrap().bucket.value, "file:///srv/a%20b/bucket");
}

#[test]
fn outside_dev_the_data_directory_and_the_bucket_must_be_named() {
    let none = SettingsArgs::default();
    assert!(refused(&none, &[]).contains("--data-dir, set RAILGUN_DATA_DIR"));
    assert!(refused(&none, &[("RAILGUN_DATA_DIR", "/d")]).contains("--bucket"));
}

#[test]
fn defaults_follow_the_machine() {
    let on = |cores, disk_bytes| {
        let machine = Machine { cores, disk_bytes, ..MACHINE };
        let settings = Settings::resolve(&dev(), |_| None, machine).unwrap();
        (settings.shards.value, settings.hot_bytes_max.value.0 >> 20)
    };
    assert_eq!(on(2, |_| Some(20 << 30)), (2, 4 << 10), "a fifth of the disk");
    assert_eq!(on(64, |_| Some(1 << 40)), (8, 10 << 10), "at most 8 shards and 10 GiB");
    assert_eq!(on(1, |_| Some(100 << 20)), (1, 64), "at least one log file");
    assert_eq!(on(1, |_| None), (1, 10 << 10));
    let clients = |memory_bytes| {
        let machine = Machine { memory_bytes, ..MACHINE };
        let settings = Settings::resolve(&dev(), |_| None, machine).unwrap();
        settings.clients_bytes_max.value.0 >> 20
    };
    assert_eq!(clients(Some(16 << 30)), 2 << 10, "an eighth of the memory");
    assert_eq!(clients(Some(1 << 40)), 4 << 10, "at most 4 GiB");
    assert_eq!(clients(Some(100 << 20)), 64);
    assert_eq!(clients(None), 1 << 10);
    let connections = |memory_bytes| {
        let machine = Machine { memory_bytes, ..MACHINE };
        Settings::resolve(&dev(), |_| None, machine).unwrap().connections_max.value
    };
    assert_eq!(connections(Some(16 << 30)), 10_000);
    assert_eq!(connections(Some(1 << 30)), 2_048, "each has 16 KiB for frames of its own");
    assert_eq!(connections(Some(100 << 20)), 1_024);
}

#[test]
fn more_connections_than_there_is_memory_for_are_refused() {
    let bytes = ("RAILGUN_CLIENTS_MAX_BYTES", "128MiB");
    resolve(&dev(), &[bytes, ("RAILGUN_CLIENTS_MAX_CONNECTIONS", "2048")]).unwrap();
    let refusal = refused(&dev(), &[bytes, ("RAILGUN_CLIENTS_MAX_CONNECTIONS", "2049")]);
    assert_eq!(
        refusal,
        "`clients.max_connections` is 2049, and `clients.max_bytes` of 128 MiB is enough for 2048: \
         set it to at least 131136 KiB, or allow fewer connections"
    );
    let enough = ("RAILGUN_CLIENTS_MAX_BYTES", "131136KiB");
    resolve(&dev(), &[enough, ("RAILGUN_CLIENTS_MAX_CONNECTIONS", "2049")]).unwrap();
}

#[test]
fn an_address_that_others_reach_needs_a_certificate_and_a_token() {
    let token = format!("sha256:{}", "0a".repeat(32));
    let certificate = [("RAILGUN_TLS_CERT", "node.pem"), ("RAILGUN_TLS_KEY", "node.key")];
    let token = [("RAILGUN_AUTH_TOKENS", token.as_str())];
    let both = [certificate.as_slice(), &token].concat();
    for listen in ["0.0.0.0:7410", "[::]:7410", "192.0.2.1:7410", "[::ffff:192.0.2.1]:1"] {
        let args = node(listen);
        let message = refused(&args, &[]);
        assert!(message.contains(listen) && message.contains("a certificate"), "{message}");
        assert!(message.contains("and a token"), "{message}");
        // With those of operators alone, clients would need none.
        let admin = [("RAILGUN_AUTH_ADMIN_TOKENS", token[0].1)];
        let message = refused(&args, &[certificate.as_slice(), &admin].concat());
        assert!(message.contains("without a token"), "{message}");
        assert!(refused(&args, &certificate).contains("without a token"));
        assert!(refused(&args, &token).contains("without a certificate"));
        resolve(&args, &both).unwrap();
        resolve(&SettingsArgs { dev: true, ..args }, &[]).unwrap();
    }
    for listen in ["127.0.0.1:7410", "127.1.2.3:1", "[::1]:7410", "[::ffff:127.0.0.1]:1"] {
        resolve(&node(listen), &[]).unwrap();
    }
    assert!(
        refused(&node("127.0.0.1:1"), &certificate[..1]).contains("only `tls.cert` is set"),
        "half a certificate is a mistake on any address"
    );
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (name, value, message) in [
        ("RAILGUN_HOT_MAX_BYTES", "1MiB", "`hot.max_bytes` is 1 MiB, outside 64 MiB to"),
        ("RAILGUN_HOT_FILE_BYTES", "1KiB", "`hot.file_bytes` is 1 KiB, outside 1 MiB to 1 GiB"),
        ("RAILGUN_SHARDS_COUNT", "0", "`shards.count` is 0, outside 1 to 64"),
        ("RAILGUN_STREAMS_MAX_COUNT", "0", "`streams.max_count` is 0, outside 1 to 10000000"),
        ("RAILGUN_CLIENTS_MAX_CONNECTIONS", "100001", "is 100001, outside 1 to 100000"),
        (
            "RAILGUN_CLIENTS_MAX_BYTES",
            "1MiB",
            "`clients.max_bytes` is 1 MiB, outside 64 MiB to 1 TiB",
        ),
        ("RAILGUN_COLD_MAX_TIME_TO_COLD", "25h", "is 25h, outside 1s to 24h"),
        ("RAILGUN_LOG_FILTER", "railgun=loud", "`log.filter` is `railgun=loud`"),
    ] {
        let refusal = refused(&dev(), &[(name, value)]);
        assert!(refusal.contains(message), "{refusal}");
    }
}

#[test]
fn buckets_are_urls_without_credentials() {
    for bucket in ["file:///srv/cold", "s3://logs", "s3://logs/a/b", "memory://"] {
        resolve(&dev(), &[("RAILGUN_BUCKET", bucket)]).unwrap();
    }
    for (bucket, reason) in [
        ("/srv/cold", "is not a URL"),
        ("file://srv/cold", "three slashes"),
        ("s3:///prefix", "names no bucket"),
        ("gs://logs", "unknown scheme"),
        ("s3://key:secret@logs", "AWS_ACCESS_KEY_ID"),
        // What the cold tier would refuse at start.
        ("s3://logs?versions", "query"),
        ("s3://logs/a b", "escapes"),
        ("s3://logs:9000", "port"),
    ] {
        let message = refused(&dev(), &[("RAILGUN_BUCKET", bucket)]);
        assert!(message.contains(reason), "{message}");
        assert!(!message.contains("secret@"), "{message}");
    }
}

#[test]
fn the_deployed_example_is_accepted_and_exposes_nothing_by_itself() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/railgun.toml");
    let args = SettingsArgs { config: Some(config.into()), ..SettingsArgs::default() };
    let settings = resolve(&args, &[]).unwrap();
    assert_eq!(settings.listen.value.to_string(), "0.0.0.0:7410");
    assert!(settings.http.value.ip().is_loopback());
    // Whoever forgets to put a token of their own there must not have opened the node.
    assert!(settings.tokens.value.iter().all(|hash| hash.0 == [0; 32]));
    assert!(settings.admin_tokens.value.is_empty());
}

#[test]
fn a_node_of_several_knows_the_others_and_shows_a_certificate() {
    let expect = ("RAILGUN_CLUSTER_BOOTSTRAP_EXPECT", "3");
    let peers = ("RAILGUN_CLUSTER_PEERS", "a:7412,b:7412,127.0.0.1:7412");
    let tls = [
        ("RAILGUN_TLS_CA", "ca.pem"),
        ("RAILGUN_TLS_CERT", "node.pem"),
        ("RAILGUN_TLS_KEY", "node.key"),
    ];
    assert_eq!(resolve(&dev(), &tls).unwrap().cluster().unwrap(), None, "alone");
    assert!(refused(&dev(), &[expect]).contains("`cluster.peers`"));
    assert!(refused(&dev(), &[expect, peers, tls[1], tls[2]]).contains("`tls.ca` is not set"));
    assert!(refused(&dev(), &[("RAILGUN_CLUSTER_BOOTSTRAP_EXPECT", "0")]).contains("outside 1 to"));

    let with = |more: &[(&'static str, &'static str)]| {
        let environment: Vec<_> = [expect, peers].into_iter().chain(tls).collect();
        // What comes first counts.
        resolve(&dev(), &[more, &environment].concat()).and_then(|settings| settings.cluster())
    };
    let cluster = with(&[]).unwrap().unwrap();
    assert_eq!((cluster.bootstrap_expect, cluster.peers.len()), (3, 3));
    assert_eq!(cluster.peer_listen.to_string(), "127.0.0.1:7412");
    assert_eq!(cluster.peer_advertise, "127.0.0.1:7412");
    assert_eq!(cluster.ca, PathBuf::from("ca.pem"));
    assert_eq!(cluster.warnings(), [""; 0]);
    assert_eq!((cluster.replicas, cluster.ca_dir), (3, None));
    let own = [("RAILGUN_SHARDS_REPLICAS", "1"), ("RAILGUN_CLUSTER_CA_DIR", "ca")];
    let cluster = with(&own).unwrap().unwrap();
    assert_eq!((cluster.replicas, cluster.ca_dir), (1, Some(PathBuf::from("ca"))));

    // Found by DNS.
    let srv = ("RAILGUN_CLUSTER_SRV", "railgun.example");
    let server = ("RAILGUN_CLUSTER_DNS_SERVER", "127.0.0.1:5353");
    let found = resolve(&dev(), &[&[expect, srv, server], &tls[..]].concat()).unwrap();
    let found = found.cluster().unwrap().unwrap();
    assert_eq!(found.srv.as_deref(), Some("railgun.example"));
    assert_eq!(found.dns_server, Some("127.0.0.1:5353".parse().unwrap()));
    assert_eq!(found.warnings(), [""; 0]);
    assert!(refused(&dev(), &[server]).contains("`cluster.srv` is not"));

    for (more, told) in [
        (("RAILGUN_CLUSTER_PEERS", "a:7412,b"), "`cluster.peers` has 'b'"),
        (("RAILGUN_CLUSTER_PEER_LISTEN", "0.0.0.0:7412"), "set `cluster.peer_advertise`"),
        (("RAILGUN_CLUSTER_PEER_LISTEN", "127.0.0.1:7410"), "need a port each"),
        (("RAILGUN_CLUSTER_PEER_ADVERTISE", "here"), "`cluster.peer_advertise` has 'here'"),
        (("RAILGUN_ADVERTISE", "here"), "`advertise` has 'here'"),
        (("RAILGUN_LISTEN", "0.0.0.0:7410"), "set `advertise`"),
        (("RAILGUN_LISTEN", "127.0.0.1:0"), "set `advertise`"),
        (("RAILGUN_SHARDS_REPLICAS", "2"), "a shard has 1, 3 or 5"),
        (("RAILGUN_CLUSTER_SRV", "a..b"), "is not a DNS name"),
    ] {
        let refusal = with(&[more]).unwrap_err().to_string();
        assert!(refusal.contains(told), "{refusal}");
    }
    for (more, told) in [
        (("RAILGUN_CLUSTER_BOOTSTRAP_EXPECT", "2"), "a cluster of 1 survives"),
        (("RAILGUN_CLUSTER_BOOTSTRAP_EXPECT", "5"), "names 2 other nodes"),
        (("RAILGUN_SHARDS_REPLICAS", "5"), "under-replicated"),
    ] {
        let warnings = with(&[more]).unwrap().unwrap().warnings();
        assert!(warnings.iter().any(|warning| warning.contains(told)), "{warnings:?}");
    }
}
