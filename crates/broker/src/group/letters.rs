//! Dead letters of a group that are to be made, one after the other. Inputs: what is dying, records, what
//! came of a proposal. Outputs: proposals to the shard's owner.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use futures::future::BoxFuture;
use railgun_core::command::{Append, AppendMode, DeadLetterOf, ExpectedNext};
use railgun_core::group::{GroupState, HeldState};
use railgun_core::shard::{AppendRefusal, Appended};
use railgun_types::{GroupId, GroupName, Offset, StreamName, StreamUid};

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

/// See the module.
pub(super) struct Letters {
    of: Deceased,
    shard: ShardHandle,
    clock: Arc<dyn Clock>,
    waiting: VecDeque<(Offset, u32)>,
    feed: Feed,
    /// The one that was proposed, and what comes of it.
    proposed: Option<((Offset, u32), LetterResult)>,
    /// The number of the next one: its offset in the companion.
    next: Offset,
}

/// `None`: it was not looked at, or nobody knows.
type LetterResult = BoxFuture<'static, Option<Result<Appended, AppendRefusal>>>;

/// What there is to do about dead letters.
pub(super) enum LetterEvent {
    Fed(Fed),
    /// The one that was proposed has ended.
    Ended(Option<Result<Appended, AppendRefusal>>),
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
                Some((_, result)) => result.await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            fed = self.feed.next() => LetterEvent::Fed(fed),
            result = ended => LetterEvent::Ended(result),
        }
    }

    /// The message of the next one cannot be read: it stays dying, and others go before it.
    pub(super) fn put_off(&mut self) -> Option<Offset> {
        self.waiting.pop_front().map(|(offset, _)| offset)
    }

    /// What came of the one that was proposed. Its message, if it stays dying.
    pub(super) fn ended(
        &mut self,
        result: Option<Result<Appended, AppendRefusal>>,
    ) -> Option<Offset> {
        let (letter, _) = self.proposed.take()?;
        if let Some(Err(AppendRefusal::ExpectedEnd { actual })) = result {
            self.next = actual;
            return None;
        }
        // Others may have come before it meanwhile.
        self.waiting.retain(|waiting| *waiting != letter);
        (!matches!(result, Some(Ok(_)))).then_some(letter.0)
    }

    /// Proposes the next one, if its message was read.
    pub(super) fn propose(&mut self, state: &GroupState) {
        while let Some(&(offset, generation)) = self.waiting.front() {
            if self.proposed.is_some() {
                return;
            }
            let held = state.held(offset).filter(|held| held.generation == generation);
            let Some((held, HeldState::Dying { reason })) = held.map(|held| (held, held.state))
            else {
                // It is dead by now, or an operator has decided otherwise.
                self.waiting.pop_front();
                continue;
            };
            let Some(run) = self.feed.at(offset) else { return };
            let Deceased { stream, stream_name, group, name, companion } = &self.of;
            let seq = self.next;
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
            let item = Append {
                stream: *companion,
                producer: None,
                mode: AppendMode::Each,
                expected_end: Some(ExpectedNext(seq.0)),
                dead_letter: Some(DeadLetterOf { group: *group, offset, generation }),
                batch,
            };
            let shard = self.shard.clone();
            let appended = Box::pin(async move { shard.append_dead_letter(item).await });
            self.proposed = Some(((offset, generation), appended));
            return;
        }
    }
}
