//! `docs/protocol.md` says what the code does.

use railgun_proto::{ALPN, FrameKind};
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::limits::{BATCH_BYTES_HARD, Limits};
use railgun_types::{ErrorCode, Retry};

const DOC: &str = include_str!("../../../docs/protocol.md");

/// The cells of the table under the header row that begins with `header`.
fn table(header: &str) -> Vec<Vec<&'static str>> {
    let mut lines = DOC.lines().skip_while(|line| !line.starts_with(header));
    assert!(lines.next().is_some(), "no table {header}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn hint(retry: Retry) -> String {
    match retry {
        Retry::Never => "never".to_owned(),
        Retry::Now => "now".to_owned(),
        Retry::After(after) if after.subsec_millis() == 0 => format!("after {} s", after.as_secs()),
        Retry::After(after) => format!("after {} ms", after.as_millis()),
        Retry::OnNewLeader => "on new leader".to_owned(),
    }
}

#[test]
fn the_error_table_is_complete_and_right() {
    let rows = table("| code | name | usual hint |");
    let told: Vec<String> = rows.iter().map(|row| row[..3].join(" | ")).collect();
    let real: Vec<String> = ErrorCode::ALL
        .iter()
        .map(|&code| format!("{} | {} | {}", code as u32, code, hint(code.retry())))
        .collect();
    assert_eq!(told, real);
    assert!(rows.iter().all(|row| row.len() == 4 && !row[3].is_empty()));
}

#[test]
fn the_frame_table_is_complete_and_right() {
    let told: Vec<(String, bool)> = table("| kind | name | from |")
        .iter()
        .map(|row| (format!("{} {}", row[0], row[1]), !row[3].is_empty()))
        .collect();
    let real: Vec<(String, bool)> = FrameKind::ALL
        .iter()
        .map(|&kind| (format!("{} {kind}", kind as u8), kind.blob_bytes_max() > 0))
        .collect();
    assert_eq!(told, real);
}

#[test]
fn names_and_limits_are_right() {
    let alpn = std::str::from_utf8(ALPN).unwrap();
    assert!(DOC.contains(&format!("| ALPN | `{alpn}`.")));
    let grouped = |bytes: usize| {
        let (millions, thousands) = (bytes / 1_000_000, bytes / 1_000 % 1_000);
        match millions {
            0 => format!("{thousands},{:03}", bytes % 1_000),
            _ => format!("{millions},{thousands:03},{:03}", bytes % 1_000),
        }
    };
    let head = grouped(FrameKind::Publish.head_bytes_max());
    let result = grouped(FrameKind::PublishResult.head_bytes_max());
    let request = FrameKind::Hello.head_bytes_max();
    let requests = FrameKind::ALL.iter().filter(|kind| kind.head_bytes_max() == request);
    let requests: Vec<_> = requests.map(|kind| format!("`{kind}`")).collect();
    let (requests, request) = (requests.join(", "), grouped(request));
    let blob = grouped(BATCH_BYTES_HARD);
    for limit in [
        format!("a head has at most {head} bytes, and {request} in {requests}"),
        format!("that of a `PublishResult` has at most {result}"),
        format!("a blob at most {blob}"),
        format!("A batch has at most {blob} bytes"),
    ] {
        assert!(DOC.contains(&limit), "{limit}");
    }
}

#[test]
fn the_example_batch_is_right() {
    let example = DOC.split("```batch\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let bytes: Vec<u8> = example
        .lines()
        .flat_map(|line| line.split("  ").next().unwrap().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let mut builder = BatchBuilder::new(1_000);
    builder.push(&RecordDraft { value: b"hi", ..RecordDraft::default() }).unwrap();
    builder
        .push(&RecordDraft {
            key: Some(b"k"),
            headers: &[("h", b"v")],
            producer_ts: Some(1),
            value: b"yo",
            id: Some(b"a"),
        })
        .unwrap();
    let made = builder.finish().concat();
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
    assert_eq!(line(&bytes), line(&made));
    RecordBatch::validate(bytes.into(), &Limits::default(), 1_000).unwrap();
}
