//! Who may use this node: static tokens, kept as hashes.

use std::fmt;
use std::str::FromStr;

use railgun_core::command::TokenHash as JoinTokenHash;
use railgun_proto::WireError;
use railgun_types::ErrorCode;
use sha2::{Digest, Sha256};

/// SHA-256 of a token, written `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

/// What a written hash begins with.
const PREFIX: &str = "sha256:";

/// The text is no token hash. The text is not repeated: it may be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a token hash: `sha256:` and 64 hex digits, as `railgun config hash-token` prints, are expected"
)]
pub struct InvalidTokenHash;

impl TokenHash {
    /// The hash under which a token is configured.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(hidden)")
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TokenHash {
    type Err = InvalidTokenHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.trim().strip_prefix(PREFIX).ok_or(InvalidTokenHash)?;
        // Only digits: from_str_radix below would take a sign.
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidTokenHash);
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| InvalidTokenHash)?;
        }
        Ok(Self(hash))
    }
}

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Everything.
    Operator,
    /// Everything but to change the nodes of the cluster, and who leads.
    Client,
    /// Nothing but to ask for a certificate, and with this join token only.
    Join(JoinTokenHash),
}

/// The tokens a node takes; without any of clients, everybody may be one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Auth {
    tokens: Vec<TokenHash>,
    /// Those of operators; without any, clients may do what operators may.
    admin_tokens: Vec<TokenHash>,
}

impl Auth {
    pub(crate) fn new(tokens: Vec<TokenHash>, admin_tokens: Vec<TokenHash>) -> Self {
        Self { tokens, admin_tokens }
    }

    /// What whoever shows this token may do. Compares hashes, so that the time it takes tells nothing
    /// about a token.
    pub(crate) fn check(&self, token: &str) -> Result<Rights, WireError> {
        let hash = TokenHash::of(token);
        if self.admin_tokens.contains(&hash) {
            return Ok(Rights::Operator);
        }
        if self.tokens.is_empty() || self.tokens.contains(&hash) {
            let all_may = self.admin_tokens.is_empty();
            return Ok(if all_may { Rights::Operator } else { Rights::Client });
        }
        let message = match token {
            "" => "this server wants a token: set one in the context or RAILGUN_TOKEN",
            _ => "the token is not one of this server's",
        };
        Err(WireError::new(ErrorCode::Unauthenticated, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_plain_sha256_and_reads_back() {
        // printf 0123456789abcdef | sha256sum
        let expected = "sha256:9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
        let hash = TokenHash::of("0123456789abcdef");
        assert_eq!(hash.to_string(), expected);
        assert_eq!(expected.parse(), Ok(hash));
    }

    #[test]
    fn malformed_hashes_are_refused_without_being_repeated() {
        let hex = "9f".repeat(32);
        for text in [&hex, &hex[..10], &format!("sha256:{hex}0"), &format!("sha256:+{}", &hex[1..])]
        {
            let error = text.parse::<TokenHash>().map_err(|error| error.to_string());
            assert!(error.is_err_and(|error| !error.contains(text)), "{text}");
        }
        let hash = format!("sha256:{hex}").parse::<TokenHash>();
        assert!(
            hash.is_ok_and(|hash| !format!("{hash:?}").contains("9f")),
            "a debug dump hides it"
        );
    }

    #[test]
    fn only_a_configured_token_opens_a_locked_node() {
        let open = Auth::default();
        assert_eq!(open.check(""), Ok(Rights::Operator));
        let locked = Auth::new(vec![TokenHash::of("right")], Vec::new());
        assert_eq!(locked.check("right"), Ok(Rights::Operator));
        for wrong in ["", "wrong", "righ", "right "] {
            let code = locked.check(wrong).map_err(|error| error.code);
            assert_eq!(code, Err(ErrorCode::Unauthenticated.into()), "{wrong}");
        }
    }

    #[test]
    fn where_operators_have_tokens_nobody_else_is_one() {
        let admin = || vec![TokenHash::of("operator")];
        let locked = Auth::new(vec![TokenHash::of("client")], admin());
        assert_eq!(locked.check("operator"), Ok(Rights::Operator));
        assert_eq!(locked.check("client"), Ok(Rights::Client));
        assert!(locked.check("").is_err() && locked.check("neither").is_err());
        let open = Auth::new(Vec::new(), admin());
        assert_eq!(open.check("operator"), Ok(Rights::Operator));
        assert_eq!((open.check(""), open.check("any")), (Ok(Rights::Client), Ok(Rights::Client)));
    }
}
