//! What is acknowledged is on the device: the system calls of a node that serves, as the kernel got
//! them. Nothing else can tell: a process that is killed leaves what it wrote to the page cache.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use railgun_client::Message;

use crate::site::{Site, name};
use crate::strace::Strace;

/// Time for what happens by itself.
const LIMIT: Duration = Duration::from_secs(30);
/// Messages that are each waited for.
const MESSAGES: u64 = 20;
/// What is watched: writing, syncing and naming of files, and what goes out to clients.
const CALLS: &str = "trace=write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,link,linkat,\
                     rename,renameat,renameat2,unlink,unlinkat,sendto,sendmsg,sendmmsg";

#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
    /// When it began, in seconds since the epoch.
    began_s: f64,
    /// Lines of the trace at which it began and ended: the order in which the kernel got it.
    began: usize,
    ended: usize,
    /// It returned no error.
    ok: bool,
}

impl Call {
    fn is_sync(&self) -> bool {
        self.ok && matches!(self.name.as_str(), "fsync" | "fdatasync")
    }

    fn is_write(&self) -> bool {
        self.name.starts_with("write") || self.name.starts_with("pwrite")
    }

    fn is_send(&self) -> bool {
        self.name.starts_with("send")
    }

    /// The file of the descriptor that is its first argument.
    fn file(&self) -> &str {
        let (_, behind) = self.arguments.split_once('<').unwrap_or_default();
        behind.split_once('>').unwrap_or_default().0
    }

    /// The texts among its arguments: paths of calls that name files.
    fn paths(&self) -> Vec<&str> {
        self.arguments.split('"').skip(1).step_by(2).collect()
    }
}

/// `PID SECONDS NAME(ARGUMENTS) = RESULT <TIME>`; a call that others come between is
/// `PID SECONDS NAME(ARGUMENTS <unfinished ...>` and `PID SECONDS <... NAME resumed>REST`.
fn parse(lines: impl Iterator<Item = String>) -> Vec<Call> {
    let mut calls = Vec::<Call>::new();
    let mut open = std::collections::HashMap::new();
    let succeeded = |text: &str| {
        let result = text.rsplit_once(" = ").map(|(_, result)| result);
        result.is_some_and(|result| !result.starts_with(['-', '?']))
    };
    for (number, line) in lines.enumerate() {
        let mut words = line.splitn(2, ' ');
        let (Some(thread), Some(rest)) = (words.next(), words.next()) else { continue };
        let Some((seconds, text)) = rest.trim_start().split_once(' ') else { continue };
        if text.starts_with("<... ") {
            if let Some(at) = open.remove(thread) {
                let call: &mut Call = &mut calls[at];
                (call.ended, call.ok) = (number, succeeded(text));
            }
            continue;
        }
        let (Some((name, arguments)), Ok(began_s)) = (text.split_once('('), seconds.parse()) else {
            continue;
        };
        let (name, arguments) = (name.to_owned(), arguments.to_owned());
        let (ended, ok) = if text.ends_with("<unfinished ...>") {
            open.insert(thread.to_owned(), calls.len());
            (usize::MAX, false)
        } else {
            (number, succeeded(text))
        };
        calls.push(Call { name, arguments, began_s, began: number, ended, ok });
    }
    calls
}

/// The clock of the trace.
fn now_s() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "compared with the clock of another process")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn marker(number: u64) -> String {
    format!("acknowledged-message-{number:04}")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_follow_the_sync_of_the_log_and_log_files_go_after_that_of_the_bucket() {
    let mut site = Site::new();
    site.set("RAILGUN_SHARDS_COUNT", "1");
    let mut node = site.start().await;
    let what = "that syncs reach the kernel";
    let Some(trace) = Strace::attach(&site, node.id(), &[CALLS], what) else { return };

    let client = site.client().await;
    let stream = name("durable");
    client.admin().create_if_absent(&stream).await.expect("ensured");
    let publisher = client.publisher(stream.clone()).open().await.expect("opened");
    let mut answered = Vec::new();
    for number in 0..MESSAGES {
        let ticket = publisher.send(Message::new(marker(number))).await.expect("sent");
        ticket.await.expect("published");
        answered.push(now_s());
    }
    let sealed = client.admin().seal_stream(&stream, true, LIMIT).await.expect("sealed");
    assert!(sealed.files_retired > 0, "{sealed:?}");
    client.close().await;
    // The tracer has written everything when the process it follows has gone.
    node.terminate();
    node.ended(LIMIT).await;
    let calls = parse(trace.lines().into_iter());

    let data = std::fs::canonicalize(&site.data_dir).expect("a directory");
    let log = format!("{}/shards/1/log/", data.display());
    for (number, answered_s) in (0..).zip(answered) {
        check_answer(&calls, &log, &marker(number), answered_s);
    }
    let bucket = std::fs::canonicalize(site.bucket_dir()).expect("a directory");
    check_objects(&calls, &log, bucket.to_str().expect("UTF-8"));
}

/// Between the write of a message and its answer the file was synced. The last thing that was sent
/// before the client had its answer is that, or came later.
fn check_answer(calls: &[Call], log: &str, marker: &str, answered_s: f64) {
    let holds = |call: &&Call| {
        call.is_write() && call.file().starts_with(log) && call.arguments.contains(marker)
    };
    let written = calls.iter().find(holds).unwrap_or_else(|| panic!("{marker} was not written"));
    assert!(written.ok && written.began_s < answered_s, "{marker}: {written:?}");
    let answer = calls.iter().rfind(|call| call.is_send() && call.began_s < answered_s);
    let answer = answer.unwrap_or_else(|| panic!("{marker}: nothing was sent"));
    let synced = calls.iter().any(|call| {
        call.is_sync()
            && call.file() == written.file()
            && call.began > written.ended
            && call.ended < answer.began
    });
    assert!(synced, "{marker} was answered without a sync of {}", written.file());
}

/// Before the first log file went, the bucket's objects were on the device: the content before the
/// object had its name, then that name and those of all folders above it.
fn check_objects(calls: &[Call], log: &str, bucket: &str) {
    let retired = calls.iter().find(|call| {
        let takes_away = call.name.starts_with("rename") || call.name.starts_with("unlink");
        let file = |path: &&str| path.starts_with(log) && path.ends_with(".log");
        takes_away && call.paths().first().is_some_and(file)
    });
    let retired = retired.expect("a log file was retired").began;
    let synced = |file: &str, after: usize, before: usize| {
        calls.iter().any(|call| {
            call.is_sync() && call.file() == file && call.began > after && call.ended < before
        })
    };
    let mut kinds = [("/data/", 0), ("/manifest/", 0)];
    for call in calls.iter().filter(|call| call.ok && call.name.starts_with("link")) {
        let [staged, object] = call.paths()[..] else { continue };
        if !object.starts_with(bucket) || call.began > retired {
            continue;
        }
        let content = synced(staged, 0, call.began);
        assert!(content, "{object} had its name before its content was on the device");
        let mut folder = object;
        while folder != bucket {
            folder = folder.rsplit_once('/').expect("inside the bucket").0;
            let named = synced(folder, call.ended, retired);
            assert!(named, "a log file went before {folder} was synced, which leads to {object}");
        }
        for (kind, count) in &mut kinds {
            *count += usize::from(object.contains(*kind));
        }
    }
    assert!(
        kinds.iter().all(|(_, count)| *count > 0),
        "objects before the first retire: {kinds:?}"
    );
}

#[test]
fn a_trace_is_read() {
    let text = r#"12 1.5 fdatasync(7</a/x.log> <unfinished ...>
13  2.0 sendmsg(5<UDP:[1]>, {msg_name={}, msg_iov=[{iov_base="a = b", iov_len=3}]}, 0) = 3 <0.000010>
12 2.5 <... fdatasync resumed>)    = 0 <1.000000>
12 3.0 fsync(8</a>) = -1 EIO (Input/output error) <0.1>
12 3.5 linkat(AT_FDCWD</>, "/a/s#1", AT_FDCWD</>, "/a/k", 0) = 0 <0.1>
13 4.0 +++ exited with 0 +++"#;
    let calls = parse(text.lines().map(str::to_owned));
    let told = calls.iter().map(|call| (call.name.as_str(), call.began, call.ended, call.ok));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("fdatasync", 0, 2, true),
            ("sendmsg", 1, 1, true),
            ("fsync", 3, 3, false),
            ("linkat", 4, 4, true)
        ]
    );
    assert_eq!((calls[0].file(), calls[2].file()), ("/a/x.log", "/a"));
    assert_eq!(calls[3].paths(), ["/a/s#1", "/a/k"]);
}
