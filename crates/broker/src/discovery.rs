//! Where other nodes may be (CL-1): a list that does not change, and what is found out again and again.
//! Whoever is a member stays one, whatever is found.

use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use railgun_proto::v1;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::entropy::Entropy;

/// How often it is asked again, give or take a fifth.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// As often while the node has no cluster, or too few of the others are where it knows of.
const ASK_EVERY_WHILE_LOOKING: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses that are taken of one answer.
const SEEDS_MAX: usize = 128;

/// Finds out where other nodes may be, such as by DNS. Injected at the root.
pub trait Discovery: Debug + Send + Sync + 'static {
    /// The `host:port` of the peer ports of nodes, this one's among them or not. Asked again every 30 s
    /// or so, and every 2 s while the node has no cluster or finds too few of its nodes; cancelled after 10 s.
    fn seeds(&self) -> BoxFuture<'_, Result<Vec<String>, DiscoveryError>>;
}

/// It could not be found out where other nodes are.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Whoever was asked says this.
    #[error("{0}")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// Whoever was asked said nothing.
    #[error("no answer within {ANSWER_TIMEOUT:?}")]
    NoAnswer,
}

/// Whether others are looked for: their addresses may be other ones.
#[derive(Clone, Debug)]
pub(crate) struct Looking {
    /// What is known of this node.
    pub(crate) about: watch::Receiver<v1::NodeAbout>,
    /// Whether too few of the others are where they are looked for.
    pub(crate) is_cut_off: watch::Receiver<bool>,
}

impl Looking {
    fn is_on(&self) -> bool {
        *self.is_cut_off.borrow() || self.about.borrow().cluster_uid.is_empty()
    }

    async fn has_begun(&mut self) {
        if self.is_cut_off.wait_for(|is_so| *is_so).await.is_err() {
            std::future::pending().await
        }
    }
}

/// The addresses that are known at the moment. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Seeds {
    listed: Arc<[String]>,
    /// `None`: nothing is found out beside the list.
    found: Option<watch::Receiver<Vec<String>>>,
}

impl Seeds {
    pub(crate) fn new(listed: Vec<String>, found: Option<watch::Receiver<Vec<String>>>) -> Self {
        Self { listed: listed.into(), found }
    }

    /// Those in the list, then those that were found.
    pub(crate) fn now(&self) -> Vec<String> {
        let mut seeds = self.listed.to_vec();
        if let Some(found) = &self.found {
            let found = found.borrow();
            seeds.extend(found.iter().filter(|seed| !self.listed.contains(seed)).cloned());
        }
        seeds
    }

    /// Whether nobody but `own` could ever be there.
    pub(crate) fn are_only(&self, own: &str) -> bool {
        self.found.is_none() && self.listed.iter().all(|seed| seed == own)
    }
}

/// Asks again and again, for as long as the node runs. What was found last stays while nobody answers.
pub(crate) async fn keep_asking(
    discovery: Arc<dyn Discovery>,
    entropy: Arc<dyn Entropy>,
    mut looking: Looking,
    found: watch::Sender<Vec<String>>,
) {
    let mut is_failing = false;
    loop {
        let answer = timeout(ANSWER_TIMEOUT, discovery.seeds()).await;
        match answer.unwrap_or(Err(DiscoveryError::NoAnswer)) {
            Ok(mut seeds) => {
                is_failing = false;
                seeds.sort();
                seeds.dedup();
                seeds.truncate(SEEDS_MAX);
                found.send_if_modified(|known| {
                    let changes = *known != seeds;
                    if changes {
                        tracing::info!(seeds = seeds.join(", "), "found where other nodes are");
                        *known = seeds;
                    }
                    changes
                });
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "cannot find out where other nodes are; asking again");
                }
                is_failing = true;
            }
        }
        // 0.8 to 1.2 of it, so that many nodes do not ask at once.
        let part = u32::from(entropy.uid()[15]);
        let about = |every: Duration| every * 4 / 5 + every * 2 / 5 * part / 255;
        if !looking.is_on() {
            timeout(about(ASK_EVERY), looking.has_begun()).await.ok();
        }
        if looking.is_on() {
            sleep(about(ASK_EVERY_WHILE_LOOKING)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use tokio::time::Instant;

    use super::*;

    #[derive(Debug, Default)]
    struct Answers(AtomicU64);

    impl Discovery for Answers {
        fn seeds(&self) -> BoxFuture<'_, Result<Vec<String>, DiscoveryError>> {
            let asked = self.0.fetch_add(1, Relaxed) + 1;
            Box::pin(async move {
                match asked {
                    1 => Ok(vec!["b:1".to_owned(), "a:1".to_owned(), "b:1".to_owned()]),
                    2 => Err(DiscoveryError::Failed("gone".into())),
                    _ => Ok(vec!["c:1".to_owned()]),
                }
            })
        }
    }

    #[derive(Debug)]
    struct Zeros;

    impl Entropy for Zeros {
        fn uid(&self) -> [u8; 16] {
            [0; 16]
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_stays_while_nobody_answers_and_a_member_asks_seldom() {
        let answers = Arc::new(Answers::default());
        let about = watch::Sender::new(v1::NodeAbout::default());
        let cut_off = watch::Sender::new(false);
        let looking = Looking { about: about.subscribe(), is_cut_off: cut_off.subscribe() };
        let (found_tx, mut found) = watch::channel(Vec::new());
        let seeds = Seeds::new(vec!["b:1".to_owned()], Some(found.clone()));
        let discovery = Arc::clone(&answers) as Arc<dyn Discovery>;
        let asking = keep_asking(discovery, Arc::new(Zeros), looking, found_tx);
        let asking = tokio::spawn(asking);
        found.changed().await.unwrap();
        assert_eq!(seeds.now(), ["b:1", "a:1"], "the list comes first, and nothing twice");
        assert!(!seeds.are_only("b:1") && Seeds::new(vec!["b:1".into()], None).are_only("b:1"));
        sleep(Duration::from_secs(2)).await;
        assert_eq!((answers.0.load(Relaxed), seeds.now().len()), (2, 2));
        about.send_modify(|about| about.cluster_uid = vec![1; 16].into());
        let begun = Instant::now();
        found.changed().await.unwrap();
        assert_eq!(seeds.now(), ["b:1", "c:1"]);
        found.mark_unchanged();
        while answers.0.load(Relaxed) < 4 {
            sleep(Duration::from_millis(100)).await;
        }
        assert!(begun.elapsed() > ASK_EVERY * 4 / 5, "{:?}", begun.elapsed());
        // Others are missed: they may be elsewhere.
        let begun = Instant::now();
        cut_off.send_replace(true);
        while answers.0.load(Relaxed) < 6 {
            sleep(Duration::from_millis(100)).await;
        }
        assert!(begun.elapsed() < ASK_EVERY_WHILE_LOOKING * 3, "{:?}", begun.elapsed());
        asking.abort();
    }
}
