//! The ways to a group that is handed out here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use railgun_core::command::GroupChanges;
use railgun_types::{GroupSpec, Offset, Timestamp};
use tokio::sync::mpsc;

use super::MemberInput;

/// See the module.
#[derive(Debug)]
pub(crate) struct LiveGroup {
    pub(crate) number: u64,
    pub(crate) inputs: mpsc::Sender<MemberInput>,
    /// Dropped where it is not to be handed out here any more.
    pub(crate) updates: mpsc::Sender<GroupUpdate>,
    pub(crate) figures: Arc<Figures>,
}

impl LiveGroup {
    /// Whether it has members, or had some when it ended.
    pub(crate) fn has_members(&self) -> bool {
        self.figures.get().members > 0
    }
}

/// What the shard's owner has applied of a group.
#[derive(Clone, Debug)]
pub(crate) enum GroupUpdate {
    /// Changes in one entry; those of this group are the one at `index`.
    Changes {
        /// Of the entry.
        term: u64,
        log_time: Timestamp,
        groups: Arc<[GroupChanges]>,
        index: usize,
    },
    /// A dead letter is in the companion.
    Died { offset: Offset, generation: u32 },
    /// The settings changed.
    Spec(Box<GroupSpec>),
    /// The group, or its stream, is no more.
    Deleted,
}

/// What there is to tell about a group that is handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupFigures {
    pub(crate) members: u32,
    /// Messages that members have and have not settled.
    pub(crate) leased: u64,
    /// Nothing new is handed out before some of what is un-settled is settled (G-5).
    pub(crate) is_stalled: bool,
}

/// The newest figures of a group, each by itself; written by who hands it out.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    members: AtomicU32,
    leased: AtomicU64,
    is_stalled: AtomicBool,
}

impl Figures {
    pub(crate) fn set(&self, figures: GroupFigures) {
        self.members.store(figures.members, Ordering::Relaxed);
        self.leased.store(figures.leased, Ordering::Relaxed);
        self.is_stalled.store(figures.is_stalled, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> GroupFigures {
        GroupFigures {
            members: self.members.load(Ordering::Relaxed),
            leased: self.leased.load(Ordering::Relaxed),
            is_stalled: self.is_stalled.load(Ordering::Relaxed),
        }
    }
}
