//! The examples, as users run them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use railgun_client::{GroupName, Message};

use crate::eventually;
use crate::site::{Site, binary, name};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// One that runs until it is told to go.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(mut example: Command) -> Self {
        let mut child = example.stdout(Stdio::piped()).spawn().expect("the example runs");
        let printed = BufReader::new(child.stdout.take().expect("piped"));
        let (line, lines) = mpsc::sync_channel(1_024);
        std::thread::spawn(move || {
            printed.lines().map_while(Result::ok).try_for_each(|text| line.send(text))
        });
        Self { child, lines }
    }

    /// The next line with this word in it.
    fn line_with(&mut self, word: &str) -> String {
        tokio::task::block_in_place(|| {
            let mut lines = std::iter::from_fn(|| self.lines.recv_timeout(PATIENCE).ok());
            lines.find(|line| line.contains(word)).expect("it says so")
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn example(site: &Site, example: &str, args: &[&str]) -> Command {
    let file = format!("{example}{}", std::env::consts::EXE_SUFFIX);
    let program = binary().parent().expect("target/PROFILE").join("examples").join(file);
    assert!(
        program.is_file(),
        "there is no {}: run `cargo test --workspace`, or `cargo build --workspace --examples` first",
        program.display()
    );
    let mut command = Command::new(program);
    command.args(args).env("RAILGUN_CA", site.authority());
    command
}

fn run(mut example: Command) -> String {
    let output = tokio::task::block_in_place(|| example.output()).expect("the example runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_do_what_they_say() {
    // DD-7: appended once however often it is published, and done once by whoever knows what it has done.
    let site = Site::new();
    let _node = site.start().await;
    let server = site.listen().to_string();
    site.output(&["stream", "ensure", "orders", "--dedup-window", "10m"]);
    let file = site.home().join("orders.txt");
    std::fs::write(&file, "a book\nbusy with a lamp\na chair\n").expect("written");
    let file = file.to_str().expect("text");
    for _ in 0..2 {
        let said = run(example(&site, "idempotent_publisher", &[file, &server]));
        assert_eq!(said, "3 are in the stream\n");
    }
    let client = site.client().await;
    let publisher = client.publisher(name("orders")).open().await.expect("opened");
    let broken = publisher.send(Message::new(vec![0xff])).await.expect("sent");
    assert_eq!(broken.await.expect("published").offset.0, 3, "each line is there once");

    // the second one waits, and has a higher token when it takes over.
    let projector = || Running::start(example(&site, "ordered_projector", &[&server]));
    let mut first = projector();
    assert_eq!(first.line_with("active"), "active, with token 1");
    first.line_with("next_offset: Offset(4), bytes: 30");
    let mut second = projector();
    drop(first);
    assert_eq!(second.line_with("active"), "active, with token 2");
    drop(second);

    let mut pool = Running::start(example(&site, "worker_pool", &[&server, "2"]));
    let busy = pool.line_with("busy");
    assert!(busy.ends_with("1 attempt 2: busy with a lamp"), "{busy}");
    let billing = GroupName::new("billing").expect("valid");
    let dead = async || {
        let described = client.admin().describe_group(&name("orders"), &billing).await;
        described.is_ok_and(|it| it.dead == 1 && it.lag == 0).then_some(())
    };
    eventually("what can never be done is a dead letter", PATIENCE, dead).await;
    drop(pool);

    let redrive =
        |word| example(&site, "redrive_dead_letters", &["orders", "billing", word, &server]);
    let said = run(redrive("no such word"));
    assert!(
        said.starts_with("3: rejected after 1 attempts: ") && said.lines().count() == 1,
        "{said}"
    );
    let said = run(redrive("utf-8"));
    assert!(said.ends_with("1 are delivered again\n"), "{said}");
}
