//! Client commands of the real binary against a real node: how they end, what they say, and that
//! they leave no session behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::site::Site;
use crate::{eventually, not_tested};

/// Well below the 15 s after which a server gives up a client that went without a word.
const CLOSED_LIMIT: Duration = Duration::from_secs(5);
/// For the end of a command.
const END_LIMIT: Duration = Duration::from_secs(10);
/// More than a pipe and the buffers of both ends hold.
const MANY: u32 = 50_000;

/// How the command ends, what it prints on standard error. It must not succeed.
fn failure(site: &Site, args: &[&str]) -> (Option<i32>, String) {
    let output = site.run(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?}");
    assert!(errors.starts_with("error: "), "{args:?}: {errors}");
    assert!(errors.contains("\n   at: ") && errors.contains("\n next: "), "{args:?}: {errors}");
    (output.status.code(), errors)
}

/// Runs the command until it has printed a line, and then `stop`s it. It must have nothing to complain
/// of.
async fn stopped_amid(site: &Site, args: &[&str], stop: impl FnOnce(&mut Child)) -> ExitStatus {
    let mut command = site.client_command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut printed = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    tokio::task::block_in_place(|| printed.read_line(&mut line)).expect("a line");
    stop(&mut child);
    drop(printed);
    let status = eventually("the command ends", END_LIMIT, || {
        std::future::ready(child.try_wait().expect("a child of this process"))
    })
    .await;
    let mut errors = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
    assert_eq!(errors, "", "{args:?}");
    status
}

fn tell(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("the process is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_how_far_a_command_is() {
    let site = Site::new();
    let _node = site.start().await;
    site.output(&["stream", "ensure", "orders"]);
    let lines: String = (0..1_000).map(|number| format!("{number}\n")).collect();
    std::fs::write(site.home().join("orders"), lines).expect("a file");
    let run = |command: &str| {
        let mut terminal = site.terminal_command(command);
        let shown = tokio::task::block_in_place(|| terminal.output())?;
        let text = String::from_utf8(shown.stdout).expect("text");
        assert!(shown.status.success(), "{command}: {text}");
        Ok::<_, std::io::Error>(text)
    };
    for (command, progress) in [
        ("$railgun pub orders --file orders --rate 2000", "/3.80 KiB"),
        ("$railgun segment seal orders", "on its way to the bucket"),
        ("$railgun sub orders --from earliest --until-end --raw >read", " records "),
    ] {
        let shown = match run(command) {
            Ok(shown) => shown,
            Err(error) => return not_tested("what a terminal shows", &error.to_string()),
        };
        assert!(shown.contains(progress), "{command}: {shown}");
    }
    // Where the records themselves are on the terminal, or nothing is, it would be in the way.
    let read = run("cmp orders read && $railgun sub orders --from earliest --until-end --raw");
    let piped = run("$railgun segment seal orders 2>&1 | cat");
    for shown in [read, piped].map(|shown| shown.expect("as before")) {
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_command_closes_its_session() {
    let mut site = Site::new();
    site.set("RAILGUN_LOG_FILTER", "info,openraft=error,railgun_broker::session=debug");
    let _node = site.start().await;
    site.output(&["stream", "ensure", "orders"]);
    let many = MANY.to_string();
    site.output(&["pub", "orders", "a message of some length", "--count", &many]);

    // Failures on the way.
    let (code, errors) = failure(&site, &["sub", "nope"]);
    assert_eq!(code, Some(4));
    assert!(errors.contains("railgun stream ls"), "{errors}");
    let (code, errors) = failure(&site, &["pub", "nope", "x"]);
    assert_eq!(code, Some(4));
    assert!(errors.contains("railgun stream ensure nope"), "{errors}");
    let (code, errors) = failure(&site, &["pub", "orders", "x", "--header", "rg-mine=1"]);
    assert_eq!(code, Some(5), "{errors}");

    // The reader of the output goes away: no error, and no message.
    let read_all = ["sub", "orders", "--from", "earliest", "--raw"];
    let status = stopped_amid(&site, &read_all, |_| ()).await;
    assert_eq!(status.code(), Some(0));

    // Told to stop while following.
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let status = stopped_amid(&site, &["sub", "orders", "--from", "last:1"], |child| {
            tell(child, signal);
        });
        assert_eq!(status.await.code(), Some(code));
    }

    eventually("all sessions are closed", CLOSED_LIMIT, || {
        let log = site.log();
        let [opened, closed] = ["session opened", "session closed"].map(|t| log.matches(t).count());
        std::future::ready((opened >= 8 && opened == closed).then_some(()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_deleted_once_and_an_unknown_one_is_not_offered_to_be_made() {
    let site = Site::new();
    let _node = site.start().await;
    site.output(&["stream", "ensure", "orders"]);
    // Standard input is no terminal, so nobody is asked.
    let deleted = site.output(&["stream", "rm", "orders"]);
    assert!(String::from_utf8_lossy(&deleted).starts_with("orders: deleted (uid "));
    for name in ["orders", "nope"] {
        let (code, errors) = failure(&site, &["stream", "rm", name]);
        assert_eq!(code, Some(4));
        assert!(errors.contains("railgun stream ls") && !errors.contains("ensure"), "{errors}");
    }
    let (code, errors) = failure(&site, &["stream", "ensure", "orders", "--mode", "check"]);
    assert_eq!(code, Some(4));
    assert!(errors.ends_with(" next: railgun stream ensure orders\n"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dev_context_works_with_a_token_once_it_is_told() {
    const TOKEN: &str = "sixteen bytes or more";
    let mut site = Site::new();
    // printf 'sixteen bytes or more' | sha256sum
    let hash = site.output_with_input(&["config", "hash-token"], TOKEN);
    site.set("RAILGUN_AUTH_TOKENS", String::from_utf8(hash).expect("text").trim());
    let told = |context: &str| std::fs::read_to_string(context).unwrap_or_default();
    let contexts = site.home().join(".config/railgun/contexts.toml");
    let contexts = contexts.to_str().expect("text").to_owned();
    let mut node = site.spawn();
    eventually("the context is written", END_LIMIT * 3, || {
        std::future::ready(told(&contexts).contains("[contexts.dev]").then_some(()))
    })
    .await;
    let (code, errors) = failure(&site, &["stream", "ensure", "orders"]);
    assert_eq!(code, Some(5));
    assert!(errors.contains("--token"), "{errors}");
    // As the guide says.
    site.output(&["context", "set", "dev", "--token", TOKEN]);
    site.output(&["stream", "ensure", "orders"]);

    // It is kept over a restart.
    node.terminate();
    node.ended(END_LIMIT * 2).await;
    let old = std::fs::metadata(&contexts).and_then(|file| file.modified()).expect("a file");
    let _node = site.spawn();
    eventually("the context is written anew", END_LIMIT * 3, || {
        let now = std::fs::metadata(&contexts).and_then(|file| file.modified()).expect("a file");
        std::future::ready((now != old).then_some(()))
    })
    .await;
    site.output(&["stream", "info", "orders"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_with_a_message_comes_back_with_it() {
    let site = Site::new();
    let _node = site.start().await;
    site.output(&["stream", "ensure", "orders"]);
    let with = ["--key", "table-4", "--header", "a=1", "--header", "b=x=y", "--id", "order-7"];
    site.output(&[&["pub", "orders", "one coffee"][..], &with].concat());
    // As fast as it is told to, of which only the order and the number are looked at.
    site.output(&["pub", "orders", "tick", "--count", "3", "--rate", "1000"]);
    let lines = "no id\n\ncarriage return\r\nno line feed";
    site.output_with_input(&["pub", "orders", "--file", "-"], lines);
    site.output_with_input(&["pub", "orders"], "from a pipe\n");

    let read = |more: &[&str]| {
        let all = ["sub", "orders", "--until-end"];
        String::from_utf8(site.output(&[&all[..], more].concat())).expect("text")
    };
    let first = [
        "--from",
        "earliest",
        "--limit",
        "1",
        "--format",
        r"{offset}|{key}|{headers}|{id}|{value}\0{{",
    ];
    let first = read(&first);
    assert_eq!(first, "0|table-4|a=1,b=x=y|order-7|one coffee\0{\n");
    let values = read(&["--raw", "--from", "earliest"]);
    let wanted =
        "one coffee\ntick\ntick\ntick\nno id\n\ncarriage return\r\nno line feed\nfrom a pipe\n";
    assert_eq!(values, wanted);
    assert_eq!(read(&["--raw", "--from", "last:2"]), "no line feed\nfrom a pipe\n");
    assert_eq!(read(&["--raw", "--from", "7", "--until", "8"]), "no line feed\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_with_its_id_is_published_once() {
    // DD-1, DD-2, EN-4, of the real binary, over a restart
    let site = Site::new();
    let mut node = site.start().await;
    let text = |args: &[&str]| String::from_utf8(site.output(args)).expect("text");
    assert_eq!(
        text(&["stream", "ensure", "s", "--dedup-window", "2m"]),
        "s: created, revision 1\n"
    );
    assert_eq!(text(&["pub", "s", "one", "--id", "a"]), "s: offset 0\n");
    let known = "s: offset 0, published before under the same id\n";
    assert_eq!(text(&["pub", "s", "one", "--id", "a"]), known);
    node.terminate();
    node.ended(END_LIMIT * 2).await;
    let _node = site.start().await;
    assert_eq!(text(&["pub", "s", "one", "--id", "a"]), known);
    assert_eq!(text(&["pub", "s", "two", "--id", "b"]), "s: offset 1\n");
    let all = ["sub", "s", "--from", "earliest", "--until-end", "--raw"];
    assert_eq!(text(&all), "one\ntwo\n");

    let (code, errors) = failure(&site, &["pub", "s", "three", "--id", "b"]);
    assert!(errors.contains("another message, at offset 1"), "{errors}");
    assert_eq!(code, Some(5), "refused");
    let off = ["stream", "ensure", "s", "--dedup-window", "off", "--mode", "overwrite"];
    let (_, errors) = failure(&site, &off);
    assert!(errors.contains("--allow-destructive"), "{errors}");
    let info = text(&["stream", "info", "s", "-o", "json"]);
    for field in ["\"dedup_window_ms\": 120000", "\"dedup_ids\": 2", "\"dedup_full\": \"reject\""] {
        assert!(info.contains(field), "{info}");
    }
}
