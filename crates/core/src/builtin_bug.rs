//! Bugs that a test can plant where the feature `builtin-bugs` is on, to show that the simulation
//! catches them. Without the feature nothing can set one, and every check for one is constant false.
//!
//! What decides by the log alone must do so on all replicas, and after every restart: a bug must be planted
//! in every state that is made or restored.

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuiltinBug {
    /// Commits are taken, too, of objects that no plan asks for, and of attempts that are over.
    UnplannedCommits,
    /// What is restored from a checkpoint lacks the newest slice of ids of every stream.
    SliceMissing,
    /// In a group that is restored from a checkpoint, messages are reserved only as far as something is known
    /// of them.
    ReservedLost,
    /// A redrive sets the floor back to the first message that it makes pending.
    RedriveMovesFloor,
    /// A settle counts whose epoch is over, whoever has the message now.
    SettleNotFenced,
    /// A message that is delivered again has the lease that it had before.
    LeaseReused,
    /// A new leader does not make dead letters of what was dying before.
    DyingForgotten,
}

/// The bug of a shard's state, if it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    #[cfg(feature = "builtin-bugs")]
    bug: Option<BuiltinBug>,
}

impl Planted {
    /// This one, or none.
    #[cfg(feature = "builtin-bugs")]
    #[must_use]
    pub const fn new(bug: Option<BuiltinBug>) -> Self {
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
}
