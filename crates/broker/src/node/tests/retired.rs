//! Records that go to the bucket while somebody is about to read them in the log.

use tokio::time::timeout;

use super::*;

/// Keeps back the reads that are asked for while it holds, until it is opened.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) holds: AtomicBool,
    pub(super) held: AtomicUsize,
    /// All that were asked for.
    pub(super) jobs: AtomicUsize,
    pub(super) opened: CancellationToken,
}

impl BlockingPool for Gate {
    fn run(&self, job: BlockingJob) {
        self.jobs.fetch_add(1, Relaxed);
        if !self.holds.load(Relaxed) {
            return job();
        }
        self.held.fetch_add(1, Relaxed);
        let opened = self.opened.clone();
        tokio::spawn(async move {
            opened.cancelled().await;
            job();
        });
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_found_in_a_file_that_has_gone_since_is_read_from_the_bucket() {
    const OLD: u64 = 5;
    let (network, gate) = (MemoryNetwork::new(), Arc::<Gate>::default());
    let pace = Box::new(|| Duration::from_micros(100));
    let broker = start_on(&network, Arc::clone(&gate) as _, pace).await;
    publish(&broker, OLD as usize, b"x").await;
    gate.holds.store(true, Relaxed);
    let mut follower = Follower::begin_with(&network, &broker, 1 << 20).await;
    let found = async {
        while gate.held.load(Relaxed) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), found).await.expect("a read of the log");
    gate.holds.store(false, Relaxed);
    let sealed = broker.streams.seal(&name("s"), true).await.unwrap();
    assert!(sealed.files_retired > 0, "{sealed:?}");
    publish(&broker, 1, b"x").await;
    gate.opened.cancel();
    let mut next = 0;
    while next <= OLD {
        let frame = follower.line.1.next_of::<v1::Deliver>().await.unwrap().unwrap();
        assert_eq!(frame.base_offset + u64::from(frame.skip), next);
        let source = if next < OLD { v1::Source::Cold } else { v1::Source::Hot };
        assert_eq!(frame.source(), source, "offset {next}");
        next += u64::from(frame.count);
    }
    assert_eq!(next, OLD + 1);
}
