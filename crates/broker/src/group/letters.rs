//! Dead letters of a group that are to be made, some at a time. Inputs: what is dying, records, what
//! came of a proposal. Outputs: proposals to the shard's owner.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use railgun_core::command::{Append, AppendMode, DeadLetterOf, ExpectedNext};
use railgun_core::group::{GroupState, HeldState};
use railgun_core::shard::{AppendRefusal, Appended};
use railgun_types::{GroupId, GroupName, Offset, StreamName, StreamUid};
use tokio::time::sleep;

use super::feed::{Fed, Feed};
use super::obituary::Obituary;
use crate::clock::Clock;
use crate::shard::ShardHandle;

/// Whose dead letters they are.
pub(super) struct Deceased {
    pub(super) stream: StreamUid,
    pub(super) stream_name: StreamName,
    pub(super) group: GroupId,
    pub(super) name: GroupName,
    /// The stream that they go to.
    pub(super) companion: StreamUid,
}

/// Letters that are made at a time.
const AT_A_TIME: usize = 32;
/// Bytes of these, but for the first.
const ENTRY_BYTES: usize = 1 << 20;
/// How long no other is proposed where there was no room for some, or nobody knows what came of them.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Letters {
    of: Deceased,
    shard: ShardHandle,
    clock: Arc<dyn Clock>,
    waiting: VecDeque<(Offset, u32)>,
    feed: Feed,
    /// Those that were proposed, and what comes of each.
    proposed: Option<(Vec<(Offset, u32)>, LetterResults)>,
    /// The number of the next one: its offset in the companion.
    next: Offset,
}

/// `None`: they were not looked at, or nobody knows.
type LetterResults = BoxFuture<'static, Option<Vec<Result<Appended, AppendRefusal>>>>;

/// What there is to do about dead letters.
pub(super) enum LetterEvent {
    Fed(Fed),
    /// Those that were proposed have ended.
    Ended(Option<Vec<Result<Appended, AppendRefusal>>>),
}

impl Letters {
    /// `feed` reads the stream of the messages, `next` is the offset of the next letter.
    pub(super) fn new(
        of: Deceased,
        feed: Feed,
        next: Offset,
        shard: ShardHandle,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { of, shard, clock, waiting: VecDeque::new(), feed, proposed: None, next }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.proposed.is_none()
    }

    /// The dead letter of this message is to be made.
    pub(super) fn push(&mut self, offset: Offset, generation: u32) {
        self.waiting.push_back((offset, generation));
    }

    /// A letter is in the companion.
    pub(super) fn died(&mut self) {
        self.next = self.next.plus(1);
    }

    /// What happens next; never ends while nothing is under way. Cancel safe.
    pub(super) async fn event(&mut self) -> LetterEvent {
        let proposed = &mut self.proposed;
        let ended = async {
            match proposed {
                Some((_, results)) => results.await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            fed = self.feed.next() => LetterEvent::Fed(fed),
            results = ended => LetterEvent::Ended(results),
        }
    }

    /// The message of the next one cannot be read: it stays dying, and others go before it.
    pub(super) fn put_off(&mut self) -> Option<Offset> {
        self.waiting.pop_front().map(|(offset, _)| offset)
    }

    /// What came of those that were proposed. The messages of those that failed, which stay dying.
    pub(super) fn ended(
        &mut self,
        results: Option<Vec<Result<Appended, AppendRefusal>>>,
    ) -> Vec<Offset> {
        let Some((letters, _)) = self.proposed.take() else { return Vec::new() };
        let Some(results) = results else {
            return letters.into_iter().map(|(offset, _)| offset).collect();
        };
        let mut failed = Vec::new();
        // From the last one on, so that those that come again keep their order.
        for (letter, result) in letters.into_iter().zip(results).rev() {
            match result {
                Ok(_) => {}
                Err(AppendRefusal::ExpectedEnd { actual }) => {
                    self.next = actual;
                    self.waiting.push_front(letter);
                }
                Err(_) => failed.push(letter.0),
            }
        }
        failed
    }

    /// Proposes the next ones, as far as their messages were read.
    pub(super) fn propose(&mut self, state: &GroupState) {
        if self.proposed.is_some() {
            return;
        }
        let (mut letters, mut items, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(&letter) = self.waiting.front()
            && items.len() < AT_A_TIME
        {
            let (offset, generation) = letter;
            let held = state.held(offset).filter(|held| held.generation == generation);
            let Some((held, HeldState::Dying { reason })) = held.map(|held| (held, held.state))
            else {
                // It is dead by now, or an operator has decided otherwise.
                self.waiting.pop_front();
                continue;
            };
            let Some(run) = self.feed.at(offset) else { break };
            let Deceased { stream, stream_name, group, name, companion } = &self.of;
            let seq = self.next.plus(items.len() as u64);
            let obituary = Obituary {
                stream: stream_name,
                uid: *stream,
                group: name,
                offset,
                seq,
                reason: reason.name(),
                attempts: held.attempts,
                error: held.error.as_deref(),
                first_failed: held.first_failed,
                died_at: self.clock.now(),
                generation,
            };
            let batch = match obituary.letter(run) {
                Ok(batch) => batch,
                Err(refused) => {
                    tracing::error!(
                        stream = %stream_name, group = %name, %offset, %refused,
                        "a message that is given up cannot be made a dead letter: it stays dying"
                    );
                    self.waiting.pop_front();
                    continue;
                }
            };
            bytes += batch.len();
            if !items.is_empty() && bytes > ENTRY_BYTES {
                break;
            }
            self.waiting.pop_front();
            letters.push(letter);
            items.push(Append {
                stream: *companion,
                producer: None,
                mode: AppendMode::Each,
                expected_end: Some(ExpectedNext(seq.0)),
                dead_letter: Some(DeadLetterOf { group: *group, offset, generation }),
                batch,
            });
        }
        if items.is_empty() {
            return;
        }
        let shard = self.shard.clone();
        let appended = Box::pin(async move {
            let results = shard.append_dead_letters(items).await;
            if results.is_none() {
                sleep(PAUSE).await;
            }
            results
        });
        self.proposed = Some((letters, appended));
    }
}
