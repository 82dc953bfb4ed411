//! Which objects were asked for, and by which upload they were first committed (I5). Gathered over
//! every look at the logs: entries go, what they said stays true.

use std::collections::BTreeMap;

use railgun_core::manifest::{ObjectId, ShardManifest};
use railgun_core::shard::Attempt;
use railgun_types::ShardId;

use super::super::history::History;
use super::local::Told;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Every entry that was seen, by its index: the term, if it is a seal.
    seals: BTreeMap<(ShardId, u64), Option<u64>>,
    /// The upload by which an object was first committed.
    commits: BTreeMap<(ShardId, ObjectId), Attempt>,
}

impl Attempts {
    /// What a log says up to this entry.
    pub(super) fn take(&mut self, shard: ShardId, told: &Told, last: u64) {
        let seals = told.seals.range(..=last);
        self.seals.extend(seals.map(|(index, term)| ((shard, *index), *term)));
        for (_, object, attempt) in told.commits.iter().filter(|(index, ..)| *index <= last) {
            self.commits.entry((shard, *object)).or_insert(*attempt);
        }
    }

    /// Every object of the manifest is the one that a seal asked for, in the seal's term, and as it
    /// was first committed.
    pub(super) fn check(&self, manifest: &ShardManifest, history: &History) {
        let shard = manifest.shard;
        for (object, info) in &manifest.objects {
            let (seal, part) = (object.seal_index, object.part);
            // Nobody has looked at what is unknown before it was given up.
            match self.seals.get(&(shard, seal)) {
                Some(Some(term)) if *term == info.term => {}
                None => {}
                Some(Some(term)) => {
                    let told = info.term;
                    let how = format_args!(
                        "object {seal}.{part} of shard {shard} is of term {told}, its seal of {term}"
                    );
                    history.violated("I5", how);
                }
                Some(None) => {
                    let how =
                        format_args!("no seal asked for object {seal}.{part} of shard {shard}");
                    history.violated("I5", how);
                }
            }
            let attempt = Attempt { index: info.attempt, hash: info.hash };
            if self.commits.get(&(shard, *object)).is_some_and(|first| *first != attempt) {
                let how = format_args!(
                    "object {seal}.{part} of shard {shard} is not what was first committed as it"
                );
                history.violated("I5", how);
            }
        }
    }
}
