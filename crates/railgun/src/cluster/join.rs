//! `railgun cluster join-token` and `join`: how a new node gets its certificate.

use std::path::Path;

use railgun_client::{
    AdminError, Client, ClientOptions, ConnectError, ErrorCode, JoinToken, SignedNode,
    TransportError,
};
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

/// Why there is no certificate.
enum Unsigned {
    /// Nobody was asked.
    NotAsked(Failure),
    /// It was refused for good, and the token is worth nothing or was not used.
    Refused(Failure),
    /// It may have been signed, and the token used up for it.
    Unknown(Failure),
}

/// Makes a key here, has its certificate signed, and writes both with the cluster's CA. Goes on with the
/// key of an earlier attempt of which nobody knows whether the token was used up for it.
pub(super) async fn join(server: &ServerArgs, out: &Path, hosts: Vec<String>) -> CommandResult {
    let (server, token) = server_and_token(server)?;
    let hosts = match hosts.is_empty() {
        true => vec![rustix::system::uname().nodename().to_string_lossy().into_owned()],
        false => hosts,
    };
    let (files, kept) = NodeFiles::joining_in(out, &hosts)?;
    let is_kept = kept.is_some();
    let request = match kept {
        Some(request) => request,
        None => {
            let request = NodeRequest::new().map_err(|error| explain_ca(error, out))?;
            // First: a token must not be used up by what cannot be kept.
            files.begin(&request, &hosts)?;
            request
        }
    };
    let signed = match sign(&server, &token, &request, &hosts).await {
        Ok(signed) => signed,
        Err(unsigned) => {
            let failure = match unsigned {
                Unsigned::NotAsked(failure) if is_kept => failure,
                Unsigned::NotAsked(failure) | Unsigned::Refused(failure) => {
                    files.give_up();
                    failure
                }
                Unsigned::Unknown(failure) => failure.next(format!(
                    "the same again, which goes on with the key in {}",
                    files.key.display()
                )),
            };
            return Err(failure.or_at(&server));
        }
    };
    files.write_signed(&signed.chain_pem, &signed.ca_pem)?;
    let NodeFiles { certificate, key, root, .. } = &files;
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
) -> Result<SignedNode, Unsigned> {
    let mut options = ClientOptions::new(server);
    options.ca_sha256 = Some(token.ca_sha256);
    options.token = Some(token.to_string());
    options.name = concat!("railgun-cli/", env!("CARGO_PKG_VERSION")).to_owned();
    let connected = Client::connect(options).await;
    let client = connected.map_err(|error| match &error {
        ConnectError::Refused { error: refused, .. } if is_final(refused.code) => {
            Unsigned::Refused(not_connected(&error))
        }
        _ => Unsigned::NotAsked(not_connected(&error)),
    })?;
    let interrupted = close_on_signals(&client);
    let signed = client.admin().sign_node(token, &request.csr_pem, hosts).await;
    interrupted.or_never().await;
    client.close().await;
    signed.map_err(|error| match &error {
        AdminError::Refused(refused) if is_final(refused.code) => {
            Unsigned::Refused(explain::admin(&error, None))
        }
        _ => Unsigned::Unknown(explain::admin(&error, None)),
    })
}

/// Whether no repetition of the request can be signed any more, with this token.
fn is_final(code: impl PartialEq<ErrorCode>) -> bool {
    code == ErrorCode::TokenExpired || code == ErrorCode::InvalidName
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
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    }

    /// Joins by a server that nobody can connect to.
    fn joins(out: &Path, host: &str) -> Failure {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let args = ["railgun", "--server", "127.0.0.1:1", "--token"];
        let token = format!("rgj1.{}.{}", "00".repeat(32), "00".repeat(32));
        let server = crate::server::ServerArgs::parsed(args.into_iter().chain([&*token]));
        runtime.block_on(join(&server, out, vec![host.to_owned()])).unwrap_err()
    }

    #[test]
    fn a_key_that_may_have_been_signed_for_is_kept_and_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        let hosts = ["n4".to_owned()];
        let (files, kept) = NodeFiles::joining_in(out, &hosts).unwrap();
        assert_eq!(kept, None);
        let request = NodeRequest::new().unwrap();
        files.begin(&request, &hosts).unwrap();
        // The process dies here.
        let failure = joins(out, "n4");
        assert_eq!(failure.exit(), Exit::CannotConnect, "{failure}");
        let (_, kept) = NodeFiles::joining_in(out, &hosts).unwrap();
        assert_eq!(kept, Some(request.clone()), "the token may have been used up for it");
        let failure = joins(out, "n5");
        assert!(failure.to_string().contains("already, for n4, and may have been"), "{failure}");
        assert!(failure.to_string().contains("--host n4"), "{failure}");
        // Half of what is signed for was written.
        std::fs::write(&files.root, "of the cluster").unwrap();
        files.write_signed("signed", "of the cluster").unwrap();
        assert_eq!(std::fs::read_to_string(&files.certificate).unwrap(), "signed");
        assert!(joins(out, "n4").to_string().contains("node.pem is there already"));
        // Whose key this is, nobody knows: there is no request any more.
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(joins(out, "n4").to_string().contains("node-key.pem is there already"));
        assert_eq!(std::fs::read_to_string(&files.key).unwrap(), request.key_pem);
    }

    #[test]
    fn a_request_without_its_key_is_made_anew_and_one_with_another_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = ["n4".to_owned()];
        let (files, _) = NodeFiles::joining_in(dir.path(), &hosts).unwrap();
        let (request, other) = (NodeRequest::new().unwrap(), NodeRequest::new().unwrap());
        files.begin(&request, &hosts).unwrap();
        std::fs::write(&files.key, &other.key_pem).unwrap();
        let failure = NodeFiles::joining_in(dir.path(), &hosts).unwrap_err();
        assert!(failure.to_string().contains("for another key"), "{failure}");
        std::fs::remove_file(&files.key).unwrap();
        assert_eq!(NodeFiles::joining_in(dir.path(), &hosts).unwrap().1, None);
        files.begin(&other, &hosts).unwrap();
        assert_eq!(NodeFiles::joining_in(dir.path(), &hosts).unwrap().1, Some(other));
    }
}
