//! What the owners of the catalog and of data shards have in common: how committed entries come to
//! them, and how they propose new ones.

mod handover;
mod pipeline;
mod relief;

pub(crate) use handover::{CommittedEntry, EntryContent, Handover, Installer};
pub(crate) use pipeline::{Pipeline, ProposeFailure, UnappliedQueue, unapplied_queue};
pub(crate) use relief::{has_relief, makes_room};

/// The node is stopping: the actor that was asked is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub(crate) struct NodeStopping;
