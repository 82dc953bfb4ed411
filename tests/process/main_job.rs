//! The main job, as users do it from the command line: publish a file, seal and retire it, kill the
//! node, and get the same bytes back from the bucket, through the broker and without it.

use std::fmt::Write as _;

use railgun_testkit::sim::Random;

use crate::site::{Site, name};

/// Enough for a segment: a stream with less goes into a bundle.
const LINES: u64 = 60_000;

/// Lines as they come: JSON, an empty one, one with a carriage return, one without ASCII.
fn lines() -> String {
    let mut random = Random::new(1);
    let mut text = String::new();
    for number in 0..LINES {
        match number {
            10 => text.push('\n'),
            20 => text.push_str("with a carriage return\r\n"),
            30 => text.push_str("größer als €, 例えば\n"),
            _ => {
                let (a, b) = (random.next(), random.next());
                writeln!(
                    text,
                    r#"{{"order":{number},"key":"{a:016x}","note":"{b:016x}{a:016x}"}}"#
                )
                .expect("a String takes everything");
            }
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_file_comes_back_byte_for_byte() {
    let site = Site::new();
    let text = lines();
    let file = site.data_dir.with_extension("ndjson");
    std::fs::write(&file, &text).expect("written");
    let same = |what: &str, got: Vec<u8>, wanted: &str| {
        assert!(got == wanted.as_bytes(), "{what} differs from what was published");
    };
    let sub_all = ["sub", "orders", "--from", "earliest", "--until-end", "--raw"];
    let first_source =
        ["sub", "orders", "--from", "earliest", "--limit", "1", "--format", "{source}"];

    let node = site.start().await;
    site.output(&["stream", "ensure", "orders"]);
    site.output(&["pub", "orders", "--file", file.to_str().expect("UTF-8")]);
    same("the hot stream", site.output(&sub_all), &text);
    site.output(&["segment", "seal", "orders", "--retire"]);
    node.kill();

    let node = site.start().await;
    assert_eq!(site.output(&first_source).trim_ascii(), b"cold");
    same("the stream after the restart", site.output(&sub_all), &text);
    node.kill();

    let replay = ["replay", &site.bucket, "--stream", "orders", "--raw"];
    same("the bucket", site.output(&replay), &text);
    let half = (LINES / 2).to_string();
    let rest: String = text.split_inclusive('\n').skip(LINES as usize / 2).collect();
    same("half of the bucket", site.output(&[&replay[..], &["--from", &half]].concat()), &rest);
    assert_eq!(site.replay(&name("orders")).len() as u64, LINES);
}
