//! The names of objects, exactly (DESIGN §3 "Bucket"). Built and parsed here and nowhere else:
//!
//! ```text
//! railgun/v1/{cluster}/owner.json
//! railgun/v1/{cluster}/data/stream={name}/sid={uid}/dt={day}/{base:020}-{last:020}-t{term:010}-a{attempt:020}-{hash}.parquet
//! railgun/v1/{cluster}/data/bundle/shard={id}/dt={day}/i{index:020}-t{term:010}-a{attempt:020}-{hash}.parquet
//! railgun/v1/{cluster}/manifest/shard={id}/i{index:020}-t{term:010}.rgm
//! railgun/v1/{cluster}/state/shard={id}/i{index:020}-t{term:010}.snap      state/catalog/… for shard 0
//! ```
//!
//! Keys are relative to the prefix of the bucket's address. Numbers are padded, so that a sorted
//! listing is a listing by age.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{self, Date};
use jiff::{Span, Unit};
use railgun_core::manifest::{ContentHash, ManifestVersion, ObjectId, ObjectInfo, ObjectKind};
use railgun_types::{ClusterUid, Offset, ShardId, StreamName, StreamUid};

/// Path under which the clusters of a bucket lie; tells the version of the layout.
pub const ROOT: &str = "railgun/v1";

/// Folder of [`manifests`] in which each shard has its own.
const MANIFEST: &str = "manifest";

/// One object's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Who owns the prefix.
    Owner {
        /// The cluster life.
        cluster: ClusterUid,
    },
    /// Records of one stream.
    Segment(SegmentKey),
    /// Records of many streams of one shard.
    Bundle(BundleKey),
    /// What a shard has in the bucket.
    Manifest {
        /// The cluster life.
        cluster: ClusterUid,
        /// The shard.
        shard: ShardId,
        /// The state it tells.
        version: ManifestVersion,
    },
    /// State of a shard, without records.
    State {
        /// The cluster life.
        cluster: ClusterUid,
        /// The shard.
        shard: ShardId,
        /// The state it tells.
        version: ManifestVersion,
    },
}

/// Name of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentKey {
    /// The cluster life.
    pub cluster: ClusterUid,
    /// The stream's name at its creation.
    pub name: StreamName,
    /// The stream.
    pub stream: StreamUid,
    /// UTC day of the records, in days since the Unix epoch.
    pub day: i64,
    /// First offset.
    pub base: Offset,
    /// Last offset, inclusive.
    pub last: Offset,
    /// Raft term of the seal.
    pub term: u64,
    /// Log index at which the upload was named: no other one has this key.
    pub attempt: u64,
    /// Hash of the content.
    pub hash: ContentHash,
}

/// Name of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleKey {
    /// The cluster life.
    pub cluster: ClusterUid,
    /// The shard.
    pub shard: ShardId,
    /// UTC day of the records, in days since the Unix epoch.
    pub day: i64,
    /// Log index of the seal.
    pub seal_index: u64,
    /// Raft term of the seal.
    pub term: u64,
    /// Log index at which the upload was named: no other one has this key.
    pub attempt: u64,
    /// Hash of the content.
    pub hash: ContentHash,
}

/// A key that is not of this layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{key}' is not a key of the bucket layout")]
pub struct InvalidKey {
    key: String,
}

impl Key {
    /// The key of a committed object. `name` is that of the stream of a segment, unused for a bundle.
    #[must_use]
    pub fn of_object(
        cluster: ClusterUid,
        shard: ShardId,
        id: ObjectId,
        object: &ObjectInfo,
        name: &StreamName,
    ) -> Self {
        let ObjectInfo { day, term, attempt, hash, .. } = *object;
        match object.kind {
            ObjectKind::Segment { stream, base, last } => Self::Segment(SegmentKey {
                cluster,
                name: name.clone(),
                stream,
                day,
                base,
                last,
                term,
                attempt,
                hash,
            }),
            ObjectKind::Bundle => Self::Bundle(BundleKey {
                cluster,
                shard,
                day,
                seal_index: id.seal_index,
                term,
                attempt,
                hash,
            }),
        }
    }
}

/// Folder of everything a cluster life has.
#[must_use]
pub fn cluster(cluster: ClusterUid) -> String {
    format!("{ROOT}/{cluster}")
}

/// Folder of the folders of each shard's manifests.
#[must_use]
pub fn all_manifests(cluster: ClusterUid) -> String {
    format!("{ROOT}/{cluster}/{MANIFEST}")
}

/// Folder of a shard's manifests.
#[must_use]
pub fn manifests(cluster: ClusterUid, shard: ShardId) -> String {
    format!("{ROOT}/{cluster}/{MANIFEST}/{}", shard_folder(shard))
}

/// Name of a shard's folder.
#[must_use]
pub fn shard_folder(shard: ShardId) -> String {
    format!("shard={shard}")
}

/// The shard whose folder is called `name`.
#[must_use]
pub fn shard_of_folder(name: &str) -> Option<ShardId> {
    Some(ShardId(number(name.strip_prefix("shard=")?, 1)?))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner { cluster } => write!(f, "{ROOT}/{cluster}/owner.json"),
            Self::Segment(key) => {
                let SegmentKey { cluster, name, stream, base, last, term, attempt, .. } = key;
                write!(f, "{ROOT}/{cluster}/data/stream={name}/sid={stream}/dt=")?;
                write!(f, "{}/{base:020}-{last:020}-t{term:010}-a{attempt:020}-", Day(key.day))?;
                write!(f, "{}.parquet", Hex(key.hash))
            }
            Self::Bundle(key) => {
                let BundleKey { cluster, shard, seal_index, term, attempt, .. } = key;
                write!(f, "{ROOT}/{cluster}/data/bundle/{}/dt=", shard_folder(*shard))?;
                write!(f, "{}/i{seal_index:020}-t{term:010}-a{attempt:020}-", Day(key.day))?;
                write!(f, "{}.parquet", Hex(key.hash))
            }
            Self::Manifest { cluster, shard, version } => {
                write!(f, "{}/{}.rgm", manifests(*cluster, *shard), Version(*version))
            }
            Self::State { cluster, shard, version } if *shard == ShardId::CATALOG => {
                write!(f, "{ROOT}/{cluster}/state/catalog/{}.snap", Version(*version))
            }
            Self::State { cluster, shard, version } => {
                let folder = shard_folder(*shard);
                write!(f, "{ROOT}/{cluster}/state/{folder}/{}.snap", Version(*version))
            }
        }
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(key: &str) -> Result<Self, Self::Err> {
        let refuse = || InvalidKey { key: key.chars().take(512).collect() };
        let parsed = parse(key).ok_or_else(refuse)?;
        // One name per object: what would be written differently is not ours.
        if parsed.to_string() == key { Ok(parsed) } else { Err(refuse()) }
    }
}

fn parse(key: &str) -> Option<Key> {
    let mut parts = key.strip_prefix(ROOT)?.strip_prefix('/')?.split('/');
    let cluster = parts.next()?.parse().ok()?;
    let parts: Vec<&str> = parts.collect();
    match *parts.as_slice() {
        ["owner.json"] => Some(Key::Owner { cluster }),
        ["data", "bundle", shard, day, file] => {
            let mut fields = file.strip_suffix(".parquet")?.split('-');
            let key = BundleKey {
                cluster,
                shard: shard_of_folder(shard)?,
                day: parse_day(day.strip_prefix("dt=")?)?,
                seal_index: number(fields.next()?.strip_prefix('i')?, 20)?,
                term: number(fields.next()?.strip_prefix('t')?, 10)?,
                attempt: number(fields.next()?.strip_prefix('a')?, 20)?,
                hash: parse_hex(fields.next()?)?,
            };
            fields.next().is_none().then_some(Key::Bundle(key))
        }
        ["data", stream, sid, day, file] => {
            let mut fields = file.strip_suffix(".parquet")?.split('-');
            let key = SegmentKey {
                cluster,
                name: StreamName::parse_any(stream.strip_prefix("stream=")?).ok()?,
                stream: sid.strip_prefix("sid=")?.parse().ok()?,
                day: parse_day(day.strip_prefix("dt=")?)?,
                base: Offset(number(fields.next()?, 20)?),
                last: Offset(number(fields.next()?, 20)?),
                term: number(fields.next()?.strip_prefix('t')?, 10)?,
                attempt: number(fields.next()?.strip_prefix('a')?, 20)?,
                hash: parse_hex(fields.next()?)?,
            };
            fields.next().is_none().then_some(Key::Segment(key))
        }
        [MANIFEST, shard, file] => {
            let version = parse_version(file.strip_suffix(".rgm")?)?;
            Some(Key::Manifest { cluster, shard: shard_of_folder(shard)?, version })
        }
        ["state", folder, file] => {
            let shard = match folder {
                "catalog" => ShardId::CATALOG,
                shard => shard_of_folder(shard)?,
            };
            let version = parse_version(file.strip_suffix(".snap")?)?;
            Some(Key::State { cluster, shard, version })
        }
        _ => None,
    }
}

/// A number of at least `width` digits.
fn number<T: FromStr>(digits: &str, width: usize) -> Option<T> {
    let plain = digits.len() >= width && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// `i{log_index:020}-t{term:010}`.
struct Version(ManifestVersion);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{:020}-t{:010}", self.0.log_index, self.0.term)
    }
}

/// How the file names of every version at log index `index` begin; those of later ones sort behind.
pub(crate) fn version_prefix(index: u64) -> String {
    format!("i{index:020}")
}

fn parse_version(text: &str) -> Option<ManifestVersion> {
    let (index, term) = text.split_once('-')?;
    let log_index = number(index.strip_prefix('i')?, 20)?;
    Some(ManifestVersion { log_index, term: number(term.strip_prefix('t')?, 10)? })
}

/// Days since the Unix epoch as `YYYY-MM-DD`. A day that the calendar does not reach, which no log
/// time falls on, is shown as its nearest.
struct Day(i64);

/// The first day of [`Day`].
const EPOCH: Date = civil::date(1970, 1, 1);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = Span::new().try_days(self.0).and_then(|days| EPOCH.checked_add(days));
        let nearest = if self.0 < 0 { Date::MIN } else { Date::MAX };
        date.unwrap_or(nearest).fmt(f)
    }
}

fn parse_day(text: &str) -> Option<i64> {
    let date: Date = text.parse().ok()?;
    Some(i64::from(EPOCH.until((Unit::Day, date)).ok()?.get_days()))
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| (digit as char).to_digit(16);
        *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn versions(terms: std::ops::Range<u64>) -> impl Strategy<Value = ManifestVersion> {
        (any::<u64>(), terms).prop_map(|(log_index, term)| ManifestVersion { log_index, term })
    }

    /// Days from year 0 to year 9999.
    fn days() -> impl Strategy<Value = i64> {
        -719_528i64..2_932_896
    }

    fn keys() -> impl Strategy<Value = Key> {
        let cluster = any::<[u8; 16]>().prop_map(ClusterUid);
        let shard = any::<u32>().prop_map(ShardId);
        let segment = (
            "[A-Za-z0-9_-]{1,8}(\\.[A-Za-z0-9_-]{1,8}){0,3}",
            any::<[u8; 16]>(),
            days(),
            any::<(u64, u64, u64, u64)>(),
            any::<[u8; 8]>(),
        );
        (cluster, shard, versions(0..u64::MAX), segment, 0..5).prop_map(
            |(
                cluster,
                shard,
                version,
                (name, sid, day, (base, last, term, attempt), hash),
                which,
            )| {
                match which {
                    0 => Key::Owner { cluster },
                    1 => Key::Segment(SegmentKey {
                        cluster,
                        name: StreamName::new(&name).unwrap(),
                        stream: StreamUid(sid),
                        day,
                        base: Offset(base),
                        last: Offset(last),
                        term,
                        attempt,
                        hash,
                    }),
                    2 => Key::Bundle(BundleKey {
                        cluster,
                        shard,
                        day,
                        seal_index: version.log_index,
                        term,
                        attempt,
                        hash,
                    }),
                    3 => Key::Manifest { cluster, shard, version },
                    _ => Key::State { cluster, shard, version },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn keys_round_trip(key in keys()) {
            prop_assert_eq!(key.to_string().parse::<Key>(), Ok(key));
        }

        #[test]
        fn any_text_is_a_key_or_refused(text in "(railgun/v1/[0-9a-f]{32}/)?[a-z0-9=/.-]{0,80}") {
            if let Ok(key) = text.parse::<Key>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }

        #[test]
        fn newer_manifests_sort_behind(
            a in versions(0..10_000_000_000),
            b in versions(0..10_000_000_000),
        ) {
            let key = |version| {
                let cluster = ClusterUid::default();
                Key::Manifest { cluster, shard: ShardId(3), version }.to_string()
            };
            prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
        }
    }

    #[test]
    fn the_layout_is_as_documented() {
        let cluster = ClusterUid([0xab; 16]);
        let version = ManifestVersion { log_index: 42, term: 7 };
        let root = "railgun/v1/abababababababababababababababab";
        let segment = SegmentKey {
            cluster,
            name: StreamName::new("orders.eu").unwrap(),
            stream: StreamUid([1; 16]),
            day: 20_000,
            base: Offset(5),
            last: Offset(9),
            term: 7,
            attempt: 43,
            hash: [0xc; 8],
        };
        let companion = StreamName::parse_any("orders.eu$dlq.billing").unwrap();
        let of_companion =
            SegmentKey { name: companion, stream: StreamUid([2; 16]), ..segment.clone() };
        let bundle = BundleKey {
            cluster,
            shard: ShardId(2),
            day: -1,
            seal_index: 42,
            term: 7,
            attempt: 43,
            hash: [0xc; 8],
        };
        let v = "i00000000000000000042-t0000000007";
        for (key, text) in [
            (Key::Owner { cluster }, "owner.json".to_owned()),
            (
                Key::Segment(segment),
                "data/stream=orders.eu/sid=01010101010101010101010101010101/dt=2024-10-04/\
                 00000000000000000005-00000000000000000009-t0000000007-a00000000000000000043-\
                 0c0c0c0c0c0c0c0c.parquet"
                    .to_owned(),
            ),
            (
                Key::Segment(of_companion),
                "data/stream=orders.eu$dlq.billing/sid=02020202020202020202020202020202/\
                 dt=2024-10-04/00000000000000000005-00000000000000000009-t0000000007-\
                 a00000000000000000043-0c0c0c0c0c0c0c0c.parquet"
                    .to_owned(),
            ),
            (
                Key::Bundle(bundle),
                format!(
                    "data/bundle/shard=2/dt=1969-12-31/{v}-a00000000000000000043-0c0c0c0c0c0c0c0c.parquet"
                ),
            ),
            (
                Key::Manifest { cluster, shard: ShardId(2), version },
                format!("manifest/shard=2/{v}.rgm"),
            ),
            (Key::State { cluster, shard: ShardId(0), version }, format!("state/catalog/{v}.snap")),
            (Key::State { cluster, shard: ShardId(2), version }, format!("state/shard=2/{v}.snap")),
        ] {
            assert_eq!(key.to_string(), format!("{root}/{text}"));
            assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn other_names_of_the_same_object_are_refused() {
        let root = "railgun/v1/abababababababababababababababab";
        for other in [
            "manifest/shard=02/i00000000000000000042-t0000000007.rgm",
            "manifest/shard=2/i000000000000000000042-t0000000007.rgm",
            "manifest/shard=2/i00000000000000000042-t+000000007.rgm",
            "state/shard=0/i00000000000000000042-t0000000007.snap",
            "owner.json/",
        ] {
            assert!(format!("{root}/{other}").parse::<Key>().is_err(), "{other}");
        }
    }
}
