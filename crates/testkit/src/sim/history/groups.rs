//! What members of consumer groups were handed and what they said of it, and the rules that hold between
//! these (SEMANTICS §3, §4).

use std::collections::BTreeMap;
use std::time::Duration;

use railgun_client::{
    DeadOffsets, Delivery, GroupError, GroupName, Offset, OffsetRange, StreamUid,
};

use super::History;

/// A group that is looked at. No two are equal.
#[derive(Clone, Copy, Debug)]
pub struct GroupNumber(usize);

/// Somebody who joined a group once. No two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberNumber {
    group: usize,
    member: usize,
}

/// A message that a member was handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Which one.
    pub offset: Offset,
    /// Of handing it out.
    pub attempt: u32,
    /// How often it had been redriven.
    pub generation: u32,
    /// Of an exclusive group.
    pub token: Option<u32>,
}

/// An ack that was confirmed.
#[derive(Clone, Copy, Debug)]
struct Acked {
    at: Duration,
    by: MemberNumber,
}

/// A fencing token.
#[derive(Clone, Copy, Debug)]
struct Token {
    of: MemberNumber,
    /// When a message was first handed out with it.
    since: Duration,
    /// The last message that was first handed out with it, but for those that were redriven.
    last: Offset,
}

/// By which member, in which generation, which one.
type Attempt = (usize, u32, u32);

#[derive(Debug)]
struct Group {
    stream: StreamUid,
    name: GroupName,
    is_exclusive: bool,
    /// When each member asked to be one.
    members: Vec<Duration>,
    /// The newest token with which each was handed something.
    tokens_of: BTreeMap<usize, u32>,
    /// How often each message was handed out, in each of its generations.
    handed: BTreeMap<(Offset, u32), u32>,
    /// When a message was first handed out as this attempt of this generation.
    tried: BTreeMap<(Offset, u32, u32), Duration>,
    /// Messages of which somebody said that they are done, whether that counted or not: which member, of which
    /// of its attempts, and when first.
    said: BTreeMap<Offset, BTreeMap<Attempt, Duration>>,
    /// When a member said first, under this token, that this message is done.
    said_first: BTreeMap<(usize, u32, Offset), Duration>,
    acked: BTreeMap<Offset, Acked>,
    tokens: BTreeMap<u32, Token>,
    /// When an ack under this token was first confirmed; the highest one.
    fenced: Option<(u32, Duration)>,
    /// When redrives were asked for.
    redrives: Vec<Duration>,
    /// The highest floor that anybody was told.
    floor: Offset,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    /// Where the copy of each dead letter is: by stream, group, offset and generation.
    letters: BTreeMap<(StreamUid, String, Offset, u32), (StreamUid, Offset)>,
}

/// A rule, and how it is broken.
type Broken = (&'static str, String);

impl Group {
    fn handed(&mut self, by: MemberNumber, handed: Handed, now: Duration) -> Option<Broken> {
        let Handed { offset, attempt, generation, token } = handed;
        let joined = self.members[by.member];
        let before = self.handed.entry((offset, generation)).or_insert(0);
        *before += 1;
        let attempts_max = *before;
        self.tried.entry((offset, generation, attempt)).or_insert(now);
        // What was confirmed before a member joined cannot lie in its buffer.
        if let Some(acked) = self.acked.get(&offset)
            && (acked.at < joined || acked.by == by)
        {
            let at = acked.at;
            return Some(("G-3", format!("{offset} was acked for good at {at:?}: {handed:?}")));
        }
        if attempt > attempts_max || attempt == 0 {
            let how = format!("{offset} was handed out {attempts_max} times: {handed:?}");
            return Some(("G-10", how));
        }
        let redrives = self.redrives.len();
        if generation as usize > redrives {
            return Some(("DL-7", format!("{redrives} redrives were asked for: {handed:?}")));
        }
        match token {
            Some(token) if self.is_exclusive => self.active(by, handed, token, now),
            None if !self.is_exclusive => None,
            _ => Some(("X-1", format!("exclusive {}: {handed:?}", self.is_exclusive))),
        }
    }

    /// Each active member has a token of its own, higher than those before it, and is handed messages
    /// in strict order.
    fn active(
        &mut self,
        by: MemberNumber,
        handed: Handed,
        token: u32,
        now: Duration,
    ) -> Option<Broken> {
        let Handed { offset, generation, .. } = handed;
        let joined = self.members[by.member];
        // Who was active before may still hand out what it has, and not know.
        let newer = self.tokens.range(token + 1..).find(|(_, newer)| newer.since < joined);
        if let Some((newer, _)) = newer {
            return Some(("X-1", format!("token {newer} was there before it joined: {handed:?}")));
        }
        let newest = self.tokens_of.entry(by.member).or_insert(token);
        if token < *newest {
            return Some(("X-1", format!("the member had token {newest} before: {handed:?}")));
        }
        *newest = token;
        let is_first = self.handed_once(offset, generation);
        let known =
            self.tokens.entry(token).or_insert(Token { of: by, since: now, last: Offset(0) });
        if known.of != by {
            return Some(("X-1", format!("two members have its token: {handed:?}")));
        }
        if is_first && generation == 0 {
            if offset < known.last {
                let last = known.last;
                return Some(("X-3", format!("{last} was handed out before it: {handed:?}")));
            }
            known.last = offset;
        }
        None
    }

    fn handed_once(&self, offset: Offset, generation: u32) -> bool {
        self.handed.get(&(offset, generation)) == Some(&1)
    }

    /// Asked for at `asked`, confirmed by `now`.
    fn acked(
        &mut self,
        by: MemberNumber,
        handed: Handed,
        asked: Duration,
        now: Duration,
    ) -> Option<Broken> {
        let Handed { offset, token, .. } = handed;
        self.said_done(by, handed, asked);
        self.acked.entry(offset).or_insert(Acked { at: now, by });
        if let Some(since) = self.superseded(by, handed) {
            let how = format!("acked for good, and tried again since {since:?}: {handed:?}");
            return Some(("G-7", how));
        }
        let token = token?;
        // Handed out to the same member twice, it may have counted before: said again, it is told so (G-7).
        let said_first = self.said_first.get(&(by.member, token, offset)).copied();
        if let Some((higher, since)) = self.fenced
            && higher > token
            && since < asked.min(said_first.unwrap_or(asked))
        {
            let how = format!("acked for good, as was something with token {higher}: {handed:?}");
            return Some(("X-2", how));
        }
        if self.fenced.is_none_or(|(highest, _)| highest < token) {
            self.fenced = Some((token, now));
        }
        None
    }
}

impl Group {
    fn said_done(&mut self, by: MemberNumber, handed: Handed, at: Duration) {
        let Handed { offset, attempt, generation, .. } = handed;
        let said = self.said.entry(offset).or_default();
        said.entry((by.member, generation, attempt)).or_insert(at);
    }

    /// Since when somebody has a later attempt than this one, if that was before its member first said that
    /// the message is done. Where it was also said of other attempts, one of these may have counted, and who
    /// repeats that is told so (G-7).
    fn superseded(&self, by: MemberNumber, handed: Handed) -> Option<Duration> {
        let Handed { offset, attempt, generation, .. } = handed;
        let said = self.said.get(&offset)?;
        let own = (by.member, generation, attempt);
        let first = *said.get(&own).filter(|_| said.len() == 1)?;
        let behind = (offset, generation, attempt + 1)..=(offset, u32::MAX, u32::MAX);
        let later = self.tried.range(behind).map(|(_, since)| *since).min()?;
        (later < first).then_some(later)
    }
}

impl History {
    /// A group that is made now.
    pub fn group(&self, stream: StreamUid, name: GroupName, is_exclusive: bool) -> GroupNumber {
        self.inner.with(|inner| {
            inner.groups.groups.push(Group {
                stream,
                name,
                is_exclusive,
                members: Vec::new(),
                tokens_of: BTreeMap::new(),
                handed: BTreeMap::new(),
                tried: BTreeMap::new(),
                said: BTreeMap::new(),
                said_first: BTreeMap::new(),
                acked: BTreeMap::new(),
                tokens: BTreeMap::new(),
                fenced: None,
                redrives: Vec::new(),
                floor: Offset(0),
            });
            GroupNumber(inner.groups.groups.len() - 1)
        })
    }

    /// Somebody is about to join.
    pub fn joins(&self, group: GroupNumber) -> MemberNumber {
        let now = self.trace.elapsed();
        self.inner.with(|inner| {
            let members = &mut inner.groups.groups[group.0].members;
            members.push(now);
            MemberNumber { group: group.0, member: members.len() - 1 }
        })
    }

    /// The stream whose messages a member gets.
    pub(in super::super) fn stream_of(&self, member: MemberNumber) -> StreamUid {
        self.inner.with(|inner| inner.groups.groups[member.group].stream)
    }

    /// A member was handed a message, and has begun with it.
    pub fn handed(&self, by: MemberNumber, handed: Handed) {
        let now = self.trace.elapsed();
        self.trace.note(format_args!("group {} member {}: {handed:?}", by.group, by.member));
        self.trace.count(|counts| {
            counts.handed += 1;
            counts.handed_again += u64::from(handed.attempt > 1);
            counts.redriven += u64::from(handed.generation > 0);
        });
        self.of_group(by, |group| group.handed(by, handed, now));
    }

    /// The same of what a member got; whoever reads it is called so.
    pub fn hand(&self, by: MemberNumber, delivery: &Delivery, reader: &str) -> Handed {
        let handed = Handed {
            offset: delivery.offset(),
            attempt: delivery.attempt(),
            generation: delivery.redriven(),
            token: delivery.fencing_token(),
        };
        let record = &delivery.record;
        self.handed(by, handed);
        self.read(self.stream_of(by), record.offset, record.ts, &record.into(), reader);
        handed
    }

    /// A member says that a message is done, and does not wait.
    pub fn says_acked(&self, by: MemberNumber, handed: Handed) {
        let now = self.trace.elapsed();
        self.of_group(by, |group| {
            group.said_done(by, handed, now);
            if let Some(token) = handed.token {
                group.said_first.entry((by.member, token, handed.offset)).or_insert(now);
            }
            None
        });
    }

    /// What a member asked for at `asked` was confirmed.
    pub fn acked_for_good(&self, by: MemberNumber, handed: Handed, asked: Duration) {
        let now = self.trace.elapsed();
        let offset = handed.offset;
        self.trace.note(format_args!("group {} member {}: {offset} acked", by.group, by.member));
        self.trace.count(|counts| counts.acked_for_good += 1);
        self.of_group(by, |group| group.acked(by, handed, asked, now));
    }

    /// A member acks a message, and waits for the answer.
    pub async fn confirm(&self, by: MemberNumber, delivery: Delivery, handed: Handed) {
        self.says_acked(by, handed);
        let asked = self.trace.elapsed();
        match delivery.ack_confirmed().await {
            Ok(()) => self.acked_for_good(by, handed, asked),
            Err(GroupError::Stale { reason, .. }) => {
                self.trace.note(format_args!("{handed:?} is stale: {reason:?}"));
                self.trace.count(|counts| counts.stale += 1);
            }
            // The member hears of it, too.
            Err(error) => self.trace.note(format_args!("{handed:?}: {error}")),
        }
    }

    /// A redrive is about to be asked for.
    pub(in super::super) fn redrives(&self, group: GroupNumber) {
        let now = self.trace.elapsed();
        self.inner.with(|inner| inner.groups.groups[group.0].redrives.push(now));
    }

    /// Somebody was told where the floor of a group is.
    pub(in super::super) fn floor_told(&self, group: GroupNumber, floor: Offset) {
        self.inner.with(|inner| {
            let known = &mut inner.groups.groups[group.0].floor;
            *known = floor.max(*known);
        });
    }

    /// Nothing is wrong, and whoever leads tells this floor: it was never above (G-1).
    pub(in super::super) fn check_floor(&self, group: GroupNumber, floor: Offset) {
        let (name, known) = self.inner.with(|inner| {
            let group = &inner.groups.groups[group.0];
            (group.name.clone(), group.floor)
        });
        if floor < known {
            let how = format_args!("the floor of group {name} was {known}, and is {floor}");
            self.violated("G-1", how);
        }
    }

    fn of_group(&self, by: MemberNumber, work: impl FnOnce(&mut Group) -> Option<Broken>) {
        let broken = self.inner.with(|inner| {
            let group = &mut inner.groups.groups[by.group];
            let broken = work(group)?;
            Some((group.name.clone(), broken))
        });
        if let Some((name, (rule, how))) = broken {
            let member = by.member;
            self.violated(rule, format_args!("member {member} of group {name}: {how}"));
        }
    }

    /// A dead letter was read, at this place of a companion: each message has one in each of its
    /// generations (DL-3).
    pub(super) fn letter(
        &self,
        at: (StreamUid, Offset),
        of: (StreamUid, String, Offset, u32),
        by: &str,
    ) {
        let known = self.inner.with(|inner| *inner.groups.letters.entry(of.clone()).or_insert(at));
        if known != at {
            let how = format_args!("the dead letter {of:?} is at {known:?}, and to {by} at {at:?}");
            self.violated("DL-3", how);
        }
    }

    /// Everything of the stream up to `end` is settled, as the group says, and these are dead: each message
    /// was acked, or is dead and has its letter (G-1, G-2, DL-3).
    pub(in super::super) fn check_settled(
        &self,
        number: GroupNumber,
        end: Offset,
        dead: &DeadOffsets,
    ) {
        let is_in = |ranges: &[OffsetRange], offset| {
            ranges.iter().any(|range| range.start <= offset && offset < range.end)
        };
        let broken = self.inner.with(|inner| {
            let Groups { groups, letters } = &inner.groups;
            let group = &groups[number.0];
            // The last letter of each.
            let of_group = letters.keys().filter(|(stream, name, ..)| {
                *stream == group.stream && *name == group.name.to_string()
            });
            let letters: BTreeMap<_, _> =
                of_group.map(|(_, _, offset, generation)| (*offset, *generation)).collect();
            let broken = (0..end.0).map(Offset).find_map(|offset| {
                let is_dead = is_in(&dead.dead, offset);
                let (acked, said) = (group.acked.get(&offset), group.said.contains_key(&offset));
                let letter = letters.get(&offset);
                // It may have been acked after it was redriven, by who had it before: nobody else had it
                // then (G-7).
                let redriven = letter.map(|generation| group.redrives.get(*generation as usize));
                match (is_dead, redriven) {
                    _ if is_in(&dead.parked, offset) => Some(("DL-2", "is parked")),
                    (true, _) if acked.is_some() => Some(("G-3", "was acked, and is dead")),
                    (true, None) => Some(("DL-3", "is dead, and has no letter")),
                    (false, Some(None)) => {
                        Some(("DL-7", "has a letter, and is neither dead nor redriven"))
                    }
                    (_, Some(Some(redriven))) if acked.is_some_and(|it| it.at < *redriven) => {
                        Some(("DL-3", "was acked, and got a letter"))
                    }
                    (false, _) if !said => Some(("G-2", "is settled, and nobody has acked it")),
                    _ => None,
                }
                .map(|(rule, how)| (rule, offset, how))
            });
            broken.map(|(rule, offset, how)| (rule, group.name.clone(), offset, how))
        });
        if let Some((rule, name, offset, how)) = broken {
            self.violated(rule, format_args!("{offset} of group {name} {how}"));
        }
    }
}

#[cfg(test)]
mod tests;
