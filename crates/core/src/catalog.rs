//! The catalog: which names exist, which stream each means, on which shard. Replicated by shard 0.

mod checkpoint;

use std::collections::BTreeMap;

use railgun_types::{ShardId, SpecPatch, StreamName, StreamUid, Timestamp};

use crate::command::{CatalogCommand, ClusterSettings, Command, CommandBody};
use crate::placement;

pub use checkpoint::RestoredCatalog;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The stream.
    pub stream: StreamUid,
    /// The shard that owns it.
    pub shard: ShardId,
    /// How far its creation or deletion is.
    pub phase: Phase,
    /// Log time of the reservation.
    pub since: Timestamp,
}

/// The life of a name (SEMANTICS §8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reserved; the shard may or may not know the stream yet.
    Creating {
        /// What the creator asked for.
        patch: SpecPatch,
    },
    /// In use.
    Active,
    /// The shard may or may not have its tombstone yet.
    Deleting,
}

/// What a catalog command led to, for its proposer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogOutcome {
    /// The cluster's settings, whoever founded it.
    Founded(ClusterSettings),
    /// The name as it is now; `None`: it is free.
    Entry(Option<CatalogEntry>),
    /// No cluster is founded yet, or the entry is none for the catalog.
    Refused,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    settings: Option<ClusterSettings>,
    names: BTreeMap<StreamName, CatalogEntry>,
    log_time: Timestamp,
}

impl Catalog {
    /// Applies a committed command.
    pub fn apply(&mut self, command: &Command) -> CatalogOutcome {
        self.log_time = self.log_time.max(command.ts);
        let CommandBody::Catalog(command) = &command.body else { return CatalogOutcome::Refused };
        let name = match command {
            CatalogCommand::Found(settings) => {
                return CatalogOutcome::Founded(*self.settings.get_or_insert(*settings));
            }
            CatalogCommand::Reserve { name, stream, patch } => {
                let Some(settings) = self.settings else { return CatalogOutcome::Refused };
                let since = self.log_time;
                self.names.entry(name.clone()).or_insert_with(|| CatalogEntry {
                    stream: *stream,
                    shard: placement::shard_of(*stream, &settings),
                    phase: Phase::Creating { patch: patch.clone() },
                    since,
                });
                name
            }
            CatalogCommand::Activate { name, stream } => {
                if let Some(entry) = self.entry_mut(name, *stream)
                    && matches!(entry.phase, Phase::Creating { .. })
                {
                    entry.phase = Phase::Active;
                }
                name
            }
            CatalogCommand::Delete { name, stream } => {
                if let Some(entry) = self.entry_mut(name, *stream) {
                    entry.phase = Phase::Deleting;
                }
                name
            }
            CatalogCommand::Free { name, stream } => {
                if self.entry_mut(name, *stream).is_some_and(|e| e.phase != Phase::Active) {
                    self.names.remove(name);
                }
                name
            }
        };
        CatalogOutcome::Entry(self.names.get(name).cloned())
    }

    /// The outcome of a command about a name that changes nothing as the catalog is: it needs no entry.
    #[must_use]
    pub fn as_it_is(&self, command: &CatalogCommand) -> Option<CatalogOutcome> {
        let phase = |name: &StreamName, stream: &StreamUid| {
            self.names.get(name).filter(|entry| entry.stream == *stream).map(|entry| &entry.phase)
        };
        let (name, changes) = match command {
            CatalogCommand::Found(_) => return None,
            CatalogCommand::Reserve { name, .. } => (name, !self.names.contains_key(name)),
            CatalogCommand::Activate { name, stream } => {
                (name, matches!(phase(name, stream), Some(Phase::Creating { .. })))
            }
            CatalogCommand::Delete { name, stream } => {
                (name, phase(name, stream).is_some_and(|phase| *phase != Phase::Deleting))
            }
            CatalogCommand::Free { name, stream } => {
                (name, phase(name, stream).is_some_and(|phase| *phase != Phase::Active))
            }
        };
        (!changes).then(|| CatalogOutcome::Entry(self.names.get(name).cloned()))
    }

    /// The entry of this name, if it still means this stream.
    fn entry_mut(&mut self, name: &StreamName, stream: StreamUid) -> Option<&mut CatalogEntry> {
        self.names.get_mut(name).filter(|entry| entry.stream == stream)
    }

    /// What was decided when the cluster was made.
    #[must_use]
    pub fn settings(&self) -> Option<ClusterSettings> {
        self.settings
    }

    /// What a name stands for.
    #[must_use]
    pub fn get(&self, name: &StreamName) -> Option<&CatalogEntry> {
        self.names.get(name)
    }

    /// Names that are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Every name after `after`, in order.
    pub fn names_after<'a>(
        &'a self,
        after: Option<&'a StreamName>,
    ) -> impl Iterator<Item = (&'a StreamName, &'a CatalogEntry)> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.names.range::<StreamName, _>((from, Bound::Unbounded))
    }

    /// Every name that begins with `prefix` and comes after `after`, in order. Looks at no others.
    pub fn names_with_prefix<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a StreamName>,
    ) -> impl Iterator<Item = (&'a StreamName, &'a CatalogEntry)> {
        use std::ops::Bound;
        let from = match after.map(StreamName::as_str) {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let names = self.names.range::<str, _>((from, Bound::Unbounded));
        names.take_while(move |(name, _)| name.as_str().starts_with(prefix))
    }

    /// Log time of the last entry.
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.log_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railgun_types::ClusterUid;

    fn apply(catalog: &mut Catalog, ts: i64, command: CatalogCommand) -> CatalogOutcome {
        let (before, as_it_is) = (catalog.names.clone(), catalog.as_it_is(&command));
        let founds = matches!(command, CatalogCommand::Found(_)) || catalog.settings.is_none();
        let outcome =
            catalog.apply(&Command { ts: Timestamp(ts), body: CommandBody::Catalog(command) });
        let changes_nothing = catalog.names == before && !founds;
        assert_eq!(as_it_is, changes_nothing.then(|| outcome.clone()));
        outcome
    }

    fn settings(cluster: u8) -> ClusterSettings {
        ClusterSettings { cluster: ClusterUid([cluster; 16]), shards: 2, hot_bytes_max: 100 }
    }

    #[test]
    fn a_name_goes_from_reserved_to_active_to_free() {
        let name = StreamName::new("a").expect("valid");
        let (one, two) = (StreamUid([1; 16]), StreamUid([2; 16]));
        let mut catalog = Catalog::default();
        let reserve = |stream| CatalogCommand::Reserve {
            name: StreamName::new("a").expect("valid"),
            stream,
            patch: SpecPatch::default(),
        };
        assert_eq!(apply(&mut catalog, 1, reserve(one)), CatalogOutcome::Refused, "not founded");
        apply(&mut catalog, 2, CatalogCommand::Found(settings(1)));
        assert_eq!(
            apply(&mut catalog, 3, CatalogCommand::Found(settings(2))),
            CatalogOutcome::Founded(settings(1)),
            "the first one counts"
        );
        let phase = |outcome: CatalogOutcome| match outcome {
            CatalogOutcome::Entry(entry) => entry.map(|e| (e.stream, e.phase)),
            other => panic!("{other:?}"),
        };
        let creating = Phase::Creating { patch: SpecPatch::default() };
        assert_eq!(phase(apply(&mut catalog, 4, reserve(one))), Some((one, creating.clone())));
        // A second creator is told the first one's stream.
        assert_eq!(phase(apply(&mut catalog, 5, reserve(two))), Some((one, creating)));
        let activate = |stream| CatalogCommand::Activate { name: name.clone(), stream };
        apply(&mut catalog, 6, activate(two));
        assert!(matches!(catalog.get(&name).map(|e| &e.phase), Some(Phase::Creating { .. })));
        assert_eq!(phase(apply(&mut catalog, 7, activate(one))), Some((one, Phase::Active)));
        // A late refusal must not free an active name.
        let free = |stream| CatalogCommand::Free { name: name.clone(), stream };
        assert_eq!(phase(apply(&mut catalog, 8, free(one))), Some((one, Phase::Active)));
        let delete = CatalogCommand::Delete { name: name.clone(), stream: one };
        assert_eq!(phase(apply(&mut catalog, 9, delete)), Some((one, Phase::Deleting)));
        // A late activation must not bring a deleted stream back.
        assert_eq!(phase(apply(&mut catalog, 10, activate(one))), Some((one, Phase::Deleting)));
        assert_eq!(phase(apply(&mut catalog, 11, free(two))), Some((one, Phase::Deleting)));
        assert_eq!(phase(apply(&mut catalog, 12, free(one))), None);
    }

    #[test]
    fn names_are_found_by_what_they_begin_with() {
        let mut catalog = Catalog::default();
        apply(&mut catalog, 1, CatalogCommand::Found(settings(1)));
        let texts = ["shop", "shop-x", "shop.a", "shop.a.b", "shop.b", "shoq", "a", "Z"];
        let names = texts.map(|text| StreamName::new(text).expect("valid"));
        for (at, name) in names.iter().enumerate() {
            let (stream, patch) = (StreamUid([at as u8; 16]), SpecPatch::default());
            apply(&mut catalog, 2, CatalogCommand::Reserve { name: name.clone(), stream, patch });
        }
        for prefix in ["", "s", "shop", "shop.", "shop.a", "shop.b", "shop.c", "~", "Z", "\u{20ac}"]
        {
            for after in names.iter().map(Some).chain([None]) {
                let found: Vec<_> =
                    catalog.names_with_prefix(prefix, after).map(|(name, _)| name).collect();
                let all = catalog.names_after(after).map(|(name, _)| name);
                let wanted: Vec<_> = all.filter(|name| name.as_str().starts_with(prefix)).collect();
                assert_eq!(found, wanted, "'{prefix}' after {after:?}");
            }
        }
    }
}
