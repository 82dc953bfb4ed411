//! What ensure finds and does, alike for streams and groups (SEMANTICS §8).

use std::collections::VecDeque;

use railgun_types::{ChangeClass, EnsureMode, FieldDiff, RequestId};

/// Of each stream and group this many changes are remembered with the requests that asked for them (EN-6).
pub(super) const CHANGES_REMEMBERED: usize = 16;

/// What `ensure` found or did (EN-1 … EN-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// The stream or group is new.
    Created,
    /// It is as wanted.
    Unchanged {
        /// Its revision.
        revision: u64,
    },
    /// It differs and was left alone.
    Drift {
        /// Its revision.
        revision: u64,
        /// How.
        diff: Vec<FieldDiff>,
    },
    /// It differed and was changed.
    Updated {
        /// Its new revision.
        revision: u64,
        /// What was changed.
        diff: Vec<FieldDiff>,
    },
}

/// Why `ensure` could not be done; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnsureRefused {
    /// The uid belongs to a deleted stream.
    #[error("the stream was deleted")]
    Deleted,
    /// The patch is for another kind of stream than this shard holds.
    #[error("a shard holds persistent streams only")]
    Kind,
    /// EN-4.
    #[error("field {path} is '{actual}' and can never change")]
    Immutable {
        /// The field.
        path: String,
        /// Its value.
        actual: String,
    },
    /// EN-4.
    #[error("changing field {path} would lose data and was not allowed")]
    Destructive {
        /// The field.
        path: String,
    },
    /// EN-6.
    #[error("it is at revision {actual}")]
    Revision {
        /// The actual one.
        actual: u64,
    },
    /// The shard has no such stream to make a group of.
    #[error("the stream does not exist")]
    StreamNotFound,
    /// EN-1.
    #[error("the group does not exist")]
    GroupNotFound,
    /// The shard has as many groups as it can have.
    #[error("the shard has {count} groups, and can have no more")]
    TooManyGroups {
        /// How many.
        count: u64,
    },
}

/// A wish as it is remembered, and how it is to be granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) mode: EnsureMode,
    pub(super) if_revision: Option<u64>,
    pub(super) allow_destructive: bool,
    pub(super) request: Option<RequestId>,
    /// Sum of the patch.
    pub(super) sum: u32,
}

/// How often the settings of a stream or group were changed, and by whom last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revisions {
    /// From 1.
    pub(super) current: u64,
    /// The last changes whose requests said which they were, the oldest first.
    pub(super) changes: VecDeque<Change>,
}

/// What a request made of a stream or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) request: RequestId,
    /// Sum of what it wished: the same identifier with another wish is no repeat.
    pub(super) wish: u32,
    /// The revision since then.
    pub(super) revision: u64,
    /// What it changed; `None`: it created the stream or group.
    pub(super) diff: Option<Vec<FieldDiff>>,
}

impl Revisions {
    pub(super) fn new() -> Self {
        Self { current: 1, changes: VecDeque::new() }
    }

    /// What a wish leads to that is granted already, or is not to be; `None`: the differences are to be
    /// made good.
    pub(super) fn as_is(
        &self,
        wish: &Wish,
        diff: impl FnOnce() -> Vec<FieldDiff>,
    ) -> Option<Result<Ensured, EnsureRefused>> {
        // A repeat is told what the first one was, whose own change is not in its way, and takes back
        // nothing that was changed since (EN-6).
        if let Some(first) = self.change_by(wish) {
            let (revision, diff) = (first.revision, first.diff.clone());
            return Some(Ok(match diff {
                None => Ensured::Created,
                Some(diff) => Ensured::Updated { revision, diff },
            }));
        }
        let actual = self.current;
        if wish.if_revision.is_some_and(|wanted| wanted != actual) {
            return Some(Err(EnsureRefused::Revision { actual }));
        }
        let diff = diff();
        if diff.is_empty() {
            return Some(Ok(Ensured::Unchanged { revision: actual }));
        }
        if wish.mode != EnsureMode::Overwrite {
            return Some(Ok(Ensured::Drift { revision: actual, diff }));
        }
        diff.into_iter().find_map(|field| match field.class {
            ChangeClass::Live => None,
            ChangeClass::Immutable => {
                Some(Err(EnsureRefused::Immutable { path: field.path, actual: field.actual }))
            }
            ChangeClass::Destructive if wish.allow_destructive => None,
            ChangeClass::Destructive => Some(Err(EnsureRefused::Destructive { path: field.path })),
        })
    }

    /// The differences are made good.
    pub(super) fn update(&mut self, wish: &Wish, diff: Vec<FieldDiff>) -> Ensured {
        self.current += 1;
        self.note(wish, Some(&diff));
        Ensured::Updated { revision: self.current, diff }
    }

    /// What this request has made of it before.
    fn change_by(&self, wish: &Wish) -> Option<&Change> {
        let first = self.changes.iter().find(|change| Some(change.request) == wish.request)?;
        (first.wish == wish.sum).then_some(first)
    }

    /// Remembers what this request made of it: its creation, or changes of these fields.
    pub(super) fn note(&mut self, wish: &Wish, diff: Option<&[FieldDiff]>) {
        let Some(request) = wish.request else { return };
        if self.changes.len() == CHANGES_REMEMBERED {
            self.changes.pop_front();
        }
        let (revision, diff) = (self.current, diff.map(<[FieldDiff]>::to_vec));
        self.changes.push_back(Change { request, wish: wish.sum, revision, diff });
    }
}
