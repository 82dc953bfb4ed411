//! How a new node gets its certificate (CL-2): an operator has a token made, which is good for one node,
//! and whichever node has the key of the cluster's authority signs for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use railgun_core::catalog::{CatalogOutcome, TokenVerdict};
use railgun_core::command::{CatalogCommand, TokenHash};
use railgun_net::tls::{ClusterCa, ClusterCaError, NODE_VALID_FOR};
use railgun_proto::{WireError, v1};
use railgun_types::{ErrorCode, JOIN_TOKEN_PREFIX, NodeUid, ShardId, Timestamp};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::cluster_admin::ClusterAdmin;
use crate::entropy::Entropy;
use crate::routing::Routing;
use crate::wire_error::change_failure;

/// How long a token is good unless it is said otherwise, and at the least and most.
const VALID_FOR: Duration = Duration::from_secs(3_600);
const VALID_FOR_MIN: Duration = Duration::from_secs(1);
const VALID_FOR_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Names of one certificate, and bytes of each.
const HOSTS_MAX: usize = 32;
const HOST_BYTES_MAX: usize = 253;
/// How long who comes with a token that is not known here waits until this node is up to date.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the node that has the key may take.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a node needs to give out tokens, and to sign where it has the key.
#[derive(Clone, Debug)]
pub(crate) struct Registrar {
    pub(crate) ca: Option<Arc<ClusterCa>>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl ClusterAdmin {
    /// Makes a token by which one node gets a certificate. Only its hash is kept.
    pub(crate) async fn make_join_token(
        &self,
        make: v1::MakeJoinToken,
    ) -> Result<v1::JoinToken, WireError> {
        let valid_for = match make.valid_for_ms {
            0 => VALID_FOR,
            ms => Duration::from_millis(ms).clamp(VALID_FOR_MIN, VALID_FOR_MAX),
        };
        let ca_sha256 = match &self.registrar.ca {
            Some(ca) => fingerprint(ca),
            // Else the token would be worth nothing.
            None => self.signers().await.into_iter().next().ok_or_else(no_authority)?.1,
        };
        let secret = [self.registrar.entropy.uid(), self.registrar.entropy.uid()].concat();
        let now = self.registrar.clock.now();
        let expires = Timestamp(now.0.saturating_add(valid_for.as_micros() as i64));
        let add = CatalogCommand::AddToken { hash: hash(&secret), expires };
        match self.routing.change(add).await.map_err(change_failure)? {
            CatalogOutcome::TokenKept => {
                Ok(v1::JoinToken { secret: secret.into(), expires_us: expires.0, ca_sha256 })
            }
            CatalogOutcome::TooManyTokens => {
                let message =
                    "as many join tokens as there can be wait to be used: let some expire";
                Err(WireError::new(ErrorCode::QuotaExceeded, message)
                    .with_retry(railgun_types::Retry::Never))
            }
            other => {
                let message = format!("the catalog answered {other:?}");
                Err(WireError::new(ErrorCode::Internal, message))
            }
        }
    }

    /// Has the certificate of a node signed, by whichever node has the key.
    pub(crate) async fn sign_node(&self, sign: v1::SignNode) -> Result<v1::NodeSigned, WireError> {
        if let Some(ca) = &self.registrar.ca {
            return sign_here(&self.routing, ca, &sign).await;
        }
        let Some(others) = &self.routing.others else { return Err(no_authority()) };
        let mut failed = no_authority();
        for (address, _) in self.signers().await {
            let call = v1::peer_call::Call::Sign(sign.clone());
            let signed = others.peers.call(&address, call, Bytes::new());
            let answer = match timeout(SIGN_TIMEOUT, signed).await {
                Ok(Ok((v1::peer_reply::Answer::CertificateSigned(answer), _))) => answer,
                Ok(_) | Err(_) => {
                    let message = "the node that has the key of the cluster's CA does not answer";
                    failed = WireError::new(ErrorCode::Unavailable, message);
                    continue;
                }
            };
            match (answer.signed, answer.error) {
                (Some(signed), _) => return Ok(signed),
                (None, Some(error)) => return Err(error.into()),
                (None, None) => {}
            }
        }
        Err(failed)
    }

    /// With what somebody who has no other token may ask for a certificate: the token is one of ours, used
    /// and expired ones included, for a day.
    pub(crate) async fn knows_join_token(&self, token: &str) -> Option<TokenHash> {
        let hash = hash(&secret_of(token)?);
        if self.catalog.knows_token(hash).await.unwrap_or(false) {
            return Some(hash);
        }
        // It may have been made a moment ago, on another node.
        let catch_up = self.routing.catch_up(railgun_types::ShardId::CATALOG);
        timeout(CATCH_UP_TIMEOUT, catch_up).await.ok();
        self.catalog.knows_token(hash).await.unwrap_or(false).then_some(hash)
    }
}

/// Signs, if the token is worth it, which it is once. What cannot be signed does not use it up.
pub(crate) async fn sign_here(
    routing: &Routing,
    ca: &ClusterCa,
    sign: &v1::SignNode,
) -> Result<v1::NodeSigned, WireError> {
    if sign.hosts.len() > HOSTS_MAX || sign.hosts.iter().any(|it| it.len() > HOST_BYTES_MAX) {
        let message =
            format!("a node's certificate has at most {HOSTS_MAX} names of {HOST_BYTES_MAX} bytes");
        return Err(WireError::new(ErrorCode::InvalidName, message));
    }
    // The same request again, because its answer was lost, is the same node.
    let (token, uid) = (hash(&sign.secret), request_uid(sign));
    let here = routing.on_node.borrow().get(&ShardId::CATALOG).cloned();
    if let Some(catalog) = here.as_ref().and_then(|here| here.catalog())
        && let Ok(verdict @ (TokenVerdict::Used | TokenVerdict::Expired)) =
            catalog.token_worth(token, uid).await
    {
        // It never is worth more again: nothing needs to be signed.
        return Err(worthless(verdict));
    }
    let signed = ca.sign_request(&sign.csr_pem, &sign.hosts, NODE_VALID_FOR);
    let chain_pem = signed.map_err(|error| {
        let code = match error {
            ClusterCaError::NoHosts | ClusterCaError::Issue { .. } => ErrorCode::InvalidName,
            _ => ErrorCode::ProtocolViolation,
        };
        WireError::new(code, error.to_string())
    })?;
    let spend = CatalogCommand::UseToken { hash: token, uid };
    match routing.change(spend).await.map_err(change_failure)? {
        CatalogOutcome::Token(verdict) if verdict.lets_in() => {
            Ok(v1::NodeSigned { chain_pem, ca_pem: ca.pem().to_owned() })
        }
        CatalogOutcome::Token(verdict) => Err(worthless(verdict)),
        other => {
            let message = format!("the catalog answered {other:?}");
            Err(WireError::new(ErrorCode::Internal, message))
        }
    }
}

/// Whom a certificate is asked for: this key under these names.
fn request_uid(sign: &v1::SignNode) -> NodeUid {
    let mut digest = Sha256::new();
    for part in std::iter::once(&sign.csr_pem).chain(&sign.hosts) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    NodeUid(std::array::from_fn(|at| digest[at]))
}

/// What is said of a token that lets nobody in.
fn worthless(verdict: TokenVerdict) -> WireError {
    let message = match verdict {
        TokenVerdict::Used => {
            "the join token was used already: it lets one node in, under the names first asked for"
        }
        TokenVerdict::Expired => "the join token has expired",
        _ => "the join token is none of this cluster, or expired long ago",
    };
    WireError::new(ErrorCode::TokenExpired, message)
}

/// SHA-256 of the authority's certificate.
pub(crate) fn fingerprint(ca: &ClusterCa) -> Bytes {
    from_hex(ca.fingerprint()).unwrap_or_default().into()
}

fn no_authority() -> WireError {
    let message = "no node of the cluster that answers has the key of its CA: set `cluster.ca_dir` on one \
                   node to the directory of `railgun cluster init-ca`, and restart it; or make the \
                   certificate there with `railgun cluster issue-node`";
    WireError::new(ErrorCode::NoAuthority, message)
}

pub(crate) fn hash(secret: &[u8]) -> TokenHash {
    Sha256::digest(secret).into()
}

/// The secret in a written token.
fn secret_of(token: &str) -> Option<Vec<u8>> {
    let (secret, _) = token.strip_prefix(JOIN_TOKEN_PREFIX)?.split_once('.')?;
    from_hex(secret).filter(|secret| secret.len() == 32)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_token_has_its_secret() {
        let digits = "0f".repeat(32);
        let token = format!("{JOIN_TOKEN_PREFIX}{digits}.{digits}");
        assert_eq!(secret_of(&token), Some(vec![0x0f; 32]));
        for wrong in ["", "rgj1.", "rgj1.0f.0f", &digits, &token[1..], &token.replace('0', "ä")] {
            assert_eq!(secret_of(wrong), None, "{wrong}");
        }
    }
}
