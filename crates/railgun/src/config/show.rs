//! The effective settings as a commented configuration file.

use std::fmt::Write as _;

use super::{
    environment::variable_of,
    settings::{Origin, Settings, Sourced},
};

/// One setting as shown.
struct Row {
    key: &'static str,
    /// As TOML; `None` where it is not set.
    value: Option<(String, Origin)>,
}

/// The settings as TOML, each with its origin in a comment and secrets hidden.
pub(crate) fn render(settings: &Settings) -> String {
    let rows = rows(settings);
    let mut page = String::new();
    let mut section = "";
    for row in &rows {
        let (row_section, name) = row.key.split_once('.').unwrap_or(("", row.key));
        if row_section != section {
            section = row_section;
            page.push_str(&format!("\n[{section}]\n"));
        }
        let written = match &row.value {
            Some((value, origin)) => {
                let origin = origin_text(*origin, row.key, settings);
                writeln!(page, "{:<44} # {origin}", format!("{name} = {value}"))
            }
            None => writeln!(page, "{:<44} # not set", format!("# {name} =")),
        };
        written.expect("writing to a String cannot fail");
    }
    page
}

fn rows(settings: &Settings) -> Vec<Row> {
    let path = |path: &Sourced<std::path::PathBuf>| (text(&path.value.display()), path.origin);
    let named = |name: &Sourced<String>| (text(&name.value), name.origin);
    // Hashes cannot be turned back, but weak tokens can be found from them.
    let hidden = |tokens: &Vec<_>| format!("[{}]", vec![r#""hidden""#; tokens.len()].join(", "));
    vec![
        Row { key: "data_dir", value: Some(path(&settings.data_dir)) },
        row("bucket", &settings.bucket, text),
        row("listen", &settings.listen, text),
        Row { key: "advertise", value: settings.advertise.as_ref().map(named) },
        row("http", &settings.http, text),
        Row { key: "tls.ca", value: settings.tls_ca.as_ref().map(path) },
        Row { key: "tls.cert", value: settings.tls_cert.as_ref().map(path) },
        Row { key: "tls.key", value: settings.tls_key.as_ref().map(path) },
        row("auth.tokens", &settings.tokens, hidden),
        row("auth.admin_tokens", &settings.admin_tokens, hidden),
        row("hot.max_bytes", &settings.hot_bytes_max, text),
        row("hot.file_bytes", &settings.hot_file_bytes, text),
        row("shards.count", &settings.shards, u32::to_string),
        row("shards.replicas", &settings.replicas, u32::to_string),
        row("cluster.bootstrap_expect", &settings.bootstrap_expect, u32::to_string),
        row("cluster.peers", &settings.peers, |peers| toml::Value::from(peers.clone()).to_string()),
        Row { key: "cluster.srv", value: settings.srv.as_ref().map(named) },
        Row {
            key: "cluster.dns_server",
            value: settings.dns_server.as_ref().map(|at| (text(&at.value), at.origin)),
        },
        row("cluster.peer_listen", &settings.peer_listen, text),
        Row { key: "cluster.peer_advertise", value: settings.peer_advertise.as_ref().map(named) },
        Row { key: "cluster.ca_dir", value: settings.ca_dir.as_ref().map(path) },
        row("cpu.keep_awake", &settings.keep_awake, bool::to_string),
        row("streams.max_count", &settings.streams_max, u32::to_string),
        row("clients.max_connections", &settings.connections_max, u32::to_string),
        row("clients.max_bytes", &settings.clients_bytes_max, text),
        row("cold.max_time_to_cold", &settings.max_time_to_cold, text),
        row("log.format", &settings.log_format, |format| text(format.name())),
        row("log.filter", &settings.log_filter, text),
    ]
}

fn row<T>(key: &'static str, setting: &Sourced<T>, toml: impl FnOnce(&T) -> String) -> Row {
    Row { key, value: Some((toml(&setting.value), setting.origin)) }
}

/// A TOML string.
fn text<T: ToString + ?Sized>(value: &T) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn origin_text(origin: Origin, key: &str, settings: &Settings) -> String {
    match origin {
        Origin::Flag => "flag".to_owned(),
        Origin::Environment => format!("env {}", variable_of(key)),
        Origin::File => match &settings.config {
            Some(path) => format!("file {}", path.display()),
            None => "file".to_owned(),
        },
        Origin::Dev => "--dev".to_owned(),
        Origin::Default => "default".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{layer::KEYS, settings::tests::settings_of_every_origin};

    #[test]
    fn every_key_is_shown_once_with_its_origin_and_no_secret() {
        let settings = settings_of_every_origin();
        let keys: Vec<_> = rows(&settings).iter().map(|row| row.key).collect();
        assert_eq!(keys, KEYS);
        let page = render(&settings);
        for line in [
            r#"data_dir = "/flag/data"                      # flag"#,
            r#"bucket = "file:///env/bucket"                # env RAILGUN_BUCKET"#,
            r#"listen = "127.0.0.1:7410"                    # default"#,
            r#"tokens = ["hidden"]                          # env RAILGUN_AUTH_TOKENS"#,
            r#"admin_tokens = ["hidden", "hidden"]          # env RAILGUN_AUTH_ADMIN_TOKENS"#,
            "# cert =                                     # not set",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line}\nis not in\n{page}");
        }
        assert!(page.contains("count = 3                                    # file "), "{page}");
        assert!(!page.contains("sha256"), "{page}");
        toml::from_str::<toml::Table>(&page).expect("what is shown is TOML");
    }
}
