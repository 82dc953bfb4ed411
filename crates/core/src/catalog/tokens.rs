//! Join tokens: each lets one node in, once.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use railgun_types::limits::JOIN_TOKENS;
use railgun_types::{ByteCursor, Malformed, NodeUid, Timestamp};

use super::CatalogOutcome;
use crate::codec::{self, map, put_list};
use crate::command::TokenHash;

/// What a join token was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenVerdict {
    /// The node may join; nobody else by this token.
    Accepted = 1,
    /// The same node was accepted by it before: its answer was lost.
    Repeated = 2,
    /// Another node has joined by it.
    Used = 3,
    /// Its time is over.
    Expired = 4,
    /// It was never given out by this cluster, or expired long ago.
    Unknown = 5,
}

impl TokenVerdict {
    /// Whether the node may join.
    #[must_use]
    pub fn lets_in(self) -> bool {
        matches!(self, Self::Accepted | Self::Repeated)
    }

    pub(super) fn from_u8(verdict: u8) -> Option<Self> {
        [Self::Accepted, Self::Repeated, Self::Used, Self::Expired, Self::Unknown]
            .into_iter()
            .find(|known| *known as u8 == verdict)
    }
}

/// How long after its time a token is known to have expired, in µs of log time: whoever comes late is
/// told why.
const KEPT_US: i64 = 24 * 3_600 * 1_000_000;

/// Fewest bytes of a token in a checkpoint.
const TOKEN_BYTES_MIN: usize = 41;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    expires: Timestamp,
    used_by: Option<NodeUid>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    by_hash: BTreeMap<TokenHash, Token>,
}

impl Tokens {
    /// Keeps a token. The first one of a hash counts. Where there is no room, expired ones go, then
    /// used ones: their nodes have joined long since.
    pub(super) fn add(
        &mut self,
        now: Timestamp,
        hash: TokenHash,
        expires: Timestamp,
    ) -> CatalogOutcome {
        self.forget(now);
        if self.by_hash.contains_key(&hash) {
            return CatalogOutcome::TokenKept;
        }
        if self.by_hash.len() >= JOIN_TOKENS {
            self.by_hash.retain(|_, token| token.expires >= now);
        }
        if self.by_hash.len() >= JOIN_TOKENS {
            self.by_hash.retain(|_, token| token.used_by.is_none());
        }
        if self.by_hash.len() >= JOIN_TOKENS {
            return CatalogOutcome::TooManyTokens;
        }
        self.by_hash.insert(hash, Token { expires, used_by: None });
        CatalogOutcome::TokenKept
    }

    /// Spends a token.
    pub(super) fn spend(&mut self, now: Timestamp, hash: TokenHash, uid: NodeUid) -> TokenVerdict {
        self.forget(now);
        let verdict = self.worth(now, &hash, uid);
        if verdict == TokenVerdict::Accepted
            && let Some(token) = self.by_hash.get_mut(&hash)
        {
            token.used_by = Some(uid);
        }
        verdict
    }

    /// What a token would be worth for a node. One that has expired is worth nothing to who used it, either.
    pub(super) fn worth(&self, now: Timestamp, hash: &TokenHash, uid: NodeUid) -> TokenVerdict {
        let Some(token) = self.by_hash.get(hash) else { return TokenVerdict::Unknown };
        match token.used_by {
            _ if token.expires < now => TokenVerdict::Expired,
            Some(by) if by == uid => TokenVerdict::Repeated,
            Some(_) => TokenVerdict::Used,
            None => TokenVerdict::Accepted,
        }
    }

    pub(super) fn knows(&self, hash: &TokenHash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// Forgets what expired long ago.
    fn forget(&mut self, now: Timestamp) {
        self.by_hash.retain(|_, token| now.since_us(token.expires) <= KEPT_US);
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_list(out, self.by_hash.iter(), |out, (hash, token)| {
            let Token { expires, used_by } = token;
            out.put_slice(hash);
            out.put_i64_le(expires.0);
            codec::put_option(out, *used_by, |out, uid| out.put_slice(&uid.0));
        });
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let by_hash = map(cursor, TOKEN_BYTES_MIN, |cursor| {
            let hash = cursor.array()?;
            let expires = Timestamp(cursor.i64()?);
            let used_by = codec::option(cursor, ByteCursor::array)?.map(NodeUid);
            Ok((hash, Token { expires, used_by }))
        })?;
        Ok(Self { by_hash })
    }
}
