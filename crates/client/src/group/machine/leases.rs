//! What a member has un-settled, message by message.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use railgun_proto::convert::Held;
use railgun_types::{Offset, OffsetRange};

use super::{Said, What};

/// Names a delivery; all its messages have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) lease: u64,
    pub(crate) attempt: u32,
    pub(crate) epoch: u32,
    /// How often its messages had been redriven.
    pub(crate) generation: u32,
}

/// How far one message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Buffered,
    /// The application has it, and the server is to be told.
    Begun,
    /// The application has it, and the server was told.
    Told,
    /// It is acked, and the server is to be told.
    Acked,
    /// What came of it is on its way, or in the queue; there is no answer yet.
    Said,
    /// It was answered, or is another's by now.
    Gone,
}

impl Mark {
    fn is_begun(self) -> bool {
        matches!(self, Self::Begun | Self::Told | Self::Acked | Self::Said)
    }
}

#[derive(Debug)]
struct Lease {
    tag: Tag,
    /// Encoded bytes of a message of the delivery, by their average.
    message_bytes: u32,
    /// One for each message: what happens to one costs no memory.
    marks: Vec<Mark>,
    /// Those that are not gone.
    open: usize,
    /// Among these are those of which something is to be told; it is in `Leases::dirty` if there are any.
    dirty: Range<usize>,
}

/// Leases by their first offsets. They never overlap: of two for one message, the newer one counts.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_first: BTreeMap<Offset, Lease>,
    /// First offsets of those of which something is to be told.
    dirty: VecDeque<Offset>,
    /// Messages in the buffer.
    buffered: usize,
    /// Messages with something to be told or answered.
    unsaid: usize,
}

impl Leases {
    /// Takes in a delivery. Whether it takes the place of messages of an earlier one, and the acks of these
    /// that are not told yet: they may count, and somebody may wait for the answer.
    pub(super) fn add(
        &mut self,
        tag: Tag,
        range: OffsetRange,
        bytes: usize,
        untold: &mut Vec<Said>,
    ) -> bool {
        let superseded = self.cut_out(range, untold);
        let len = range.len() as usize;
        // None is larger than a batch may be.
        let message_bytes = (bytes / len.max(1)) as u32;
        let marks = vec![Mark::Buffered; len];
        let lease = Lease { tag, message_bytes, marks, open: len, dirty: 0..0 };
        self.buffered += len;
        self.by_first.insert(range.start, lease);
        superseded
    }

    /// Forgets the messages of this range, whosever they are.
    fn cut_out(&mut self, range: OffsetRange, untold: &mut Vec<Said>) -> bool {
        let mut cut = Vec::new();
        for (first, lease) in self.by_first.range(..range.end).rev() {
            if end(*first, lease) <= range.start {
                break;
            }
            cut.push(*first);
        }
        for first in &cut {
            let Some(mut lease) = self.by_first.remove(first) else { continue };
            for at in 0..lease.marks.len() {
                let offset = first.plus(at as u64);
                if range.contains(offset) {
                    if lease.marks[at] == Mark::Acked {
                        untold.push(Said::new(lease.tag, OffsetRange::single(offset), What::Ack));
                    }
                    let mut count = (self.buffered, self.unsaid);
                    set(&mut lease, at, Mark::Gone, &mut count);
                    (self.buffered, self.unsaid) = count;
                }
            }
            let behind = range.end.0.saturating_sub(first.0) as usize;
            if behind < lease.marks.len() {
                let marks = lease.marks.split_off(behind);
                self.put_back(range.end, &lease, marks);
            }
            lease.marks.truncate(range.start.0.saturating_sub(first.0) as usize);
            let marks = std::mem::take(&mut lease.marks);
            self.put_back(*first, &lease, marks);
        }
        !cut.is_empty()
    }

    fn put_back(&mut self, first: Offset, of: &Lease, marks: Vec<Mark>) {
        let open = marks.iter().filter(|mark| **mark != Mark::Gone).count();
        if open > 0 {
            self.dirty.push_back(first);
            let Lease { tag, message_bytes, .. } = *of;
            let dirty = 0..marks.len();
            self.by_first.insert(first, Lease { tag, message_bytes, marks, open, dirty });
        }
    }

    /// Changes the messages of a range that are of this lease.
    fn change(
        &mut self,
        lease: Option<u64>,
        range: OffsetRange,
        mut mark: impl FnMut(Tag, Mark) -> Mark,
    ) {
        let mut emptied = Vec::new();
        let mut count = (self.buffered, self.unsaid);
        for (first, entry) in self.by_first.range_mut(..range.end).rev() {
            if end(*first, entry) <= range.start {
                break;
            }
            if lease.is_some_and(|lease| lease != entry.tag.lease) {
                continue;
            }
            let from = range.start.0.saturating_sub(first.0) as usize;
            let to = (range.end.0 - first.0).min(entry.marks.len() as u64) as usize;
            for at in from..to {
                let now = mark(entry.tag, entry.marks[at]);
                set(entry, at, now, &mut count);
                if matches!(now, Mark::Begun | Mark::Acked) {
                    if entry.dirty.is_empty() {
                        self.dirty.push_back(*first);
                        entry.dirty = at..at;
                    }
                    entry.dirty = entry.dirty.start.min(at)..entry.dirty.end.max(at + 1);
                }
            }
            if entry.open == 0 {
                emptied.push(*first);
            }
        }
        (self.buffered, self.unsaid) = count;
        for first in emptied {
            self.by_first.remove(&first);
        }
    }

    /// The application begins with the first messages of the range that lie in the buffer next to one
    /// another; which these are.
    pub(super) fn begin(&mut self, lease: u64, range: OffsetRange) -> OffsetRange {
        let mut begun = OffsetRange::new(range.end, range.end);
        let before = self.by_first.range(..=range.start).next_back();
        let from = before.map_or(range.start, |(first, _)| *first);
        'leases: for (first, entry) in self.by_first.range(from..range.end) {
            if entry.tag.lease != lease {
                continue;
            }
            let skip = range.start.0.saturating_sub(first.0) as usize;
            for (at, mark) in entry.marks.iter().enumerate().skip(skip) {
                let offset = first.plus(at as u64);
                if offset >= range.end {
                    break 'leases;
                }
                match mark {
                    Mark::Buffered if begun.is_empty() => begun = OffsetRange::single(offset),
                    Mark::Buffered if begun.end == offset => begun.end = offset.plus(1),
                    _ if begun.is_empty() => {}
                    _ => break 'leases,
                }
            }
        }
        if !begun.is_empty() {
            self.change(Some(lease), begun, |_, _| Mark::Begun);
        }
        begun
    }

    /// Notes an ack to be told with others. `false`: some of these messages are not this lease's any more.
    pub(super) fn ack(&mut self, lease: u64, range: OffsetRange) -> bool {
        let mut found = 0;
        self.change(Some(lease), range, |_, mark| {
            found += u64::from(matches!(mark, Mark::Begun | Mark::Told));
            mark
        });
        if found != range.len() {
            return false;
        }
        self.change(Some(lease), range, |_, _| Mark::Acked);
        true
    }

    /// What came of these messages is told apart from the acks.
    pub(super) fn say(&mut self, lease: u64, range: OffsetRange) {
        self.change(Some(lease), range, |_, mark| if mark.is_begun() { Mark::Said } else { mark });
    }

    /// What was said of these is answered.
    pub(super) fn answered(&mut self, lease: u64, range: OffsetRange) {
        self.change(Some(lease), range, |_, mark| match mark {
            Mark::Said => Mark::Gone,
            other => other,
        });
    }

    /// These are another's. What the application has said of them is answered in its own time.
    pub(super) fn lost(&mut self, lease: u64, range: OffsetRange) {
        self.change(Some(lease), range, |_, mark| match mark {
            Mark::Buffered | Mark::Begun | Mark::Told => Mark::Gone,
            other => other,
        });
    }

    /// Takes out of the buffer what lies in this range and is wanted no more.
    pub(super) fn unbuffer(&mut self, range: OffsetRange, is_unwanted: impl Fn(Tag) -> bool) {
        self.change(None, range, |tag, mark| match mark {
            Mark::Buffered if is_unwanted(tag) => Mark::Gone,
            other => other,
        });
    }

    /// Whether any message of the range lies in the buffer under this lease.
    pub(super) fn is_buffered(&self, lease: u64, range: OffsetRange) -> bool {
        let overlapping = self.by_first.range(..range.end).rev();
        overlapping.take_while(|(first, entry)| end(**first, entry) > range.start).any(
            |(first, entry)| {
                let from = range.start.0.saturating_sub(first.0) as usize;
                let to = (range.end.0 - first.0).min(entry.marks.len() as u64) as usize;
                entry.tag.lease == lease && entry.marks[from..to].contains(&Mark::Buffered)
            },
        )
    }

    /// Messages in the buffer.
    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }

    /// Whether something is to be told.
    pub(super) fn has_to_tell(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether something that was said of a message is not answered.
    pub(super) fn is_owed(&self) -> bool {
        self.unsaid > 0
    }

    /// Takes what is to be told, as ranges, until there are `most` in all: of a message that was begun and
    /// acked since the last time, only the ack.
    pub(super) fn tell(&mut self, most: usize, out: &mut Vec<Said>) {
        while let Some(first) = self.dirty.pop_front() {
            let Some(lease) = self.by_first.get_mut(&first) else { continue };
            let dirty = std::mem::take(&mut lease.dirty);
            let mut run: Option<(What, OffsetRange)> = None;
            let tag = lease.tag;
            let mut push = |run: &mut Option<(What, OffsetRange)>| {
                if let Some((what, range)) = run.take() {
                    out.push(Said::new(tag, range, what));
                }
                out.len() < most
            };
            let mut left = dirty.end..dirty.end;
            for at in dirty {
                let mark = &mut lease.marks[at];
                let (what, next) = match mark {
                    Mark::Begun => (What::Begin, Mark::Told),
                    Mark::Acked => (What::Ack, Mark::Said),
                    _ => {
                        if !push(&mut run) {
                            left.start = at;
                            break;
                        }
                        continue;
                    }
                };
                let offset = first.plus(at as u64);
                match &mut run {
                    Some((same, range)) if *same == what => range.end = offset.plus(1),
                    _ => {
                        if !push(&mut run) {
                            left.start = at;
                            break;
                        }
                        run = Some((what, OffsetRange::single(offset)));
                    }
                }
                // Neither is `Gone` or `Buffered`, and `Acked` is owed as `Said` is.
                *mark = next;
            }
            push(&mut run);
            if !left.is_empty() {
                lease.dirty = left;
                self.dirty.push_front(first);
            }
            if out.len() >= most {
                return;
            }
        }
    }

    /// All that is un-settled, as it is presented when the member joins again. The server needs to be told
    /// of no beginning that is in it.
    pub(super) fn hold(&mut self, most: usize) -> Vec<Held> {
        let mut all = Vec::new();
        for (first, lease) in &mut self.by_first {
            for (at, mark) in lease.marks.iter_mut().enumerate() {
                let offset = first.plus(at as u64);
                let begun = match mark {
                    Mark::Gone => continue,
                    Mark::Buffered => false,
                    Mark::Begun => {
                        *mark = Mark::Told;
                        true
                    }
                    Mark::Told | Mark::Acked | Mark::Said => true,
                };
                let message_bytes = lease.message_bytes;
                let Tag { lease, attempt, epoch, generation } = lease.tag;
                let range = OffsetRange::single(offset);
                let held = Held { lease, range, attempt, epoch, begun, generation, message_bytes };
                match all.last_mut() {
                    Some(last) if is_next(last, &held) => last.range.end = offset.plus(1),
                    _ => all.push(held),
                }
            }
        }
        if all.len() > most {
            // What the application has is dearer than what it has not seen.
            all.sort_by_key(|held| !held.begun);
            all.truncate(most);
            all.sort_by_key(|held| held.range.start);
        }
        all
    }
}

fn is_next(last: &Held, next: &Held) -> bool {
    last.lease == next.lease && last.begun == next.begun && last.range.end == next.range.start
}

/// The offset behind the last message of a lease.
fn end(first: Offset, lease: &Lease) -> Offset {
    first.plus(lease.marks.len() as u64)
}

/// Changes one mark, and the numbers of those that are in the buffer and those that are owed an answer.
fn set(lease: &mut Lease, at: usize, now: Mark, (buffered, unsaid): &mut (usize, usize)) {
    let before = std::mem::replace(&mut lease.marks[at], now);
    let owed = |mark| usize::from(matches!(mark, Mark::Acked | Mark::Said));
    *buffered += usize::from(now == Mark::Buffered);
    *buffered -= usize::from(before == Mark::Buffered);
    *unsaid += owed(now);
    *unsaid -= owed(before);
    lease.open += usize::from(before == Mark::Gone);
    lease.open -= usize::from(now == Mark::Gone);
}
