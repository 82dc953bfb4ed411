//! Consumer groups with real processes: members that die, are stopped and come back, a node that is killed,
//! and a file of what there is to be.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use railgun_client::{Client, GroupEvent, GroupName, Message, Offset};
use railgun_testkit::sim::Random;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::eventually;
use crate::seed::seed_of;
use crate::site::{Site, name};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn group() -> GroupName {
    GroupName::new("g").expect("valid")
}

fn tell(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("the process is there");
}

/// A node with so many numbered messages in the stream "s".
async fn with_messages(site: &Site, count: u64) -> Client {
    site.output(&["stream", "ensure", "s"]);
    let lines: String = (0..count).map(|number| format!("m{number}\n")).collect();
    site.output_with_input(&["pub", "s", "--file", "-"], &lines);
    site.client().await
}

/// A member that takes messages, prints the number of each and sleeps with it, until it is told to go.
fn sleeper(site: &Site) -> (Child, BufReader<std::process::ChildStdout>) {
    let exec = "cat; echo; exec sleep 600";
    let args = ["sub", "s", "--group", "g", "--exec", exec, "--credit", "2"];
    let mut command = site.client_command(&args);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
    let printed = BufReader::new(child.stdout.take().expect("piped"));
    (child, printed)
}

fn line(printed: &mut BufReader<std::process::ChildStdout>) -> String {
    let mut line = String::new();
    tokio::task::block_in_place(|| printed.read_line(&mut line)).expect("a line");
    line.trim().to_owned()
}

/// Acks all that comes, until all before `end` are done; what came, with its attempt.
async fn work_off(client: &Client, end: u64) -> Vec<(u64, u32)> {
    let stream = name("s");
    let opened = client.subscribe(stream.clone()).group(group()).credit(10).open().await;
    let mut member = opened.expect("a place");
    let mut came = Vec::new();
    let work = async {
        loop {
            let described = client.admin().describe_group(&stream, &group()).await.expect("told");
            if described.floor >= Offset(end) {
                return;
            }
            let next = tokio::time::timeout(Duration::from_millis(200), member.next()).await;
            let Ok(next) = next else { continue };
            if let Some(GroupEvent::Delivery(delivery)) = next.expect("it goes on") {
                came.push((delivery.offset().0, delivery.attempt()));
                delivery.ack_confirmed().await.expect("nobody else has it");
            }
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("all is done in time");
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_member_had_goes_to_another_at_once() {
    // G-9, G-10
    let site = Site::new();
    let _node = site.start().await;
    let client = with_messages(&site, 20).await;
    site.output(&["group", "ensure", "s", "g", "--start", "earliest", "--ack-wait", "10m"]);
    let (mut child, mut printed) = sleeper(&site);
    assert_eq!(line(&mut printed), "m0");
    tell(&child, Signal::KILL);
    child.wait().expect("it is gone");
    // Long before its time to ack is over.
    let came = work_off(&client, 20).await;
    let attempts: Vec<_> = came.iter().filter(|(offset, _)| *offset == 0).collect();
    assert_eq!(attempts, [&(0, 2)], "it had begun with the first one, and with no other");
    assert!(came.iter().all(|(offset, attempt)| *offset == 0 || *attempt == 1), "{came:?}");
    let offsets: BTreeSet<_> = came.iter().map(|(offset, _)| *offset).collect();
    assert_eq!((offsets.len(), came.len()), (20, 20), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_stopped_past_its_time_comes_too_late() {
    // G-7, G-8
    let site = Site::new();
    let _node = site.start().await;
    let client = with_messages(&site, 3).await;
    site.output(&["group", "ensure", "s", "g", "--start", "earliest", "--ack-wait", "1s"]);
    // Its command would end well, in a moment.
    let exec = "cat; echo; sleep 0.3";
    let args = ["sub", "s", "--group", "g", "--exec", exec, "--credit", "1", "--limit", "1"];
    let mut command = site.client_command(&args);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut printed = BufReader::new(child.stdout.take().expect("piped"));
    assert_eq!(line(&mut printed), "m0");
    tell(&child, Signal::STOP);
    let came = work_off(&client, 3).await;
    assert_eq!(came.iter().find(|(offset, _)| *offset == 0), Some(&(0, 2)), "{came:?}");
    tell(&child, Signal::CONT);
    // It says that it is done, which changes nothing, and ends when that was answered.
    eventually("the member ends", PATIENCE, || {
        std::future::ready(child.try_wait().expect("a child of this process"))
    })
    .await;
    let described = client.admin().describe_group(&name("s"), &group()).await.expect("told");
    assert_eq!((described.floor, described.lag, described.dead), (Offset(3), 0, 0));
}

/// Rounds of a node that is killed, unless `RAILGUN_KILL_ROUNDS` says otherwise.
const ROUNDS: u64 = 30;
/// A node lives for at most so long, in ms.
const LIFE_MS_MAX: u64 = 600;

/// Publishes until it is told to end; how many were acknowledged.
async fn publish(client: Client, over: CancellationToken) -> u64 {
    let publisher = client.publisher(name("s")).open().await.expect("opened");
    let mut tickets = JoinSet::new();
    let mut number = 0;
    while !over.is_cancelled() {
        let message = Message::new(format!("m{number}")).with_id(number.to_string());
        let ticket = publisher.send(message).await.expect("taken");
        tickets.spawn(ticket);
        number += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let told = tickets.join_all().await;
    told.iter().filter(|published| published.is_ok()).count() as u64
}

/// What a member has seen of a message.
#[derive(Debug)]
enum Seen {
    Delivered(u64),
    Confirmed(u64),
}

/// Acks all that comes, until it is told to end.
async fn consume(client: Client, seen: mpsc::Sender<Seen>, over: CancellationToken) {
    let opened = client.subscribe(name("s")).group(group()).credit(50).open().await;
    let mut member = opened.expect("a place");
    let mut acks = JoinSet::new();
    while let Some(next) = over.run_until_cancelled(member.next()).await {
        let Some(GroupEvent::Delivery(delivery)) = next.expect("it goes on") else { continue };
        let seen = seen.clone();
        acks.spawn(async move {
            let offset = delivery.offset().0;
            seen.send(Seen::Delivered(offset)).await.ok();
            if delivery.ack_confirmed().await.is_ok() {
                seen.send(Seen::Confirmed(offset)).await.ok();
            }
        });
        while acks.try_join_next().is_some() {}
    }
    acks.join_all().await;
}

/// What was delivered, and how many acks were confirmed, once all who saw something have ended.
async fn collect(mut seen: mpsc::Receiver<Seen>) -> (BTreeSet<u64>, usize) {
    let (mut delivered, mut confirmed) = (BTreeSet::new(), BTreeSet::new());
    while let Some(seen) = seen.recv().await {
        match seen {
            Seen::Delivered(offset) => drop(delivered.insert(offset)),
            Seen::Confirmed(offset) => {
                assert!(confirmed.insert(offset), "the ack of {offset} counted twice");
            }
        }
    }
    (delivered, confirmed.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_no_ack_counts_twice_however_often_a_node_is_killed() {
    // G-2, G-3, G-14, DD-4
    let seed = seed_of("RAILGUN_KILL_SEED");
    println!("RAILGUN_KILL_SEED={seed}");
    let mut random = Random::new(seed);
    let rounds = std::env::var("RAILGUN_KILL_ROUNDS").ok().and_then(|n| n.parse().ok());
    let site = Site::new();
    let mut node = site.start().await;
    site.output(&["stream", "ensure", "s", "--dedup-window", "10m"]);
    site.output(&["group", "ensure", "s", "g", "--start", "earliest", "--max-attempts", "1000"]);
    let client = site.client().await;
    let over = CancellationToken::new();
    let (see, seen) = mpsc::channel(1_024);
    let collecting = tokio::spawn(collect(seen));
    let publishing = tokio::spawn(publish(client.clone(), over.clone()));
    let done = CancellationToken::new();
    let members: Vec<_> =
        (0..2).map(|_| tokio::spawn(consume(client.clone(), see.clone(), done.clone()))).collect();
    drop(see);
    for _ in 0..rounds.unwrap_or(ROUNDS) {
        tokio::time::sleep(Duration::from_millis(random.within(20..LIFE_MS_MAX))).await;
        node.kill();
        node = site.start().await;
    }
    over.cancel();
    let acked = tokio::time::timeout(PATIENCE, publishing).await.expect("in time").expect("ended");
    let stream = client.admin().describe_stream(&name("s")).await.expect("told");
    let end = stream.next_offset;
    assert!(acked > 0 && acked <= end.0, "{acked} were acknowledged, and {end} are there");
    eventually("all is settled", PATIENCE, async || {
        let described = client.admin().describe_group(&name("s"), &group()).await;
        described.is_ok_and(|it| it.floor >= end).then_some(())
    })
    .await;
    done.cancel();
    for member in members {
        member.await.expect("what it saw was right");
    }
    let described = client.admin().describe_group(&name("s"), &group()).await.expect("told");
    assert_eq!(described.dead, 0);
    let (delivered, confirmed) = collecting.await.expect("no ack counted twice");
    assert!(delivered.into_iter().eq(0..end.0), "each was delivered");
    println!("{confirmed} confirmed of {end}, {acked} acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_applied_once_and_tells_what_differs() {
    // EN-1, EN-3, EN-5, EN-7
    let site = Site::new();
    let _node = site.start().await;
    let file = site.home().join("streams.toml");
    let path = file.to_str().expect("text").to_owned();
    let write = |text: &str| std::fs::write(&file, text).expect("a file");
    let apply = |more: &[&str]| {
        let output = site.run(&[&["apply", "-f", &path], more].concat());
        let (printed, errors) = (&output.stdout, &output.stderr);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(printed), text(errors))
    };
    site.output(&["stream", "ensure", "foreign", "--owner", "somebody"]);
    write(
        "owner = \"shop\"\n[streams.a]\ndedup.window = \"2m\"\n[streams.a.groups.g]\nstart = \"earliest\"\n[streams.b]\n",
    );
    let made = "+ stream a\n+ group a/g\n+ stream b\n";
    let same = "= stream a\n= group a/g\n= stream b\n";
    assert_eq!(apply(&["--dry-run"]).1, made);
    let (code, printed, errors) = apply(&["--mode", "check"]);
    assert_eq!((code, printed.as_str()), (Some(5), made), "{errors}");
    assert!(errors.contains("\n next: railgun apply -f "), "{errors}");
    assert_eq!((apply(&[]).1.as_str(), apply(&[]).1.as_str()), (made, same));
    assert_eq!(apply(&["--mode", "check"]).0, Some(0));
    write("owner = \"shop\"\n[streams.a]\ndedup.window = \"1m\"\n[streams.a.groups.h]\n");
    let changes = "~ stream a dedup.window: '2m' -> '1m'\n+ group a/h\n";
    assert_eq!(apply(&["--dry-run", "--prune"]).1, format!("{changes}- group a/g\n- stream b\n"));
    assert_eq!(apply(&["--prune"]).1, format!("{changes}- group a/g\n- stream b\n"));
    assert_eq!(apply(&["--prune"]).1, "= stream a\n= group a/h\n");
    site.output(&["stream", "info", "foreign"]);
    // What nobody knows is named, and nothing is done.
    write("[streams.c]\ncolour = \"red\"\n");
    let (code, printed, errors) = apply(&[]);
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("colour") && errors.contains("\n next: "), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_its_consumers_takes_no_other_along() {
    // DL-1, DL-2
    let site = Site::new();
    let _node = site.start().await;
    let client = with_messages(&site, 10).await;
    let ensure = ["group", "ensure", "s", "g", "--start", "earliest"];
    site.output(&[&ensure[..], &["--max-attempts", "3", "--backoff", "0s"]].concat());
    // Whoever takes m4 is killed by it, with all that it has.
    let exec = "read m; [ \"$m\" != m4 ] || kill -9 $PPID";
    let args = ["sub", "s", "--group", "g", "--exec", exec, "--credit", "4"];
    let stream = name("s");
    let dead = async {
        loop {
            let mut member = site.client_command(&args).spawn().expect("the binary runs");
            loop {
                let described = client.admin().describe_group(&stream, &group()).await;
                let described = described.expect("told");
                if described.lag == 0 {
                    tell(&member, Signal::TERM);
                    member.wait().expect("it is gone");
                    return described;
                }
                if member.try_wait().expect("a child").is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    // A killed member is missed after 15 s, and one that could not say any more that it had begun costs no
    // attempt (G-10): three of them are not always enough.
    let described = tokio::time::timeout(2 * PATIENCE, dead).await.expect("it dies in time");
    assert_eq!((described.dead, described.floor), (1, Offset(10)));
    let listed = site.output(&["dlq", "ls", "s", "g", "-o", "json"]);
    let listed = String::from_utf8(listed).expect("text");
    assert!(listed.contains("\"offset\": 4") || listed.contains("\"offset\":4"), "{listed}");
    // DL-7
    site.output(&["stream", "ensure", "retry"]);
    let redrive = ["dlq", "redrive", "s", "g", "--to", "retry"];
    let refused = site.client_command(&redrive).output().expect("the binary runs");
    let told = String::from_utf8(refused.stderr).expect("text");
    assert!(!refused.status.success() && told.contains("ID time box"), "{told}");
    let ensure = ["stream", "ensure", "retry", "--dedup-window", "1h", "--mode", "overwrite"];
    site.output(&ensure);
    let text = |args: &[&str]| String::from_utf8(site.output(args)).expect("text");
    assert_eq!(text(&redrive), "s/g: 1 published into retry\n");
    let read = ["sub", "retry", "--from", "earliest", "--until-end", "--raw"];
    assert_eq!(text(&read).trim(), "m4");
    assert_eq!(text(&redrive), "s/g: 0 published into retry\n", "it is given up here");
    assert_eq!(client.admin().describe_group(&stream, &group()).await.expect("told").dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_fetch_what_they_can_do_and_a_stream_says_when_its_groups_give_up() {
    // G-15
    let site = Site::new();
    let _node = site.start().await;
    let _client = with_messages(&site, 5).await;
    let text = |args: &[&str]| String::from_utf8(site.output(args)).expect("text");
    site.output(&["stream", "ensure", "s", "--max-attempts", "9", "--mode", "overwrite"]);
    site.output(&["group", "ensure", "s", "g", "--start", "earliest"]);
    let info = text(&["group", "info", "s", "g", "-o", "json"]);
    assert!(info.replace(' ', "").contains("\"dlq.max_attempts\":9"), "{info}");
    let fetch = ["sub", "s", "--group", "g", "--raw", "--fetch", "3", "--wait"];
    assert_eq!(text(&[&fetch[..], &["30s"]].concat()), "m0\nm1\nm2\n");
    assert_eq!(text(&[&fetch[..], &["100ms"]].concat()), "m3\nm4\n");
    assert_eq!(text(&[&fetch[..], &["0s"]].concat()), "");
}
