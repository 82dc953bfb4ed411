//! The tasks of a node. One that panics leaves what it owned without an owner: the node must end
//! then, and not answer for it as if nothing had happened.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// See the module. Clones are handles of the same tasks.
#[derive(Clone, Debug)]
pub(crate) struct Actors {
    tasks: TaskTracker,
    /// The first that has panicked.
    panicked: watch::Sender<Option<&'static str>>,
}

impl Actors {
    pub(crate) fn new() -> Self {
        Self { tasks: TaskTracker::new(), panicked: watch::channel(None).0 }
    }

    /// Runs `actor` on this runtime; `name` says what it owns.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        actor: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_on(name, actor, &Handle::current());
    }

    /// The same on another runtime.
    pub(crate) fn spawn_on(
        &self,
        name: &'static str,
        actor: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) {
        let panicked = self.panicked.clone();
        let watched = async move {
            // What the actor owned is dropped with it: nobody sees it half changed.
            if AssertUnwindSafe(actor).catch_unwind().await.is_err() {
                tracing::error!(actor = name, "panicked: the node cannot go on");
                panicked.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert(name);
                    is_first
                });
            }
        };
        self.tasks.spawn_on(watched, runtime);
    }

    /// Resolves when one of them has panicked, with its name. Cancel safe.
    pub(crate) async fn panicked(&self) -> &'static str {
        let mut panicked = self.panicked.subscribe();
        match panicked.wait_for(Option::is_some).await.map(|first| *first) {
            Ok(Some(name)) => name,
            // Its sender is here.
            _ => std::future::pending().await,
        }
    }

    /// No more tasks come: [`Self::wait`] may end.
    pub(crate) fn close(&self) {
        self.tasks.close();
    }

    /// Waits until all have ended and no more may come.
    pub(crate) async fn wait(&self) {
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_by_name_and_an_orderly_end_is_not() {
        let actors = Actors::new();
        actors.spawn("the calm one", async {});
        let (end, ended) = tokio::sync::oneshot::channel();
        actors.spawn("the owner of something", async move {
            ended.await.expect("told to");
            panic!("on purpose");
        });
        assert!(actors.panicked().now_or_never().is_none(), "nothing has happened");
        end.send(()).expect("it runs");
        assert_eq!(actors.panicked().await, "the owner of something");
        // Whoever asks later learns the same, and a panic does not hold up the stop.
        actors.spawn("another", async { panic!("on purpose, too") });
        actors.close();
        actors.wait().await;
        assert_eq!(actors.panicked().await, "the owner of something");
    }
}
