//! Nodes that do not take this one for itself: another process is it, or it was removed. One node's word
//! ends no node that runs, for that one may be wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, interval};

/// Who refuses does so again and again: what is older may not be so any more.
const WORDS_LAST: Duration = Duration::from_secs(30);
/// How often it is looked again whether a refusal is right.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the identity of this node is not taken for its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdentityRefused {
    /// Who said so.
    pub(crate) by: String,
    /// In its words.
    pub(crate) reason: String,
}

/// What one node says.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) refused: IdentityRefused,
    /// Where the process is said to be that is this node, too.
    pub(super) elsewhere: Option<String>,
    pub(super) at: Instant,
}

/// See the module. Cheap to clone; all clones know the same.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    /// By the uid of the node that refuses.
    words: Arc<watch::Sender<BTreeMap<Bytes, Refusal>>>,
    /// Nodes of the cluster besides this one, as far as they count.
    others: Arc<watch::Sender<usize>>,
}

impl Default for Refusals {
    /// Of a node that starts: it has nothing to lose, and believes anybody.
    fn default() -> Self {
        Self { words: Arc::default(), others: Arc::new(watch::Sender::new(1)) }
    }
}

impl Refusals {
    /// The node runs in a cluster of so many others; 1 where it knows itself to be removed.
    pub(crate) fn others_are(&self, others: usize) {
        self.others.send_if_modified(|known| std::mem::replace(known, others) != others);
    }

    pub(super) fn note(&self, by_uid: Bytes, refusal: Refusal) {
        let IdentityRefused { by, reason } = refusal.refused.clone();
        let is_news = self.words.borrow().get(&by_uid).is_none_or(|known| !known.is_fresh());
        self.words.send_modify(|words| {
            words.retain(|_, word| word.is_fresh());
            words.insert(by_uid, refusal);
        });
        if is_news {
            tracing::warn!(peer = by, reason, "a node does not let this one in");
        }
    }

    /// The node has let this one in.
    pub(super) fn withdraw(&self, by_uid: &Bytes) {
        self.words.send_if_modified(|words| words.remove(by_uid).is_some());
    }

    /// Resolves when a refusal is to be believed: a second node says the same, there is no second one, or
    /// `is_there` sees the other process where it is said to be.
    pub(super) async fn believed<F>(&self, is_there: impl Fn(String) -> F) -> IdentityRefused
    where
        F: Future<Output = bool>,
    {
        let (mut words, mut others) = (self.words.subscribe(), self.others.subscribe());
        let mut look = interval(LOOK_EVERY);
        loop {
            let fresh: Vec<_> = {
                let words = words.borrow_and_update();
                words.values().filter(|word| word.is_fresh()).cloned().collect()
            };
            let enough = (*others.borrow_and_update()).clamp(1, 2);
            for word in &fresh {
                if fresh.len() >= enough {
                    return word.refused.clone();
                }
                if let Some(elsewhere) = &word.elsewhere
                    && is_there(elsewhere.clone()).await
                {
                    return word.refused.clone();
                }
            }
            tokio::select! {
                biased;
                Ok(()) = others.changed() => {}
                _ = look.tick(), if !fresh.is_empty() => {}
                Ok(()) = words.changed(), if fresh.is_empty() => {}
                else => std::future::pending().await,
            }
        }
    }
}

impl Refusal {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < WORDS_LAST
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn says(refusals: &Refusals, by: u8, elsewhere: Option<&str>) {
        let refused = IdentityRefused { by: format!("n{by}:1"), reason: "it is another".into() };
        let elsewhere = elsewhere.map(str::to_owned);
        let refusal = Refusal { refused, elsewhere, at: Instant::now() };
        refusals.note(vec![by; 16].into(), refusal);
    }

    async fn is_believed(refusals: &Refusals) -> bool {
        let believed = refusals.believed(async |at: String| at == "there:1");
        timeout(Duration::from_secs(10), believed).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_nodes_word_ends_nobody_that_runs() {
        let refusals = Refusals::default();
        assert!(!is_believed(&refusals).await);
        says(&refusals, 2, Some("nowhere:1"));
        assert!(is_believed(&refusals).await, "it only starts");
        refusals.others_are(2);
        for _ in 0..5 {
            says(&refusals, 2, Some("nowhere:1"));
            assert!(!is_believed(&refusals).await);
        }
        // The other node takes it for itself.
        says(&refusals, 3, None);
        refusals.withdraw(&vec![3; 16].into());
        assert!(!is_believed(&refusals).await);
        says(&refusals, 3, None);
        assert!(is_believed(&refusals).await, "two say so");
        tokio::time::sleep(WORDS_LAST).await;
        assert!(!is_believed(&refusals).await, "that was long ago");
        says(&refusals, 2, Some("there:1"));
        assert!(is_believed(&refusals).await, "it sees the other itself");
        says(&refusals, 2, None);
        assert!(!is_believed(&refusals).await);
        refusals.others_are(1);
        assert!(is_believed(&refusals).await, "there is nobody else to ask");
    }
}
