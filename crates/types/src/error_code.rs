//! Every error a client can meet, as a number that never changes meaning, and what to do about it.

use std::fmt;
use std::time::Duration;

/// What the receiver of an error may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail again: change it first.
    Never,
    /// Repeat at once.
    Now,
    /// Repeat after this long at the earliest.
    After(Duration),
    /// Repeat when a leader is known; the error may carry a hint.
    OnNewLeader,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $retry:expr;)*) => {
        /// An error on the wire. Numbers are fixed for ever; clients treat unknown ones by the
        /// `Retry` hint sent beside them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl ErrorCode {
            /// Every code, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code of this number, if this version knows it.
            #[must_use]
            pub fn from_u32(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name, as users see it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The default hint; a server may send a more exact one.
            #[must_use]
            pub fn retry(self) -> Retry {
                match self {
                    $(Self::$name => $retry,)*
                }
            }
        }
    };
}

const SOON: Retry = Retry::After(Duration::from_millis(100));
const LATER: Retry = Retry::After(Duration::from_secs(1));

error_codes! {
    /// A frame that the protocol does not allow here, cut short, or of an unknown kind.
    ProtocolViolation = 100, Retry::Never;
    /// No common protocol version.
    UnsupportedVersion = 101, Retry::Never;
    /// The server wants a token, or the one given is wrong.
    Unauthenticated = 102, Retry::Never;
    /// The token does not allow this.
    Unauthorized = 103, Retry::Never;
    /// A frame longer than its kind allows.
    FrameTooLarge = 104, Retry::Never;
    /// The server is shutting down or full: connect to another node.
    GoingAway = 105, Retry::Now;

    /// No stream of this name.
    StreamNotFound = 200, Retry::Never;
    /// The stream's creation is under way.
    StreamStarting = 201, SOON;
    /// The stream was deleted while in use.
    StreamDeleted = 202, Retry::Never;
    /// The stream is of another kind.
    KindMismatch = 203, Retry::Never;
    /// A name that breaks the rules.
    InvalidName = 204, Retry::Never;
    /// A specification with an unknown or impossible value.
    InvalidSpec = 205, Retry::Never;
    /// A field that can never change was asked to.
    ImmutableField = 206, Retry::Never;
    /// The change would lose data and was not allowed explicitly.
    DestructiveChange = 207, Retry::Never;
    /// The stream's revision is not the expected one.
    RevisionConflict = 208, Retry::Never;
    /// The cluster cannot do this yet: not all nodes are new enough.
    FeatureLevel = 209, Retry::Never;
    /// The stream has no group of this name.
    GroupNotFound = 210, Retry::Never;
    /// The group has members, and this would take from them what they have.
    GroupInUse = 211, Retry::Never;
    /// The group is of the other mode.
    GroupModeMismatch = 212, Retry::Never;
    /// The group has no other member that could take over.
    NoOtherMember = 213, Retry::Never;

    /// An earlier message of the same publisher failed, so this one was not appended.
    OrderBroken = 300, Retry::Never;
    /// A newer epoch of this producer exists.
    ProducerFenced = 301, Retry::Never;
    /// The server has no state for this producer: begin again at sequence 0.
    ProducerUnknown = 302, Retry::Never;
    /// Messages of this producer before this one never arrived.
    SequenceGap = 303, Retry::Never;
    /// A message larger than the stream allows.
    MessageTooLarge = 304, Retry::Never;
    /// Too many or too large headers, a reserved or non-ASCII key.
    InvalidHeader = 305, Retry::Never;
    /// A batch whose lengths, counts or checksums do not hold.
    BatchCorrupt = 306, Retry::Never;
    /// A record that is not in the one encoding of its content.
    NonCanonicalRecord = 307, Retry::Never;
    /// The stream takes only messages with an id.
    IdRequired = 308, Retry::Never;
    /// The id was used for another content.
    DuplicateIdConflict = 309, Retry::Never;
    /// The stream's index of ids is full.
    DedupIndexFull = 310, LATER;
    /// The stream does not end where the publisher expected.
    ExpectedOffsetMismatch = 311, Retry::Never;
    /// The hot tier takes no more now: its budget or its disk is full; committed data is kept.
    HotTierFull = 312, LATER;
    /// A quota is used up.
    QuotaExceeded = 313, LATER;
    /// A batch of more bytes or records than its kind allows.
    BatchTooLarge = 314, Retry::Never;
    /// More than the allowed un-answered batches on one publisher.
    TooManyUnanswered = 315, Retry::Never;
    /// A message of an atomic batch was appended before, so that none of the batch is.
    Duplicate = 316, Retry::Never;

    /// The position lies outside what the stream holds.
    OffsetOutOfRange = 400, Retry::Never;
    /// Old records cannot be read now because the bucket does not answer.
    ColdUnavailable = 401, LATER;
    /// An object in the bucket is damaged or missing.
    ColdCorrupt = 402, Retry::Never;
    /// Bytes in the server's log are damaged, and it has no other copy of the records.
    HotCorrupt = 403, Retry::Never;

    /// This node does not lead the stream's shard.
    NotLeader = 500, Retry::OnNewLeader;
    /// No leader now.
    Unavailable = 501, SOON;
    /// The outcome is not known: the message may or may not have been appended.
    OutcomeUnknown = 502, Retry::Never;
    /// The server failed; its log says more.
    Internal = 503, Retry::Never;
    /// Not done in time: an administrative call goes on; a stream that was too slow to send or to take
    /// something has ended.
    Timeout = 504, Retry::Now;

    /// The node belongs to another cluster.
    WrongCluster = 600, Retry::Never;
    /// Another node that lives has the same identity or address.
    NodeIdentityConflict = 601, Retry::Never;
    /// The join token was used, or is too old.
    TokenExpired = 602, Retry::Never;
    /// The peer has no certificate of the cluster's authority.
    UntrustedPeer = 603, Retry::Never;
    /// The replica that was asked for is not on this node.
    ReplicaNotHere = 604, SOON;
    /// No node or shard of this number, or none that could do it.
    NodeNotFound = 610, Retry::Never;
    /// The cluster would lose a majority of a shard by it, or a node that is in use.
    UnsafeChange = 611, Retry::Never;
    /// No node has the key of the cluster's authority.
    NoAuthority = 612, Retry::Never;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_ascending_and_round_trip() {
        assert!(ErrorCode::ALL.windows(2).all(|pair| (pair[0] as u32) < pair[1] as u32));
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_u32(code as u32), Some(code));
        }
        assert_eq!(ErrorCode::from_u32(0), None);
    }
}
