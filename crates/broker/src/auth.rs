//! Who may use this node: static tokens, kept as hashes.

use railgun_proto::WireError;
use railgun_types::ErrorCode;
use sha2::{Digest, Sha256};

/// SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash under which a token is configured.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// The tokens a node takes; without any, everybody may.
#[derive(Clone, Debug, Default)]
pub(crate) struct Auth {
    tokens: Vec<TokenHash>,
}

impl Auth {
    pub(crate) fn new(tokens: Vec<TokenHash>) -> Self {
        Self { tokens }
    }

    /// Compares hashes, so that the time it takes tells nothing about a token.
    pub(crate) fn check(&self, token: &str) -> Result<(), WireError> {
        if self.tokens.is_empty() || self.tokens.contains(&TokenHash::of(token)) {
            return Ok(());
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
    fn only_a_configured_token_opens_a_locked_node() {
        let open = Auth::default();
        assert!(open.check("").is_ok());
        let locked = Auth::new(vec![TokenHash::of("right")]);
        assert!(locked.check("right").is_ok());
        for wrong in ["", "wrong", "righ", "right "] {
            let code = locked.check(wrong).map_err(|error| error.code);
            assert_eq!(code, Err(ErrorCode::Unauthenticated.into()), "{wrong}");
        }
    }
}
