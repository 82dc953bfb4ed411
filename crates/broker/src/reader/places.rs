//! How many reads a node does at a time, and how many of them for one client.

use std::sync::Arc;
use std::time::Duration;

use railgun_net::Member;
use railgun_raft::PoolStopped;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::turns::{Turn, Turns};

/// What takes a place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// A read from a log file.
    File,
    /// A row group that is fetched from the bucket.
    Fetch,
    /// A step of records that is decoded out of one.
    Decode,
}

/// Places for each of these.
#[derive(Debug)]
struct Places([Arc<Semaphore>; 3]);

impl Places {
    fn new(file: usize, fetch: usize, decode: usize) -> Self {
        Self([file, fetch, decode].map(|places| Arc::new(Semaphore::new(places))))
    }

    async fn take(&self, work: Work) -> Result<OwnedSemaphorePermit, PoolStopped> {
        let places = match work {
            Work::File => &self.0[0],
            Work::Fetch => &self.0[1],
            Work::Decode => &self.0[2],
        };
        Arc::clone(places).acquire_owned().await.map_err(|_| PoolStopped)
    }
}

/// The places of a node: what reads take until it is known how much they brought is bounded by them.
#[derive(Debug)]
pub(crate) struct ReadPlaces(Places);

impl Default for ReadPlaces {
    fn default() -> Self {
        Self(Places::new(32, 16, 16))
    }
}

/// One connection's places among them: a quarter of each kind, so that no client stands in front of
/// all others. With its readers' turns. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlaces {
    node: Arc<ReadPlaces>,
    own: Arc<Places>,
    turns: Arc<Turns>,
}

/// A place, for as long as the work goes on: it moves into that, which a caller that does not wait
/// for it any more cannot stop.
#[derive(Debug)]
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl ClientPlaces {
    /// For a client with this part of the memory; `None`: as much as it wants, and no turns.
    pub(crate) fn new(node: Arc<ReadPlaces>, memory: Option<&Member>) -> Self {
        let (own, turns) = (Places::new(8, 4, 4), Turns::new(memory));
        Self { node, own: Arc::new(own), turns: Arc::new(turns) }
    }

    /// Whoever has a place waits for disk or bucket, and never for a client.
    pub(super) async fn take(&self, work: Work) -> Result<Place, PoolStopped> {
        let own = self.own.take(work).await?;
        Ok(Place { _own: own, _node: self.node.0.take(work).await? })
    }

    /// A turn, if it comes within this time.
    pub(super) async fn turn(&self, patience: Duration) -> Option<Turn> {
        self.turns.take(patience).await
    }

    /// Whether readers wait for their turn.
    pub(super) fn is_turn_wanted(&self) -> bool {
        self.turns.are_wanted()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn no_client_has_all_places() {
        let node = Arc::<ReadPlaces>::default();
        for work in [Work::File, Work::Fetch, Work::Decode] {
            let take = |client: &ClientPlaces| client.take(work).now_or_never().map(Result::unwrap);
            let clients: Vec<_> =
                (0..5).map(|_| ClientPlaces::new(Arc::clone(&node), None)).collect();
            let mut taken: Vec<Vec<_>> =
                clients.iter().map(|it| std::iter::from_fn(|| take(it)).collect()).collect();
            let counts: Vec<_> = taken.iter().map(Vec::len).collect();
            let each = if matches!(work, Work::File) { 8 } else { 4 };
            assert_eq!(counts, [each, each, each, each, 0], "{work:?}");
            taken[2].pop();
            assert!(take(&clients[4]).is_some());
        }
    }
}
