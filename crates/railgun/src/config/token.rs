//! Access tokens as the configuration keeps them: hashed.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Fewest bytes of a token. The hash has no salt and no work factor, so the token itself must be
/// beyond guessing.
pub(crate) const TOKEN_BYTES_MIN: usize = 16;

const PREFIX: &str = "sha256:";

/// SHA-256 of an access token, written `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct TokenHash([u8; 32]);

/// The text is no token hash. The text is not repeated: it may be a token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a token hash: `sha256:` and 64 hex digits, as `railgun config hash-token` prints, are expected"
)]
pub(crate) struct TokenHashError;

/// The token is too short to be safe.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token has {bytes} bytes, fewer than {TOKEN_BYTES_MIN}")]
pub(crate) struct TokenTooShort {
    bytes: usize,
}

impl TokenHash {
    /// The hash of `token`.
    ///
    /// # Errors
    ///
    /// [`TokenTooShort`] under [`TOKEN_BYTES_MIN`] bytes.
    pub(crate) fn of(token: &str) -> Result<Self, TokenTooShort> {
        if token.len() < TOKEN_BYTES_MIN {
            return Err(TokenTooShort { bytes: token.len() });
        }
        Ok(Self(Sha256::digest(token.as_bytes()).into()))
    }

    /// The 32 bytes of the hash.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(hidden)")
    }
}

impl FromStr for TokenHash {
    type Err = TokenHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.trim().strip_prefix(PREFIX).ok_or(TokenHashError)?;
        // Only digits: from_str_radix below would take a sign.
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenHashError);
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| TokenHashError)?;
        }
        Ok(Self(hash))
    }
}

impl TryFrom<String> for TokenHash {
    type Error = TokenHashError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_plain_sha256_and_reads_back() {
        // printf 0123456789abcdef | sha256sum
        let expected = "sha256:9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
        let hash = TokenHash::of("0123456789abcdef").unwrap();
        assert_eq!(hash.to_string(), expected);
        assert_eq!(expected.parse(), Ok(hash));
    }

    #[test]
    fn short_tokens_and_malformed_hashes_are_refused_without_being_repeated() {
        assert_eq!(TokenHash::of("0123456789abcde"), Err(TokenTooShort { bytes: 15 }));
        let hex = "9f".repeat(32);
        for text in [&hex, &hex[..10], &format!("sha256:{hex}0"), &format!("sha256:+{}", &hex[1..])]
        {
            let error = text.parse::<TokenHash>().unwrap_err();
            assert!(!error.to_string().contains(text), "{error}");
        }
        let hash: TokenHash = format!("sha256:{hex}").parse().unwrap();
        assert!(!format!("{hash:?}").contains("9f"), "a debug dump hides it");
    }
}
