//! What keeps a node from starting: it says so, soon, with the documented exit code.

use std::time::Duration;

use railgun_client::Message;
use railgun_cold::BucketUrl;

use crate::eventually;
use crate::s3_gate::{Gate, S3Gate};
use crate::site::{Site, free_address, name};

/// "Failed" in the table of exit codes.
const FAILED: Option<i32> = Some(1);
/// "No connection to the server or the bucket".
const CANNOT_CONNECT: Option<i32> = Some(3);
/// An unreachable bucket is told within 10 s; the process takes a moment to start.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_on_one_data_directory_refuses_and_leaves_the_first_alone() {
    let site = Site::new();
    let _first = site.start().await;
    let client = site.client().await;
    client.admin().create_if_absent(&name("orders")).await.expect("ensured");
    let publisher = client.publisher(name("orders")).open().await.expect("opened");
    publisher.send(Message::new("1")).await.expect("sent").await.expect("published");

    let mut second = site.spawn_at(free_address());
    let status = second.ended(UNREACHABLE_LIMIT).await;
    assert_eq!(status.code(), FAILED);
    let log = site.log();
    let reason = log.lines().rev().find(|line| line.starts_with("error: ")).expect("a reason");
    assert!(reason.contains("another process"), "{reason}");
    assert!(log.contains("\n next: stop the other process"), "{log}");

    let next = publisher.send(Message::new("2")).await.expect("sent").await.expect("published");
    assert_eq!(next.offset.0, 1);
    assert_eq!(
        site.output(&["sub", "orders", "--from", "earliest", "--until-end", "--raw"]),
        b"1\n2\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_what_to_pass_instead() {
    let site = Site::new();
    let _first = site.start().await;
    let other = Site::new();
    let status = other.spawn_at(site.listen()).ended(UNREACHABLE_LIMIT).await;
    assert_eq!(status.code(), FAILED);
    let log = other.log();
    assert!(log.contains(&site.listen().to_string()) && log.contains("--listen"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_lines_of_json_where_that_is_asked_for() {
    let mut site = Site::new();
    site.set("RAILGUN_LOG_FORMAT", "json");
    let mut node = site.start().await;
    node.terminate();
    assert!(node.ended(UNREACHABLE_LIMIT).await.success());
    let log = site.log();
    let mut messages = Vec::new();
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
        messages.push(event["message"].as_str().expect(line).to_owned());
    }
    assert!(messages.len() > 2, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_any_name_are_started_on_again() {
    let mut site = Site::new();
    let odd = site.home().join("a \"b\" \\c #d %41 हि");
    site.data_dir = odd.join("data");
    site.bucket = BucketUrl::File { root: odd.join("bucket") }.to_string();
    for message in ["1", "2"] {
        let mut node = site.start().await;
        site.output(&["stream", "ensure", "orders"]);
        site.output(&["pub", "orders", message]);
        site.output(&["segment", "seal", "orders"]);
        let files = String::from_utf8(site.output(&["segment", "ls", "orders", "--files"]));
        for file in files.expect("text").lines() {
            assert!(std::path::Path::new(file).is_file(), "{file}");
        }
        node.terminate();
        node.ended(UNREACHABLE_LIMIT).await;
    }
    assert_eq!(site.replay(&name("orders")), ["1", "2"]);
}

/// All it needs is on its disk (T-3).
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ran_before_starts_without_its_bucket_and_uploads_when_that_is_back() {
    let s3 = S3Gate::start(Gate::Open).await;
    let mut site = Site::new();
    s3.serve(&mut site);
    let mut node = site.start().await;
    site.output(&["stream", "ensure", "orders"]);
    for (gate, message) in [(Gate::Closed, "1"), (Gate::Hanging, "2")] {
        s3.set(gate);
        node.kill();
        node = site.start().await;
        site.output(&["pub", "orders", message]);
    }
    let read = site.output(&["sub", "orders", "--from", "earliest", "--until-end", "--raw"]);
    assert_eq!(read, b"1\n2\n");
    eventually("the bucket's silence is told", UNREACHABLE_LIMIT, || async {
        site.log().contains("it is not known yet whether the bucket is the cluster's").then_some(())
    })
    .await;
    s3.set(Gate::Open);
    site.output(&["segment", "seal", "orders"]);
    assert_eq!(site.replay(&name("orders")), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_out_of_reach_is_named_within_ten_seconds() {
    for gate in [Gate::Closed, Gate::Hanging] {
        let s3 = S3Gate::start(gate).await;
        let mut site = Site::new();
        s3.serve(&mut site);
        let status = site.spawn().ended(UNREACHABLE_LIMIT).await;
        assert_eq!(status.code(), CANNOT_CONNECT, "{gate:?}");
        let log = site.log();
        assert!(log.contains("\n next: railgun config show"), "{log}");
        let reason = log.lines().rev().find(|line| line.starts_with("error: "));
        let reason = reason.expect("a reason");
        assert!(
            reason.contains(&s3.endpoint()) && reason.contains("cannot be reached"),
            "{reason}"
        );
    }
}
