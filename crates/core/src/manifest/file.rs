//! From a manifest to the file that tells it, whole or as a difference, and back.

use super::{ManifestFile, ManifestVersion, ShardManifest, StreamChange, StreamManifest};

/// Why a manifest file does not apply to what it is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyManifestError {
    /// The file extends another version than the one given, or none while one is given.
    #[error("manifest {version:?} extends {extends:?}, not {given:?}")]
    OtherBase {
        /// Version of the file.
        version: ManifestVersion,
        /// The version it extends.
        extends: Option<ManifestVersion>,
        /// The version it was applied to.
        given: Option<ManifestVersion>,
    },
    /// The file is of another cluster or shard.
    #[error("manifest {version:?} is of another cluster or shard")]
    OtherShard {
        /// Version of the file.
        version: ManifestVersion,
    },
    /// A stream keeps more ranges than the extended version has, or its ranges are not contiguous.
    #[error("the ranges of stream {stream} in manifest {version:?} do not fit together")]
    Ranges {
        /// Version of the file.
        version: ManifestVersion,
        /// The stream.
        stream: railgun_types::StreamUid,
    },
    /// A range lies in an object that the manifest does not have.
    #[error("stream {stream} in manifest {version:?} has a range in an unknown object")]
    UnknownObject {
        /// Version of the file.
        version: ManifestVersion,
        /// The stream.
        stream: railgun_types::StreamUid,
    },
}

impl ManifestFile {
    /// The file that tells all of `manifest`.
    #[must_use]
    pub fn full(version: ManifestVersion, manifest: &ShardManifest) -> Self {
        let changes = manifest
            .streams
            .iter()
            .map(|(uid, stream)| (*uid, StreamChange { stream: stream.clone(), kept: 0 }));
        Self {
            cluster: manifest.cluster,
            shard: manifest.shard,
            version,
            extends: None,
            streams: changes.collect(),
            objects: manifest.objects.clone(),
            removed_objects: Vec::new(),
            removed_streams: Vec::new(),
        }
    }

    /// The file that tells what `new` has other than `old`, which `extends` tells.
    #[must_use]
    pub fn difference(
        version: ManifestVersion,
        extends: ManifestVersion,
        old: &ShardManifest,
        new: &ShardManifest,
    ) -> Self {
        let changed =
            new.streams.iter().filter(|(uid, stream)| old.streams.get(uid) != Some(stream));
        let streams = changed.map(|(uid, stream)| {
            let before = old.streams.get(uid).map_or(&[][..], |before| &before.ranges);
            let kept = before.iter().zip(&stream.ranges).take_while(|(a, b)| a == b).count();
            let ranges = stream.ranges[kept..].to_vec();
            let stream = StreamManifest { ranges, ..stream.without_ranges() };
            (*uid, StreamChange { stream, kept: kept as u64 })
        });
        let objects = new.objects.iter().filter(|(id, object)| old.objects.get(id) != Some(object));
        Self {
            cluster: new.cluster,
            shard: new.shard,
            version,
            extends: Some(extends),
            streams: streams.collect(),
            objects: objects.map(|(id, object)| (*id, object.clone())).collect(),
            removed_objects: missing_keys(&old.objects, &new.objects),
            removed_streams: missing_keys(&old.streams, &new.streams),
        }
    }

    /// The manifest this file tells, given the one it extends.
    ///
    /// # Errors
    /// [`ApplyManifestError`] if `base` is not that one, or the result would not be sound: ranges of
    /// a stream not contiguous (I1), a range in no object.
    pub fn apply_to(
        self,
        base: Option<(ManifestVersion, ShardManifest)>,
    ) -> Result<ShardManifest, ApplyManifestError> {
        let Self { version, extends, cluster, shard, .. } = self;
        let (given, mut manifest) = match base {
            Some((given, manifest)) => (Some(given), manifest),
            None => {
                let (streams, objects) = Default::default();
                (None, ShardManifest { cluster, shard, streams, objects })
            }
        };
        if given != extends {
            return Err(ApplyManifestError::OtherBase { version, extends, given });
        }
        if (manifest.cluster, manifest.shard) != (cluster, shard) {
            return Err(ApplyManifestError::OtherShard { version });
        }
        for id in &self.removed_objects {
            manifest.objects.remove(id);
        }
        for stream in &self.removed_streams {
            manifest.streams.remove(stream);
        }
        manifest.objects.extend(self.objects);
        for (stream, change) in self.streams {
            let misfit = || ApplyManifestError::Ranges { version, stream };
            let kept = usize::try_from(change.kept).map_err(|_| misfit())?;
            let mut ranges = match manifest.streams.remove(&stream) {
                Some(before) => before.ranges,
                None => Vec::new(),
            };
            if kept > ranges.len() {
                return Err(misfit());
            }
            ranges.truncate(kept);
            ranges.extend(change.stream.ranges.iter().cloned());
            let whole = StreamManifest { ranges, ..change.stream.without_ranges() };
            manifest.streams.insert(stream, whole);
        }
        for (&stream, told) in &manifest.streams {
            if !told.is_contiguous() {
                return Err(ApplyManifestError::Ranges { version, stream });
            }
            if told.ranges.iter().any(|range| !manifest.objects.contains_key(&range.object)) {
                return Err(ApplyManifestError::UnknownObject { version, stream });
            }
        }
        Ok(manifest)
    }
}

impl StreamManifest {
    /// Everything but the ranges.
    pub(crate) fn without_ranges(&self) -> Self {
        Self {
            name: self.name.clone(),
            created: self.created,
            deleted: self.deleted,
            ranges: Vec::new(),
            digest: self.digest,
        }
    }

    /// Whether no range is empty and each begins where the one before ends (I1).
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        let sound = |range: &super::ColdRange| {
            range.count > 0
                && range.base.0.checked_add(range.count).is_some()
                && range.min_ts <= range.max_ts
        };
        self.ranges.iter().all(sound) && self.ranges.is_sorted_by(|a, b| a.end() == b.base)
    }
}

/// Keys of `old` that `new` does not have.
fn missing_keys<K: Ord + Copy, V>(
    old: &std::collections::BTreeMap<K, V>,
    new: &std::collections::BTreeMap<K, V>,
) -> Vec<K> {
    old.keys().filter(|key| !new.contains_key(key)).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use railgun_types::{ClusterUid, Offset, ShardId, StreamName, StreamUid, Timestamp};

    use super::*;
    use crate::manifest::{ColdRange, ObjectId, ObjectInfo, ObjectKind};

    fn version(log_index: u64) -> ManifestVersion {
        ManifestVersion { log_index, term: 1 }
    }

    fn object(seal_index: u64) -> (ObjectId, ObjectInfo) {
        let info = ObjectInfo {
            kind: ObjectKind::Bundle,
            day: 0,
            term: 1,
            attempt: seal_index + 1,
            hash: [seal_index as u8; 8],
            bytes: 1000,
            footer_bytes: 100,
            live_parts: 1,
        };
        (ObjectId { seal_index, part: 0 }, info)
    }

    fn range(base: u64, count: u64, seal_index: u64) -> ColdRange {
        ColdRange {
            base: Offset(base),
            count,
            min_ts: Timestamp(base as i64),
            max_ts: Timestamp((base + count - 1) as i64),
            record_bytes: count,
            object: ObjectId { seal_index, part: 0 },
            first_row_group: 0,
            first_row: 0,
        }
    }

    /// Base, count and seal index of a range.
    type Range = (u64, u64, u64);

    fn manifest(streams: &[(u8, &[Range])]) -> ShardManifest {
        let mut all = ShardManifest {
            cluster: ClusterUid([1; 16]),
            shard: ShardId(2),
            streams: BTreeMap::new(),
            objects: BTreeMap::new(),
        };
        for (uid, ranges) in streams {
            let ranges: Vec<ColdRange> =
                ranges.iter().map(|(base, count, seal)| range(*base, *count, *seal)).collect();
            all.objects.extend(ranges.iter().map(|range| object(range.object.seal_index)));
            let name = StreamName::new("s").unwrap();
            let stream = StreamManifest {
                name,
                created: Timestamp(0),
                deleted: false,
                ranges,
                digest: [*uid; 32],
            };
            all.streams.insert(StreamUid([*uid; 16]), stream);
        }
        all
    }

    #[test]
    fn files_lead_back_to_the_manifests_they_tell() {
        // Growth, a trimmed front, a stream that goes, one that comes, one that stays.
        let old = manifest(&[(1, &[(0, 5, 1), (5, 5, 2)]), (2, &[(0, 1, 1)]), (3, &[(7, 1, 2)])]);
        let new = manifest(&[(1, &[(5, 5, 2), (10, 1, 3)]), (3, &[(7, 1, 2)]), (4, &[(0, 9, 3)])]);
        let first = ManifestFile::full(version(1), &old);
        assert_eq!(first.clone().apply_to(None), Ok(old.clone()));

        let second = ManifestFile::difference(version(2), version(1), &old, &new);
        assert!(!second.streams.contains_key(&StreamUid([3; 16])), "it did not change");
        assert_eq!(second.removed_objects, [ObjectId { seal_index: 1, part: 0 }]);
        assert_eq!(second.apply_to(Some((version(1), old.clone()))), Ok(new));

        let grown = manifest(&[(1, &[(0, 5, 1), (5, 5, 2), (10, 1, 3)])]);
        let third = ManifestFile::difference(version(3), version(1), &old, &grown);
        let change = &third.streams[&StreamUid([1; 16])];
        assert_eq!((change.kept, change.stream.ranges.len()), (2, 1));
        assert_eq!(third.apply_to(Some((version(1), old))), Ok(grown));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let old = manifest(&[(1, &[(0, 5, 1)])]);
        let new = manifest(&[(1, &[(0, 5, 1), (5, 5, 2)])]);
        let file = ManifestFile::difference(version(2), version(1), &old, &new);
        let base = || Some((version(1), old.clone()));

        let wrong_base = file.clone().apply_to(Some((version(0), old.clone())));
        assert!(matches!(wrong_base, Err(ApplyManifestError::OtherBase { .. })));
        assert!(matches!(file.clone().apply_to(None), Err(ApplyManifestError::OtherBase { .. })));

        let foreign = ManifestFile { shard: ShardId(3), ..file.clone() };
        assert!(matches!(foreign.apply_to(base()), Err(ApplyManifestError::OtherShard { .. })));

        let uid = StreamUid([1; 16]);
        let mut hole = file.clone();
        hole.streams.get_mut(&uid).unwrap().kept = 0;
        hole.streams.get_mut(&uid).unwrap().stream.ranges.insert(0, range(0, 4, 1));
        assert!(matches!(hole.apply_to(base()), Err(ApplyManifestError::Ranges { .. })));

        let mut beyond = file.clone();
        beyond.streams.get_mut(&uid).unwrap().kept = 2;
        assert!(matches!(beyond.apply_to(base()), Err(ApplyManifestError::Ranges { .. })));

        let mut nowhere = file;
        nowhere.objects.clear();
        assert!(matches!(nowhere.apply_to(base()), Err(ApplyManifestError::UnknownObject { .. })));
    }
}
