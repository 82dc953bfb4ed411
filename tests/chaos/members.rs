//! Consumer groups at work during a round: their members ack most messages, some with a confirmation that they
//! wait for, give a few up, and go on whatever happens. When nothing is wrong any more all is settled
//! (G-2, G-3, G-7, G-10, X-1…X-3, DL-3, DL-4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use railgun_client::{
    Client, Delivery, DlqPatch, EnsureOptions, GroupError, GroupEvent, GroupMode, GroupName,
    GroupPatch, Retry, StartPosition,
};
use railgun_testkit::sim::{Group, History, MemberNumber, Settling, Trace};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::RECOVERED_LIMIT;
use crate::cluster::{Cluster, NODES};
use crate::eventually;
use crate::load::Stream;

const ACK_WAIT: Duration = Duration::from_secs(10);
const CREDIT: u32 = 300;
/// One message in so many is acked with a confirmation, and one is given up.
const CONFIRMED_EVERY: u64 = 16;
const REJECTED_EVERY: u64 = 97;
/// A member looks so often whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// A member that was told to come again does so after this.
const AGAIN: Duration = Duration::from_millis(100);
/// How long it may take until all is settled, once nothing is wrong and nobody publishes any more.
const SETTLED_LIMIT: Duration = Duration::from_secs(60);

/// The groups of a round, and their members.
#[derive(Debug)]
pub(crate) struct Members {
    groups: Vec<Group>,
    members: JoinSet<Vec<String>>,
    stop: Arc<AtomicBool>,
    history: History,
    trace: Trace,
}

impl Members {
    /// One group of each mode, on a stream of its own. Each member begins at another node.
    pub(crate) async fn start(
        cluster: &Cluster,
        streams: &[Stream],
        history: &History,
        trace: &Trace,
    ) -> Self {
        let (groups, members, stop) = (Vec::new(), JoinSet::new(), Arc::default());
        let mut all =
            Self { groups, members, stop, history: history.clone(), trace: trace.clone() };
        let admin = cluster.client(&[0, 1, 2], RECOVERED_LIMIT).await;
        for (stream, mode) in streams.iter().zip([GroupMode::Balanced, GroupMode::Exclusive]) {
            let group = all.make(&admin, stream, mode).await;
            for node in 0..NODES {
                let nodes = [node, (node + 1) % NODES, (node + 2) % NODES];
                let member = Member {
                    name: format!("member {node} of {}", group.name),
                    client: cluster.client(&nodes, RECOVERED_LIMIT).await,
                    group: group.clone(),
                    history: history.clone(),
                    confirming: JoinSet::new(),
                    failures: Vec::new(),
                };
                all.members.spawn(member.run(Arc::clone(&all.stop)));
            }
            all.groups.push(group);
        }
        admin.close().await;
        all
    }

    async fn make(&self, admin: &Client, stream: &Stream, mode: GroupMode) -> Group {
        let name = GroupName::new(mode.name()).expect("a valid name");
        let patch = || GroupPatch {
            mode: Some(mode),
            ack_wait_ms: Some(ACK_WAIT.as_millis() as u64),
            backoff_ms: Some(vec![0]),
            // A node may take what was begun along many times.
            dlq: DlqPatch { max_attempts: Some(1_000), ..DlqPatch::default() },
            ..GroupPatch::default()
        };
        eventually("a group is made", RECOVERED_LIMIT, async || {
            let (start, options) = (StartPosition::Earliest, EnsureOptions::default());
            admin.admin().ensure_group(&stream.name, &name, patch(), start, options).await.ok()
        })
        .await;
        let number = self.history.group(stream.uid, name.clone(), mode == GroupMode::Exclusive);
        Group { stream: stream.name.clone(), name, number, ack_wait: ACK_WAIT }
    }

    /// Members come to an end, and one more settles what they have left. Returns what failed.
    pub(crate) async fn end(mut self, cluster: &Cluster) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        let ended = async {
            while let Some(ended) = self.members.join_next().await {
                failures.extend(ended.expect("a member does not panic"));
            }
        };
        if timeout(SETTLED_LIMIT, ended).await.is_err() {
            let how = format_args!("members do not end within {SETTLED_LIMIT:?}");
            self.history.violated("liveness", how);
        }
        let Self { groups, history, trace, .. } = self;
        let client = cluster.client(&[0, 1, 2], RECOVERED_LIMIT).await;
        let settling = Settling { groups, history: history.clone(), trace };
        if timeout(SETTLED_LIMIT, settling.run(&client)).await.is_err() {
            let how = format_args!("groups have not settled all within {SETTLED_LIMIT:?}");
            history.violated("liveness", how);
        }
        client.close().await;
        failures
    }
}

struct Member {
    name: String,
    client: Client,
    group: Group,
    history: History,
    /// Those that wait for a confirmation.
    confirming: JoinSet<()>,
    failures: Vec<String>,
}

impl Member {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Vec<String> {
        while !stop.load(Ordering::Relaxed) && self.history.is_sound() {
            let Err(error) = self.take_part(&stop).await else { break };
            if error.retry() == Retry::Never {
                let how = format_args!("{} was told: {error}", self.name);
                self.history.violated("group errors", how);
            }
            self.failures.push(format!("{}: {error}", self.name));
            sleep(AGAIN).await;
        }
        self.client.close().await;
        self.failures
    }

    /// Until it is to end.
    async fn take_part(&mut self, stop: &AtomicBool) -> Result<(), GroupError> {
        let number = self.history.joins(self.group.number);
        let builder = self.client.subscribe(self.group.stream.clone());
        let builder = builder.group(self.group.name.clone()).credit(CREDIT);
        let mut subscription = builder.open().await?;
        while !stop.load(Ordering::Relaxed) && self.history.is_sound() {
            let Ok(event) = timeout(LOOK, subscription.next()).await else { continue };
            match event? {
                Some(GroupEvent::Delivery(delivery)) => self.work(number, delivery),
                Some(GroupEvent::Skipped(range)) => {
                    let how = format_args!("nothing was removed, and {range} is skipped");
                    self.history.violated("G-2", how);
                }
                Some(_) => {}
                None => return Ok(()),
            }
            while self.confirming.try_join_next().is_some() {}
        }
        while self.confirming.join_next().await.is_some() {}
        subscription.drain().await
    }

    fn work(&mut self, number: MemberNumber, delivery: Delivery) {
        let handed = self.history.hand(number, &delivery, &self.name);
        let at = handed.offset.0;
        if at % REJECTED_EVERY == REJECTED_EVERY - 1 && handed.generation == 0 {
            return delivery.reject("it is not for anybody");
        }
        if at.is_multiple_of(CONFIRMED_EVERY) {
            let history = self.history.clone();
            self.confirming.spawn(async move { history.confirm(number, delivery, handed).await });
        } else {
            self.history.says_acked(number, handed);
            delivery.ack();
        }
    }
}
