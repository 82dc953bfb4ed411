//! Which uploads were asked for, and with what content they were first committed (I5). Gathered over
//! every look at the logs: entries go, what they said stays true.

use std::collections::BTreeMap;

use railgun_core::manifest::{ContentHash, ObjectId, ShardManifest};
use railgun_types::ShardId;

use super::super::history::History;
use super::local::Told;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Every entry that was seen, by its index: the term, if it is a seal.
    seals: BTreeMap<(ShardId, u64), Option<u64>>,
    /// What the first commit of an object said of its content.
    commits: BTreeMap<(ShardId, ObjectId), ContentHash>,
}

impl Attempts {
    /// What a log says up to this entry.
    pub(super) fn take(&mut self, shard: ShardId, told: &Told, last: u64) {
        let seals = told.seals.range(..=last);
        self.seals.extend(seals.map(|(index, term)| ((shard, *index), *term)));
        for (_, object, hash) in told.commits.iter().filter(|(index, ..)| *index <= last) {
            self.commits.entry((shard, *object)).or_insert(*hash);
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
            if self.commits.get(&(shard, *object)).is_some_and(|first| *first != info.hash) {
                let how = format_args!(
                    "object {seal}.{part} of shard {shard} is not what was first committed as it"
                );
                history.violated("I5", how);
            }
        }
    }
}
