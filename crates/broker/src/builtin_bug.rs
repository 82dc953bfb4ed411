//! Bugs that a test can plant where the feature `builtin-bugs` is on, to show that the simulation
//! catches them. Without the feature nothing can set one, and every check for one is constant false.

use railgun_core::builtin_bug::BuiltinBug as CoreBug;
use railgun_core::shard::ShardState;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuiltinBug {
    /// Raft gives up entries up to the newest checkpoint, whatever the cold floor.
    PurgeAboveFloor,
    /// A checkpoint becomes the snapshot that others get, whatever the cold floor.
    SnapshotAboveFloor,
    /// Space is given back when an object is committed, before a manifest in the bucket names it.
    DeleteBeforeMirrored,
    /// Objects are committed that were never uploaded.
    CommitBeforePut,
    /// Publishers are taken in whatever the hot budget says.
    NoAdmission,
    /// Where several ranges of a stream are new, its manifest leaves the first of them out.
    HoleInManifest,
    /// A reader that comes from the bucket to the log misses a batch.
    GapBetweenTiers,
    /// What a publisher sends again is taken for new.
    RepeatsAreNew,
    /// Nobody asks the leader what a read has to wait for.
    StaleRead,
    /// The commit of an object is proposed until it is taken, in whichever term, and taken whether or not
    /// it is still asked for.
    StaleCommit,
    /// Whoever fails to upload an object, or to have it committed, deletes it.
    UnfinishedDeleted,
    /// What an upload has left that is over is deleted at once.
    DeletedAtOnce,
    /// What an upload has left that is over is never deleted.
    NeverDeleted,
    /// A replica whose log is gone goes on as the one that it was.
    IncarnationReused,
    /// The clock of a node is followed whatever it says while no two others tell of theirs.
    LoneClockFollowed,
    /// A node leads others before any of them has told of its clock.
    ClockNotAwaited,
    /// A node leads on, and others have it lead, however far its clock is off.
    WrongClockLeads,
    /// An answer to what was relayed is given to who waits next, too.
    AnsweredTwice,
    /// In what is decided by the log, and in the handing out of groups.
    Core(CoreBug),
}

/// The bug of this node, if it has one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "builtin-bugs")]
    bug: Option<BuiltinBug>,
}

impl Planted {
    #[cfg(feature = "builtin-bugs")]
    pub(crate) const fn new(bug: Option<BuiltinBug>) -> Self {
        Self { bug }
    }

    #[cfg(feature = "builtin-bugs")]
    pub(crate) fn is(self, bug: BuiltinBug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "builtin-bugs"))]
    pub(crate) const fn is(self, _: BuiltinBug) -> bool {
        false
    }

    /// The state of a shard of this node.
    #[cfg(feature = "builtin-bugs")]
    pub(crate) fn plant(self, state: ShardState) -> ShardState {
        let in_core = match self.bug {
            Some(BuiltinBug::Core(bug)) => Some(bug),
            Some(BuiltinBug::StaleCommit) => Some(CoreBug::UnplannedCommits),
            _ => None,
        };
        state.with_planted(railgun_core::builtin_bug::Planted::new(in_core))
    }

    #[cfg(not(feature = "builtin-bugs"))]
    pub(crate) fn plant(self, state: ShardState) -> ShardState {
        state
    }
}
