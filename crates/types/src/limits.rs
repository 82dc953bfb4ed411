//! Every limit of the protocol, in one table (SEMANTICS §0). The server enforces them and the SDK
//! keeps to them; those in [`Limits`] are told in the handshake.

/// Longest name of a stream, in bytes.
pub const STREAM_NAME_BYTES: usize = 128;
/// Longest name of a consumer group, in bytes.
pub const GROUP_NAME_BYTES: usize = 64;
/// Longest name of a stream that the server makes for another one, in bytes.
pub const COMPANION_NAME_BYTES: usize = 200;
/// Longest owner of a stream or group, in bytes.
pub const OWNER_BYTES: usize = 128;
/// Longest message id, in bytes.
pub const MESSAGE_ID_BYTES: usize = 128;
/// Most headers of one message.
pub const HEADERS: usize = 64;
/// Most bytes of all header keys and values of one message together.
pub const HEADER_BYTES: usize = 16 << 10;
/// Longest header key, in bytes (ASCII).
pub const HEADER_KEY_BYTES: usize = 128;
/// Largest message (key + headers + value, as encoded), in bytes, that any setting allows.
pub const MESSAGE_BYTES_HARD: usize = 8 << 20;
/// Largest message unless the stream says otherwise, in bytes.
pub const MESSAGE_BYTES_DEFAULT: usize = 1 << 20;
/// Size at which the SDK closes a batch, in bytes.
pub const BATCH_BYTES_DEFAULT: usize = 1 << 20;
/// Largest record batch, header and table included, in bytes: one message of the largest size,
/// its dead-letter headers, and room for header and table.
pub const BATCH_BYTES_HARD: usize = MESSAGE_BYTES_HARD + (64 << 10);
/// Largest atomic batch, in bytes.
pub const ATOMIC_BATCH_BYTES: usize = 4 << 20;
/// Most messages of one atomic batch.
pub const ATOMIC_BATCH_RECORDS: usize = 1_000;
/// Most records of any batch: bounds the work of one validation.
pub const BATCH_RECORDS: usize = 65_536;
/// Size at which an appender closes a log entry, in bytes; one batch may be larger.
pub const ENTRY_BYTES: usize = 1 << 20;
/// Un-answered batches per publisher handle; the number of results a producer's state keeps (PQ-1).
pub const PRODUCER_WINDOW: usize = 8;
/// Most streams that one publisher binds, and all publishers of a connection together.
pub const PUBLISHER_STREAMS: usize = 65_536;
/// Most batches of one frame of a publisher: its head stays far below 1 MiB, and so do their
/// results, each with an error.
pub const PUBLISH_ITEMS: usize = 8_192;
/// Most aliases that one frame of a publisher frees.
pub const UNBIND_ALIASES: usize = 8_192;
/// Most administrative calls of one connection at a time, each on a QUIC stream of its own.
pub const ADMIN_STREAMS: usize = 16;
/// Deleted streams that a shard remembers; beyond it the one deleted first is forgotten, but what the
/// bucket holds of it.
pub const TOMBSTONES_PER_SHARD: usize = 10_000;
/// Producers kept per shard; beyond it the one unused for longest, in log time, is forgotten.
pub const PRODUCERS_PER_SHARD: usize = 100_000;
/// Consumer groups of a shard: beyond it no more can be made.
pub const GROUPS_PER_SHARD: usize = 10_000;
/// Longest time that a message may be put off for, in ms: by a consumer, or by its group's back-off. 24 h.
pub const DELAY_MS: u64 = 24 * 3_600_000;
/// Most messages that a member of a group may have un-settled.
pub const GROUP_CREDIT_MESSAGES: u32 = 100_000;
/// Most bytes of these.
pub const GROUP_CREDIT_BYTES: u64 = 1 << 30;
/// Most items of one frame in which a member says what came of deliveries.
pub const SETTLE_ITEMS: usize = 4_096;
/// Frames of that kind that a member has un-answered; the server reads no more of them.
pub const SETTLES_UNANSWERED: usize = 64;
/// Steps of a group's back-off; the last one repeats.
pub const BACKOFF_STEPS: usize = 32;
/// Most messages whose failure one change of a group tells: more than it has in flight.
pub const FAILURES_PER_CHANGE: u64 = 100_000;
/// Longest text in which a consumer says why it failed, in bytes.
pub const FAILURE_BYTES: usize = 1 << 10;
/// Most dead messages that become pending again by one change of a group.
pub const REDRIVEN_PER_CHANGE: u64 = 100_000;
/// Most runs of dead messages that a group can make pending again; beyond it the lowest is only in
/// the group's companion.
pub const DEAD_RUNS_PER_GROUP: usize = 100_000;
/// Results with duplicates in them that producers' states keep for repeats (PQ-1), counted in duplicates,
/// for a shard: beyond it a repeated batch is told that its outcome is not known.
pub const PRODUCER_DUPLICATES_PER_SHARD: u64 = 1 << 20;
/// Shortest window of an ID time box, in ms of log time; 0 is none (DD-1).
pub const DEDUP_WINDOW_MS_MIN: u64 = 1_000;
/// Longest window of an ID time box, in ms of log time.
pub const DEDUP_WINDOW_MS_MAX: u64 = 7 * 86_400_000;
/// Most ids that a stream holds unless its settings say otherwise.
pub const DEDUP_IDS_DEFAULT: u64 = 1_000_000;
/// Bytes of memory for the ids of all streams of a shard together (DD-5).
pub const DEDUP_BYTES_PER_SHARD: u64 = 256 << 20;
/// Bytes that an id counts for there, whatever its length: it is held as a hash.
pub const DEDUP_ID_BYTES: u64 = 64;
/// Most ids that all streams of a shard hold together.
pub const DEDUP_IDS_PER_SHARD: u64 = DEDUP_BYTES_PER_SHARD / DEDUP_ID_BYTES;

/// Most data shards of a cluster.
pub const SHARDS: u32 = 4_096;
/// Most replicas of a shard that vote.
pub const VOTERS: usize = 5;
/// Most nodes of a cluster at a time; those that were removed do not count.
pub const NODES: usize = 256;
/// Most connections that one node makes to another.
pub const PEER_LINES: usize = 4;
/// Most nodes that a cluster ever gives a number to: what is kept of removed ones is bounded.
pub const NODES_EVER: u32 = 65_535;
/// Longest address of a node, in bytes: a DNS name, a colon and a port.
pub const NODE_ADDRESS_BYTES: usize = 259;
/// Most nodes that form a cluster together; others join it.
pub const FOUNDERS: usize = 100;
/// Most join tokens that are kept at a time.
pub const JOIN_TOKENS: usize = 1_000;

/// The limits a server tells its clients in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes that any stream of this server may allow.
    pub message_bytes: usize,
    /// Largest record batch in bytes.
    pub batch_bytes: usize,
    /// Most records of a batch.
    pub batch_records: usize,
    /// Most un-answered batches of a publisher handle.
    pub unanswered_batches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: MESSAGE_BYTES_HARD,
            batch_bytes: BATCH_BYTES_HARD,
            batch_records: BATCH_RECORDS,
            unanswered_batches: PRODUCER_WINDOW,
        }
    }
}
