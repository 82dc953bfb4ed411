//! Access tokens as the configuration keeps them: hashed.

use railgun_broker::TokenHash;
use serde::{Deserialize, Deserializer, de};

/// Fewest bytes of a token. The hash has no salt and no work factor, so the token itself must be
/// beyond guessing.
pub(crate) const TOKEN_BYTES_MIN: usize = 16;

/// The token is too short to be safe.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token has {bytes} bytes, fewer than {TOKEN_BYTES_MIN}")]
pub(crate) struct TokenTooShort {
    bytes: usize,
}

/// The hash to put into a configuration.
///
/// # Errors
///
/// [`TokenTooShort`] under [`TOKEN_BYTES_MIN`] bytes.
pub(crate) fn hash(token: &str) -> Result<TokenHash, TokenTooShort> {
    if token.len() < TOKEN_BYTES_MIN {
        return Err(TokenTooShort { bytes: token.len() });
    }
    Ok(TokenHash::of(token))
}

/// Reads the list in a configuration file.
pub(crate) fn list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<TokenHash>>, D::Error> {
    let written = Vec::<String>::deserialize(deserializer)?;
    let hashes = written.iter().map(|text| text.parse().map_err(de::Error::custom));
    hashes.collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_can_be_guessed_are_refused() {
        assert_eq!(hash("0123456789abcde"), Err(TokenTooShort { bytes: 15 }));
        assert_eq!(hash("0123456789abcdef"), Ok(TokenHash::of("0123456789abcdef")));
    }
}
