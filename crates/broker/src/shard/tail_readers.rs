//! Readers that wait at the end of their streams, by the offset they wait for: an append costs what
//! it wakes, however many wait for later offsets.

use std::collections::BTreeMap;

use railgun_types::{Offset, StreamUid};
use tokio::sync::oneshot;

/// Below this many of a stream nobody looks for those that have gone away. Small, because there are
/// many streams on which nothing happens but that readers come and go.
const PRUNED_FROM: usize = 4;

/// See the module. `A` is the answer they wait for.
#[derive(Debug)]
pub(super) struct TailReaders<A> {
    streams: BTreeMap<StreamUid, Waiting<A>>,
}

/// The readers of one stream.
#[derive(Debug)]
struct Waiting<A> {
    at: BTreeMap<Offset, Vec<oneshot::Sender<A>>>,
    len: usize,
    /// Those that have gone away are looked for when there are this many.
    prune_at: usize,
}

impl<A> Default for TailReaders<A> {
    fn default() -> Self {
        Self { streams: BTreeMap::new() }
    }
}

impl<A> TailReaders<A> {
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The streams at whose ends anybody waits.
    pub(super) fn streams(&self) -> Vec<StreamUid> {
        self.streams.keys().copied().collect()
    }

    /// Whether anybody waits at the end of `stream`.
    pub(super) fn any_of(&self, stream: StreamUid) -> bool {
        self.streams.contains_key(&stream)
    }

    /// A reader of `stream` waits for the record at `offset`.
    pub(super) fn wait(&mut self, stream: StreamUid, offset: Offset, reply: oneshot::Sender<A>) {
        let new = || Waiting { at: BTreeMap::new(), len: 0, prune_at: PRUNED_FROM };
        let waiting = self.streams.entry(stream).or_insert_with(new);
        waiting.at.entry(offset).or_default().push(reply);
        waiting.len += 1;
        if waiting.len >= waiting.prune_at {
            waiting.prune();
        }
    }

    /// Takes out those that wait for an offset before `next`: where the stream ends now. `None`: the
    /// stream is gone, and all go.
    pub(super) fn take(
        &mut self,
        stream: StreamUid,
        next: Option<Offset>,
    ) -> Vec<(Offset, oneshot::Sender<A>)> {
        let Some(waiting) = self.streams.get_mut(&stream) else { return Vec::new() };
        let later = next.map(|next| waiting.at.split_off(&next)).unwrap_or_default();
        let woken = std::mem::replace(&mut waiting.at, later);
        let pairs = |(offset, replies): (Offset, Vec<_>)| {
            replies.into_iter().map(move |reply| (offset, reply))
        };
        let woken: Vec<_> = woken.into_iter().flat_map(pairs).collect();
        waiting.len -= woken.len();
        if waiting.at.is_empty() {
            self.streams.remove(&stream);
        }
        woken
    }
}

impl<A> Waiting<A> {
    /// Lets go of readers that have gone away. Comes again when there are twice as many: each reader
    /// is looked at a bounded number of times, however many come.
    fn prune(&mut self) {
        self.at.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        self.len = self.at.values().map(Vec::len).sum();
        self.prune_at = (self.len * 2).max(PRUNED_FROM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamUid = StreamUid([1; 16]);
    const B: StreamUid = StreamUid([2; 16]);

    fn offsets<T>(taken: &[(Offset, T)]) -> Vec<u64> {
        taken.iter().map(|(offset, _)| offset.0).collect()
    }

    #[test]
    fn an_append_wakes_those_before_the_new_end_and_leaves_the_rest() {
        let mut readers = TailReaders::<()>::default();
        let mut answers = Vec::new();
        for (stream, offset) in [(A, 5), (A, 3), (A, 9), (A, 3), (B, 3)] {
            let (reply, answer) = oneshot::channel();
            readers.wait(stream, Offset(offset), reply);
            answers.push(answer);
        }
        assert!(readers.take(A, Some(Offset(3))).is_empty());
        assert_eq!(offsets(&readers.take(A, Some(Offset(6)))), [3, 3, 5]);
        assert!(readers.any_of(A) && readers.any_of(B));
        assert_eq!(offsets(&readers.take(A, None)), [9], "the stream was deleted");
        assert!(!readers.any_of(A));
        assert_eq!(offsets(&readers.take(B, Some(Offset(4)))), [3]);
        assert!(readers.is_empty());
    }

    #[test]
    fn those_that_have_gone_away_do_not_pile_up() {
        let mut readers = TailReaders::<()>::default();
        let mut answers = Vec::new();
        // The newest one leaves only behind the look at it.
        for (live, most) in [(1, 4), (10, 22)] {
            while answers.len() < live {
                let (reply, answer) = oneshot::channel();
                readers.wait(A, Offset(1 << 40), reply);
                answers.push(answer);
            }
            for offset in 0..10_000 {
                readers.wait(A, Offset(offset), oneshot::channel().0);
                assert!(readers.streams[&A].len <= most, "with {live}");
            }
        }
        assert_eq!(readers.take(A, None).iter().filter(|(_, r)| !r.is_closed()).count(), 10);
    }
}
