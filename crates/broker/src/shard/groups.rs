//! What is asked of a shard's owner about groups, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use railgun_core::command::{Append, CommandBody, GroupChanges};
use railgun_core::dispatcher::HandOverRefused;
use railgun_core::group::{Paused, Unsettled};
use railgun_core::shard::{AppendRefusal, Appended, Group};
use railgun_proto::WireError;
use railgun_types::{
    ErrorCode, GroupId, GroupMode, GroupName, GroupSpec, Offset, OffsetRange, StreamUid, Timestamp,
};
use tokio::sync::oneshot;

use super::host::{Host, Waiter};
use crate::group::{GroupFigures, GroupSpawn, Join, MemberInput, Seat};
use crate::reader::ReadSources;
use crate::replica;
use crate::wire_error;

/// How long what groups have to say waits where there is no room for it, before it is looked again.
const FULL_PAUSE: Duration = Duration::from_millis(100);
/// Runs of dead or parked messages of one answer, at most.
const RUNS_MAX: usize = 10_000;

/// See the module.
pub(crate) enum GroupMessage {
    /// Somebody wants to be a member: by which way is it told so?
    Join { join: Box<Join>, reply: oneshot::Sender<Result<Seat, WireError>> },
    /// A group that is handed out here, by this one, has something to say.
    Change { actor: u64, changes: GroupChanges },
    /// Dead letters are to be appended.
    DeadLetters { items: Vec<Append>, reply: LettersReply },
    /// Groups with messages that are to become dead letters are to be handed out, whether they have members
    /// or not.
    Tend { sources: Box<ReadSources> },
    /// Groups behind a name.
    List {
        stream: StreamUid,
        after: Option<GroupName>,
        limit: usize,
        reply: oneshot::Sender<GroupPage>,
    },
    Describe {
        stream: StreamUid,
        group: GroupName,
        reply: oneshot::Sender<Option<Box<GroupFacts>>>,
    },
    /// An exclusive group is to have another active member.
    HandOver { stream: StreamUid, group: GroupName, reply: oneshot::Sender<Result<u64, WireError>> },
    /// The stream of a group's dead letters, if there is one.
    Companion { stream: StreamUid, group: GroupName, reply: oneshot::Sender<Option<StreamUid>> },
    /// What is dead or parked from an offset on.
    Dead {
        stream: StreamUid,
        group: GroupName,
        from: Offset,
        reply: oneshot::Sender<Option<DeadPage>>,
    },
}

/// Dropped where it was not looked at, or nobody knows.
pub(super) type LettersReply = oneshot::Sender<Vec<Result<Appended, AppendRefusal>>>;

impl std::fmt::Debug for GroupMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Join { .. } => "Join",
            Self::Change { .. } => "Change",
            Self::DeadLetters { .. } => "DeadLetters",
            Self::Tend { .. } => "Tend",
            Self::List { .. } => "List",
            Self::Describe { .. } => "Describe",
            Self::HandOver { .. } => "HandOver",
            Self::Companion { .. } => "Companion",
            Self::Dead { .. } => "Dead",
        })
    }
}

/// What there is to tell about a group.
#[derive(Clone, Debug)]
pub(crate) struct GroupFacts {
    pub(crate) id: GroupId,
    pub(crate) name: GroupName,
    pub(crate) spec: GroupSpec,
    pub(crate) revision: u64,
    pub(crate) created: Timestamp,
    pub(crate) floor: Offset,
    pub(crate) next: Offset,
    /// Messages that are not settled.
    pub(crate) lag: u64,
    /// Encoded bytes of these, by the stream's average.
    pub(crate) lag_bytes: u64,
    /// Log time of the first of them, where the log still tells.
    pub(crate) lag_since: Option<Timestamp>,
    pub(crate) highest_acked: Option<Offset>,
    pub(crate) unsettled: Unsettled,
    pub(crate) dead: u64,
    pub(crate) epoch: u32,
    pub(crate) paused: Option<Paused>,
    /// Dead letters ever.
    pub(crate) dead_letters: u64,
    pub(crate) figures: GroupFigures,
}

/// Some of a stream's groups, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupPage {
    pub(crate) groups: Vec<GroupFacts>,
    /// Whether there are others behind the last one.
    pub(crate) more: bool,
}

/// Some of what is dead and what is parked, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeadPage {
    pub(crate) dead: Vec<OffsetRange>,
    pub(crate) parked: Vec<OffsetRange>,
    /// Whether there is more behind the last one.
    pub(crate) more: bool,
}

impl Host {
    pub(super) async fn on_group(&mut self, message: GroupMessage) {
        match message {
            GroupMessage::Join { join, reply } => drop(reply.send(self.on_join(*join))),
            GroupMessage::Change { actor, changes } => {
                if changes.term == self.pipeline.leader().term {
                    self.groups.say(actor, changes);
                }
            }
            GroupMessage::DeadLetters { items, reply } => {
                // Dropped, they are tried again later.
                if self.has_reserve() {
                    self.propose(CommandBody::Append(items), Waiter::DeadLetters(reply)).await;
                }
            }
            GroupMessage::Tend { sources } => self.on_tend(&sources),
            GroupMessage::List { stream, after, limit, reply } => {
                let groups = self.state.groups_of(stream);
                let groups = groups.filter(|group| after.as_ref() < Some(group.name()));
                let mut groups: Vec<_> =
                    groups.take(limit + 1).map(|group| self.facts(group)).collect();
                let more = groups.len() > limit;
                groups.truncate(limit);
                reply.send(GroupPage { groups, more }).ok();
            }
            GroupMessage::Describe { stream, group, reply } => {
                let found = self.state.group_named(stream, &group);
                let facts = found.map(|group| Box::new(self.facts(group)));
                reply.send(facts).ok();
            }
            GroupMessage::HandOver { stream, group, reply } => {
                self.on_hand_over(stream, &group, reply);
            }
            GroupMessage::Companion { stream, group, reply } => {
                reply.send(self.companion_of(stream, &group)).ok();
            }
            GroupMessage::Dead { stream, group, from, reply } => {
                let found = self.state.group_named(stream, &group);
                reply.send(found.map(|group| dead_page(group, from))).ok();
            }
        }
    }

    /// Proposes what groups have to say, if nothing of it is on its way.
    pub(super) async fn propose_groups(&mut self) {
        if !self.groups.has_entry() {
            return;
        }
        if !self.has_reserve() {
            self.look_again_after(FULL_PAUSE);
            return;
        }
        if let Some(body) = self.groups.take() {
            self.propose(body, Waiter::Groups).await;
        }
    }

    /// Whether there is room for what is not stored for users: it may have what publishers may not (DESIGN
    /// §1.7).
    fn has_reserve(&self) -> bool {
        let in_flight = self.pipeline.in_flight();
        self.pipeline.has_room()
            && (self.admission().is_ok() || replica::has_relief(&self.log, in_flight))
    }

    async fn propose(&mut self, body: CommandBody, waiter: Waiter) {
        if let Err((waiter, failure)) = self.pipeline.propose(body, waiter).await {
            self.fail(waiter, failure);
        }
    }

    fn on_join(&mut self, join: Join) -> Result<Seat, WireError> {
        let leader = self.pipeline.leader();
        let is_current = self.state.applied().is_some_and(|at| at.term == leader.term);
        if !leader.serving || !is_current {
            let message = "the shard has no leader here now";
            return Err(WireError::new(ErrorCode::Unavailable, message));
        }
        let Join { stream, group: name, group_id, mode, sources } = join;
        let Some(group) = self.state.group_named(stream, &name) else {
            return Err(wire_error::group_not_found(&name));
        };
        let id = group.id();
        if group_id.is_some_and(|wanted| wanted != id) {
            return Err(wire_error::another_group(&name));
        }
        let spec = group.spec();
        if let Some(mode) = mode.filter(|mode| *mode != spec.mode) {
            let (is, wanted) = (spec.mode.name(), mode.name());
            let message =
                format!("group '{name}' is {is}, and the member is for a group that is {wanted}");
            return Err(WireError::new(ErrorCode::GroupModeMismatch, message));
        }
        let next = self.state.stream(stream).map_or(Offset(0), |stream| stream.next_offset());
        let (mode, ack_wait_ms, floor) = (spec.mode, spec.ack_wait_ms, group.state().floor());
        if self.groups.find(id, leader.term).is_none() && self.groups.is_free(id, leader.term) {
            self.hand_out(id, leader.term, sources);
        }
        let live = self.groups.find(id, leader.term).ok_or_else(wire_error::group_busy)?;
        Ok(Seat { group: id, mode, ack_wait_ms, floor, next, inputs: live.inputs.clone() })
    }

    /// The group answers itself, if it has members.
    fn on_hand_over(
        &self,
        stream: StreamUid,
        name: &GroupName,
        reply: oneshot::Sender<Result<u64, WireError>>,
    ) {
        let refused = match self.state.group_named(stream, name) {
            None => wire_error::group_not_found(name),
            Some(group) if group.spec().mode != GroupMode::Exclusive => {
                wire_error::not_handed_over(name, HandOverRefused::NotExclusive)
            }
            Some(group) => match self.groups.find(group.id(), self.pipeline.leader().term) {
                None => wire_error::not_handed_over(name, HandOverRefused::NobodyElse),
                Some(live) => {
                    let inputs = live.inputs.clone();
                    return self.actors.spawn("who has a group handed over", async move {
                        // Behind what members say.
                        if let Err(unsent) = inputs.send(MemberInput::HandOver { reply }).await {
                            unsent.0.refuse();
                        }
                    });
                }
            },
        };
        reply.send(Err(refused)).ok();
    }

    /// From here on the group is handed out here, if its stream is.
    fn hand_out(&mut self, id: GroupId, term: u64, sources: ReadSources) {
        let group = self.state.group(id);
        let Some((group, of)) = group.and_then(|it| Some((it, self.state.stream(it.stream())?)))
        else {
            return;
        };
        let stream = group.stream();
        let companion = self.state.stream(group.companion());
        let spawn = GroupSpawn {
            number: self.groups.next_number(),
            id,
            name: group.name().clone(),
            stream,
            stream_name: of.name().clone(),
            companion: group.companion(),
            spec: group.spec().clone(),
            state: group.state().clone(),
            term,
            leading_for: self.groups.led_for(term),
            was_left: self.groups.was_left(group.id(), term),
            log_time: self.state.log_time().max(self.clock.now()),
            next: of.next_offset(),
            next_letter: companion.map_or(Offset(0), |companion| companion.next_offset()),
            sources,
            clock: Arc::clone(&self.clock),
        };
        let live = spawn.spawn(&self.actors);
        self.groups.insert(id, term, live);
    }

    fn on_tend(&mut self, sources: &ReadSources) {
        let leader = self.pipeline.leader();
        if !leader.serving || self.state.applied().is_none_or(|at| at.term != leader.term) {
            return;
        }
        let dying: Vec<_> = self
            .state
            .groups()
            .filter(|group| {
                group.state().unsettled_held().dying > 0
                    && self.groups.find(group.id(), leader.term).is_none()
                    && self.groups.is_free(group.id(), leader.term)
            })
            .map(Group::id)
            .collect();
        for id in dying {
            self.hand_out(id, leader.term, sources.clone());
        }
    }

    /// That of the group that has the name, or had it last.
    fn companion_of(&self, stream: StreamUid, name: &GroupName) -> Option<StreamUid> {
        let present = self.state.group_named(stream, name).map(Group::companion);
        let is_here = |uid: &StreamUid| self.state.stream(*uid).is_some();
        present.filter(is_here).or_else(|| {
            let is_of_it = |uid: &StreamUid| {
                let companion = self.state.stream(*uid);
                let of = companion.and_then(|companion| companion.name().split_companion());
                of.is_some_and(|(_, group)| group == *name)
            };
            let created = |uid: &StreamUid| self.state.stream(*uid).map(|it| it.created());
            self.state.companions_of(stream).filter(is_of_it).max_by_key(created)
        })
    }

    fn facts(&self, group: &Group) -> GroupFacts {
        let (state, stream) = (group.state(), self.state.stream(group.stream()));
        let next = stream.map_or(Offset(0), |stream| stream.next_offset());
        let lag = state.lag(next);
        let bytes = stream.map_or(0, |stream| stream.record_bytes());
        let average =
            |messages: u64| u128::from(bytes) * u128::from(messages) / u128::from(next.0.max(1));
        let unsettled = state.next_unsettled(OffsetRange::new(Offset(0), next));
        let first = stream.and_then(|stream| stream.index().from(unsettled).next());
        let companion = self.state.stream(group.companion());
        GroupFacts {
            id: group.id(),
            name: group.name().clone(),
            spec: group.spec().clone(),
            revision: group.revision(),
            created: group.created(),
            floor: state.floor(),
            next,
            lag,
            lag_bytes: u64::try_from(average(lag)).unwrap_or(u64::MAX),
            lag_since: first.filter(|_| lag > 0).map(|point| point.ts),
            highest_acked: state.highest_acked(),
            unsettled: state.unsettled_held(),
            dead: state.dead().len(),
            epoch: state.epoch(),
            paused: state.paused(),
            dead_letters: companion.map_or(0, |companion| companion.next_offset().0),
            figures: self.groups.figures(group.id(), self.pipeline.leader().term),
        }
    }
}

/// The first runs from `from` on.
fn dead_page(group: &Group, from: Offset) -> DeadPage {
    let state = group.state();
    let mut page = DeadPage::default();
    let behind = OffsetRange::new(from, Offset(u64::MAX));
    page.dead = state.dead().within(behind).take(RUNS_MAX + 1).collect();
    for offset in state.parked_in(behind) {
        if let Some(last) = page.parked.last_mut().filter(|last| last.end == offset) {
            last.end = offset.plus(1);
            continue;
        }
        if page.parked.len() > RUNS_MAX {
            break;
        }
        page.parked.push(OffsetRange::single(offset));
    }
    // Of both up to the same offset, from which whoever wants more goes on.
    let cut = |runs: &[OffsetRange]| runs.get(RUNS_MAX).map(|run| run.start);
    let end = [cut(&page.dead), cut(&page.parked)].into_iter().flatten().min();
    if let Some(end) = end {
        page.more = true;
        for runs in [&mut page.dead, &mut page.parked] {
            runs.retain(|run| run.start < end);
            if let Some(last) = runs.last_mut() {
                last.end = last.end.min(end);
            }
        }
    }
    page
}
