//! The raw limits of the machine, to be taken in the same run as `railgun bench`: what no broker on
//! it could exceed. `cargo bench -p railgun-benches --bench limits [-- DIRECTORY]`; the directory
//! should be on the disk that the node uses.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use railgun_net::tls::DevCa;
use railgun_net::{ConnectSpec, Endpoint, ListenSpec, Roots, connect};
use railgun_proto::{Frame, v1};

/// Time given to each figure.
const TIME: Duration = Duration::from_secs(3);
/// Linux's flag for writes that return when the data is on the disk.
const O_DSYNC: i32 = 0o10000;

fn main() {
    // Cargo passes `--bench`.
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
    println!("{:<44} {:>12}", "limit", "figure");
    let latencies = fdatasync(&dir, 4 << 10);
    let p50 = latencies[latencies.len() / 2];
    let p99 = latencies[latencies.len() * 99 / 100];
    println!("{:<44} {:>9} µs", "fdatasync after 4 KiB, p50", p50.as_micros());
    println!("{:<44} {:>9} µs", "fdatasync after 4 KiB, p99", p99.as_micros());
    let latencies = fdatasync(&dir, 1 << 20);
    let total: Duration = latencies.iter().sum();
    let rate = latencies.len() as f64 * f64::from(1 << 20) / total.as_secs_f64() / 1e6;
    println!("{:<44} {rate:>7.0} MB/s", "1 MiB writes, each with fdatasync");
    println!("{:<44} {:>7.0} MB/s", "4 MiB writes with O_DSYNC", dsync(&dir));
    println!("{:<44} {:>7.0} MB/s", "one QUIC stream, 1 MiB frames, one process", quic());
    let late = late_timers();
    let share = late.iter().sum::<Duration>().as_secs_f64() / TIME.as_secs_f64() * 100.0;
    let longest = late.iter().max().copied().unwrap_or_default().as_micros();
    println!("{:<44} {share:>10.2} %", "time for which a timer was over 1 ms late");
    println!("{:<44} {longest:>9} µs", "the latest timer");
}

/// By how much timers of 200 µs were late, where it was more than a millisecond: pauses that the
/// machine puts upon whatever runs on it, and which no tail of latencies can be below.
fn late_timers() -> Vec<Duration> {
    let (timer, begun) = (Duration::from_micros(200), Instant::now());
    let mut late = Vec::new();
    while begun.elapsed() < TIME {
        let once = Instant::now();
        std::thread::sleep(timer);
        late.push(once.elapsed().saturating_sub(timer));
    }
    late.retain(|by| *by > Duration::from_millis(1));
    late
}

fn scratch(dir: &Path, flags: i32) -> (PathBuf, File) {
    let path = dir.join(format!("railgun-limits-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).custom_flags(flags);
    let file = options.open(&path).expect("a file in the directory");
    (path, file)
}

/// Sorted times of `bytes` written at a moving place of a file that was written before, and synced.
fn fdatasync(dir: &Path, bytes: usize) -> Vec<Duration> {
    let (path, mut file) = scratch(dir, 0);
    let block = vec![0xa5; bytes];
    let blocks = (64 << 20) / bytes as u64;
    for _ in 0..blocks {
        file.write_all(&block).expect("room for 64 MiB");
    }
    file.sync_all().expect("synced");
    let mut latencies = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        let at = latencies.len() as u64 % blocks * bytes as u64;
        let once = Instant::now();
        file.write_all_at(&block, at).expect("written");
        file.sync_data().expect("synced");
        latencies.push(once.elapsed());
    }
    std::fs::remove_file(path).expect("removed");
    latencies.sort();
    latencies
}

/// MB/s of large synchronous writes.
fn dsync(dir: &Path) -> f64 {
    let (path, file) = scratch(dir, O_DSYNC);
    let block = vec![0xa5; 4 << 20];
    let (begun, mut written) = (Instant::now(), 0u64);
    while begun.elapsed() < TIME {
        file.write_all_at(&block, written % (1 << 30)).expect("written");
        written += block.len() as u64;
    }
    let rate = written as f64 / begun.elapsed().as_secs_f64() / 1e6;
    std::fs::remove_file(path).expect("removed");
    rate
}

/// MB/s of one QUIC stream from this process to itself.
fn quic() -> f64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = DevCa::load_or_create(dir.path()).expect("a certificate authority");
        let tls = ca.issue(&["localhost".to_owned()]).expect("a certificate");
        let listen = ListenSpec::new(([127, 0, 0, 1], 0).into(), tls);
        let endpoint = Endpoint::bind(listen).expect("bound");
        let addr = endpoint.local_addr();
        let received = tokio::spawn(async move {
            let connection = endpoint.accept().await.expect("a connection");
            connection.admit();
            let (_writer, mut reader) = connection.accept().await.expect("a stream");
            let (begun, mut bytes) = (Instant::now(), 0);
            while let Ok(Some(frame)) = reader.next().await {
                bytes += frame.blob_bytes();
            }
            bytes as f64 / begun.elapsed().as_secs_f64() / 1e6
        });
        let roots = Roots::Pem(ca.pem().as_bytes().to_vec());
        let connection = connect(ConnectSpec::new(addr, "localhost", roots)).await;
        let connection = connection.expect("connected");
        let (mut writer, _reader) = connection.open().await.expect("a stream");
        let block = Bytes::from(vec![0xa5; 1 << 20]);
        let begun = Instant::now();
        while begun.elapsed() < TIME {
            let frame = Frame::with_blob(&v1::Publish::default(), vec![block.clone()]);
            writer.send(frame).await.expect("sent");
        }
        writer.finish();
        received.await.expect("received")
    })
}
