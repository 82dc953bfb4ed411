//! What a manifest says of a range is what the range's object says, and both are true: an object is
//! never written again, so what is wrong there stays wrong.

use std::collections::HashMap;

use railgun_cold::replay::{Replay, ReplayBound, ReplayStream};
use railgun_cold::segment::Footer;
use railgun_cold::testing::{Conditions, footer};
use railgun_cold::{Bucket, ColdPart, ReaderOptions};
use railgun_testkit::TestNode;
use sha2::{Digest as _, Sha256};

use crate::records::{bulky, publish};
use crate::store::{BUNDLES, SEGMENTS, Store};
use crate::{name, publisher, retire};

/// Each is too little for a segment; all do not fit a row group, so the last begins in the second.
const SMALL: [&str; 4] = ["small.a", "small.b", "small.c", "small.d"];
const LARGE: &str = "large";

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_and_the_footers_of_its_objects_agree() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    // Two cuts, so that every stream's digest goes on in another object.
    for round in 0..2 {
        for stream in SMALL {
            let publisher = publisher(&client, stream).await;
            for part in 0..4 {
                let first = 100 * round + 10 * part;
                publish(&publisher, (first..first + 10).map(|n| bulky(n, 90 << 10))).await;
            }
        }
        let large = publisher(&client, LARGE).await;
        publish(&large, (0..10).map(|n| bulky(1000 * round + n, 900 << 10))).await;
        retire(&client, LARGE).await;
    }
    assert_eq!((store.puts(BUNDLES), store.puts(SEGMENTS)), (2, 2));

    let replay = Replay::open(&store.bucket, None, &ReaderOptions::default()).await;
    let replay = replay.expect("one cluster");
    let mut footers = HashMap::new();
    let mut inside = 0;
    for stream in SMALL.into_iter().chain([LARGE]) {
        let stream = replay.stream(&name(stream)).expect("in the manifest");
        inside += check_stream(&store.bucket, &replay, &stream, &mut footers).await;
    }
    assert!(inside >= 2, "only {inside} ranges begin behind the first row group of their object");
}

/// Checks every range of `stream`. Returns how many begin in another row group than the first.
async fn check_stream(
    bucket: &Bucket,
    replay: &Replay,
    stream: &ReplayStream<'_>,
    footers: &mut HashMap<String, Footer>,
) -> usize {
    let told = stream.told;
    assert_eq!(told.ranges.len(), 2, "{}", told.name);
    let mut inside = 0;
    let mut digest = [0; 32];
    for range in &told.ranges {
        let part = ColdPart::new(stream.manifest, stream.uid, range).expect("an object");
        let key = part.object.key.to_string();
        if !footers.contains_key(&key) {
            let read = footer(bucket, &part.object).await.expect("a footer");
            footers.insert(key.clone(), read);
        }
        let footer = &footers[&key];
        let (number, encoded) = footer
            .parts
            .iter()
            .enumerate()
            .find(|(_, encoded)| encoded.part.stream == stream.uid)
            .unwrap_or_else(|| panic!("{key} has nothing of {}", told.name));
        let part = &encoded.part;
        assert_eq!(
            (range.base, range.count, range.min_ts, range.max_ts, range.record_bytes),
            (part.base, part.count, part.min_ts, part.max_ts, part.record_bytes),
            "{key}"
        );
        assert_eq!(
            (range.first_row, range.first_row_group),
            (part.first_row, part.first_row_group),
            "{key}"
        );
        // Where its rows lie follows from those before it.
        let first_row: u64 = footer.parts[..number].iter().map(|before| before.part.count).sum();
        let group = row_group_of(footer, first_row);
        assert_eq!((range.first_row, range.first_row_group), (first_row, group), "{key}");
        inside += usize::from(group > 0);

        assert_eq!(encoded.previous_digest, digest, "{key}: the digest before {}", range.base.0);
        let bounds = (ReplayBound::Offset(range.base), ReplayBound::Offset(range.end()));
        digest = digest_of(replay, stream, bounds, digest).await;
        assert_eq!(part.digest, digest, "{key}: the digest behind {}", range.base.0);
    }
    assert_eq!(told.digest, digest, "{}", told.name);
    inside
}

fn row_group_of(footer: &Footer, row: u64) -> u32 {
    let mut before = 0;
    let ends = footer.row_groups.iter().map(|group| {
        before += group.rows;
        before
    });
    ends.zip(0..).find(|(end, _)| row < *end).expect("a row group").1
}

/// The digest behind a range, from its records as they are read.
async fn digest_of(
    replay: &Replay,
    stream: &ReplayStream<'_>,
    (from, until): (ReplayBound, ReplayBound),
    previous: [u8; 32],
) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(previous);
    let mut cursor = replay.read(*stream, from, until).await.expect("bounds are found");
    while let Some(batches) = cursor.next().await {
        for batch in batches.expect("readable") {
            for (entry, offset) in batch.batch.records().zip(batch.base.0..) {
                hash.update(offset.to_le_bytes());
                hash.update(batch.ts.0.to_le_bytes());
                hash.update(entry.crc.to_le_bytes());
            }
        }
    }
    hash.finalize().into()
}
