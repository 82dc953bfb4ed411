//! The kinds of frame and the message each carries.

use railgun_types::limits::BATCH_BYTES_HARD;

use crate::v1;

/// Most bytes of a head.
const HEAD_BYTES: usize = 1 << 20;
/// Most bytes of the head of what clients send in a few words: the server takes it apart at once, and
/// keeps what it says for as long as it serves it.
const REQUEST_BYTES: usize = 16 << 10;

/// Most bytes of what a publisher is told of one frame: each of its messages may have been appended before,
/// which takes up to 28 bytes to say, and as many to ask.
const RESULT_BYTES: usize = 12 << 20;

/// Most bytes that go with a call between nodes: votes, signs of life.
const PEER_CALL_BYTES: usize = 1 << 20;
/// Most bytes that go with a message between nodes: one log entry, or some megabytes of smaller ones.
const PEER_DATA_BYTES: usize = BATCH_BYTES_HARD + (4 << 20);

/// A message that is the head of a frame.
pub trait Message: prost::Message + Default {
    /// The kind of frame that carries it.
    const KIND: FrameKind;
}

macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        /// What a frame carries. The numbers are fixed for ever.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameKind {
            $($(#[$doc])* $name = $number,)*
        }

        impl FrameKind {
            /// Every kind, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The kind of this number, if this version knows it.
            #[must_use]
            pub fn from_u8(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name of its message.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }

        $(impl Message for v1::$name {
            const KIND: FrameKind = FrameKind::$name;
        })*
    };
}

frame_kinds! {
    /// First frame of a connection.
    Hello = 1;
    /// Answer to `Hello`.
    Welcome = 2;
    /// The server stops, or is drained.
    GoAway = 3;
    /// Ends the QUIC stream it comes on.
    Error = 4;
    /// First frame of a publisher.
    OpenPublisher = 10;
    /// Answer to `OpenPublisher`.
    PublisherOpened = 11;
    /// Gives a stream a short number.
    BindStream = 12;
    /// Answer to `BindStream`.
    StreamBound = 13;
    /// Record batches to append; they are the blob.
    Publish = 14;
    /// Answer to `Publish`.
    PublishResult = 15;
    /// The publisher is done.
    ClosePublisher = 16;
    /// Frees the short numbers of streams.
    UnbindStreams = 17;
    /// Answer to `UnbindStreams`.
    StreamsUnbound = 18;
    /// Where a shard is led.
    LeaderHint = 19;
    /// First frame of a subscription.
    Subscribe = 20;
    /// Answer to `Subscribe`.
    Subscribed = 21;
    /// A record batch to consume; it is the blob.
    Deliver = 22;
    /// More batches may be delivered.
    Credit = 23;
    /// Offsets that will not come.
    Removed = 24;
    /// All that was asked for has been delivered.
    End = 25;
    /// A call of a requester.
    AdminRequest = 30;
    /// Answer to a call.
    AdminResponse = 31;
    /// First frame of a member of a consumer group.
    JoinGroup = 32;
    /// Answer to `JoinGroup`.
    GroupJoined = 33;
    /// Messages for a member; the record batch that holds them is the blob.
    GroupDeliver = 34;
    /// What a member says of deliveries.
    Settle = 35;
    /// Answer to `Settle`.
    Settled = 36;
    /// News of the group.
    GroupNotice = 37;
    /// The member takes nothing new.
    DrainMember = 38;
    /// A member that fetches wants this.
    Fetch = 39;
    /// First frame of a connection between nodes.
    PeerHello = 40;
    /// Answer to `PeerHello`.
    PeerWelcome = 41;
    /// A call of another node; Raft's request is the blob.
    PeerCall = 42;
    /// Answer to a call; Raft's answer is the blob.
    PeerReply = 43;
    /// First frame of a stream between nodes.
    PeerOpen = 44;
    /// A message on such a stream; what it carries is the blob.
    PeerData = 45;
}

impl FrameKind {
    /// Most bytes its head may have.
    #[must_use]
    pub fn head_bytes_max(self) -> usize {
        match self {
            Self::Hello
            | Self::OpenPublisher
            | Self::BindStream
            | Self::ClosePublisher
            | Self::Subscribe
            | Self::Credit
            | Self::AdminRequest => REQUEST_BYTES,
            Self::DrainMember | Self::Fetch => REQUEST_BYTES,
            Self::Publish | Self::UnbindStreams | Self::JoinGroup | Self::Settle => HEAD_BYTES,
            Self::PublishResult => RESULT_BYTES,
            // Of a server.
            Self::Welcome
            | Self::GoAway
            | Self::Error
            | Self::PublisherOpened
            | Self::StreamBound
            | Self::StreamsUnbound
            | Self::LeaderHint
            | Self::Subscribed
            | Self::Deliver
            | Self::Removed
            | Self::End
            | Self::GroupJoined
            | Self::GroupDeliver
            | Self::Settled
            | Self::GroupNotice
            | Self::AdminResponse => HEAD_BYTES,
            // Of a node of the cluster.
            Self::PeerHello
            | Self::PeerWelcome
            | Self::PeerCall
            | Self::PeerReply
            | Self::PeerOpen
            | Self::PeerData => HEAD_BYTES,
        }
    }

    /// Most bytes its blob may have: none for most kinds.
    #[must_use]
    pub fn blob_bytes_max(self) -> usize {
        match self {
            Self::Publish | Self::Deliver | Self::GroupDeliver => BATCH_BYTES_HARD,
            Self::PeerCall | Self::PeerReply => PEER_CALL_BYTES,
            Self::PeerData => PEER_DATA_BYTES,
            _ => 0,
        }
    }
}

impl std::fmt::Display for FrameKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
