//! `railgun cluster join-token` and `join`: how a new node gets its certificate.

use std::fs;
use std::path::Path;

use railgun_client::{Client, ClientOptions, ConnectError, JoinToken, SignedNode, TransportError};
use railgun_net::tls::NodeRequest;

use super::certificates::{NodeFiles, explain as explain_ca};
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::interrupt::close_on_signals;
use crate::output::format::rfc3339;
use crate::output::table::print;
use crate::server::ServerArgs;
use crate::span::Span;

/// Makes a token and prints it, the only time that it is seen.
pub(super) async fn make_token(client: &Client, valid_for: Span) -> CommandResult {
    let made = client.admin().make_join_token(Some(valid_for.0)).await;
    let made = made.map_err(|error| explain::admin(&error, None))?;
    // Its text alone on standard output, so that a script can take it.
    eprintln!(
        "good for one node, until {}; on that machine: railgun cluster join --server {} --token TOKEN \
         --out DIR",
        rfc3339(made.expires.0),
        client.server().unwrap_or_else(|| "HOST:PORT".to_owned()),
    );
    print(&format!("{}\n", made.token))
}

/// Makes a key here, has its certificate signed, and writes both with the cluster's CA.
pub(super) async fn join(server: &ServerArgs, out: &Path, hosts: Vec<String>) -> CommandResult {
    let (server, token) = server_and_token(server)?;
    let hosts = match hosts.is_empty() {
        true => vec![rustix::system::uname().nodename().to_string_lossy().into_owned()],
        false => hosts,
    };
    let request = NodeRequest::new().map_err(|error| explain_ca(error, out))?;
    let files = NodeFiles::new_in(out)?;
    files.root_is_free()?;
    // First: a token must not be used up by what cannot be kept.
    files.write_key(&request.key_pem)?;
    let signed = sign(&server, &token, &request, &hosts).await;
    let signed = match signed {
        Ok(signed) => signed,
        Err(failure) => {
            // Nobody has signed for this key.
            fs::remove_file(&files.key).ok();
            return Err(failure.or_at(&server));
        }
    };
    files.write_signed(&signed.chain_pem, &signed.ca_pem)?;
    let NodeFiles { certificate, key, root } = &files;
    print(&format!(
        "{}: made for {}; key in {}, the cluster's CA in {}\n",
        certificate.display(),
        hosts.join(", "),
        key.display(),
        root.display(),
    ))
}

/// Both are flags that every command has; here they are needed.
fn server_and_token(args: &ServerArgs) -> Result<(String, JoinToken), Failure> {
    let (server, ca, token) = args.parts();
    if ca.is_some() {
        let what = "--ca means nothing to this command: the token says which CA is believed";
        return Err(Failure::new(Exit::Usage, what).next("the same without --ca"));
    }
    let missing = |flag: &str| {
        Failure::new(Exit::Usage, format!("{flag} is missing"))
            .next("railgun cluster join --server HOST:PORT --token TOKEN --out DIR")
    };
    let server = server.ok_or_else(|| missing("--server, the address of a node for clients,"))?;
    let token = token.ok_or_else(|| missing("--token, made by `railgun cluster join-token`,"))?;
    let token = token.parse::<JoinToken>().map_err(|error| {
        Failure::new(Exit::Usage, error.to_string()).next("railgun cluster join-token")
    })?;
    Ok((server.to_owned(), token))
}

async fn sign(
    server: &str,
    token: &JoinToken,
    request: &NodeRequest,
    hosts: &[String],
) -> Result<SignedNode, Failure> {
    let mut options = ClientOptions::new(server);
    options.ca_sha256 = Some(token.ca_sha256);
    options.token = Some(token.to_string());
    options.name = concat!("railgun-cli/", env!("CARGO_PKG_VERSION")).to_owned();
    let client = Client::connect(options).await.map_err(|error| not_connected(&error))?;
    let interrupted = close_on_signals(&client);
    let signed = client.admin().sign_node(token, &request.csr_pem, hosts).await;
    interrupted.or_never().await;
    client.close().await;
    signed.map_err(|error| explain::admin(&error, None))
}

fn not_connected(error: &ConnectError) -> Failure {
    let failure = explain::connect(error);
    match error {
        ConnectError::Transport(source)
            if matches!(**source, TransportError::UntrustedCertificate { .. }) =>
        {
            failure.next(
                "railgun cluster join-token on that cluster, if the token is another's; and name the \
                 server as its certificate does",
            )
        }
        ConnectError::Refused { error, .. } => explain::wire(error, None),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_before_anything_is_done() {
        let failure = server_and_token(&ServerArgs::default()).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("--server"), "{failure}");
    }

    #[test]
    fn a_node_that_is_not_signed_keeps_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("tls");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let args = ["railgun", "--server", "127.0.0.1:1", "--token"];
        let token = format!("rgj1.{}.{}", "00".repeat(32), "00".repeat(32));
        let server = crate::server::ServerArgs::parsed(args.into_iter().chain([&*token]));
        let failure = runtime.block_on(join(&server, &out, vec!["n4".to_owned()])).unwrap_err();
        assert_eq!(failure.exit(), Exit::CannotConnect, "{failure}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    }
}
