//! What was sent to one stream and what became of it, checked against what the stream holds.

use std::ops::Range;

use railgun_client::{Client, Event, Offset, StartPosition, StreamName};
use railgun_testkit::sim::Random;

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Acknowledged, or seen, at this offset: must be there for ever.
    At(u64),
    /// May be there once, or not.
    Unknown,
    /// Definitely not appended (PS-3).
    Absent,
}

/// Messages given to one publisher, and promises that bind them.
#[derive(Clone, Debug)]
struct Session {
    numbers: Range<usize>,
    /// What is there is a prefix (PS-2).
    ordered: bool,
}

/// The messages of one stream, by their numbers in send order. One publisher at a time.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) stream: StreamName,
    fates: Vec<Fate>,
    sessions: Vec<Session>,
    /// Messages that are there together or not at all (PS-4).
    atomic: Vec<Range<usize>>,
    /// The numbers of the messages in the stream, as last read.
    content: Vec<usize>,
}

impl Ledger {
    pub(crate) fn new(stream: StreamName) -> Self {
        Self {
            stream,
            fates: Vec::new(),
            sessions: Vec::new(),
            atomic: Vec::new(),
            content: Vec::new(),
        }
    }

    /// A publisher begins.
    pub(crate) fn begin_session(&mut self, ordered: bool) {
        let next = self.fates.len();
        self.sessions.push(Session { numbers: next..next, ordered });
    }

    /// The next message: its number and its value.
    pub(crate) fn next_message(&mut self) -> (usize, String) {
        let number = self.fates.len();
        self.fates.push(Fate::Unknown);
        self.sessions.last_mut().expect("a session has begun").numbers.end = number + 1;
        (number, value(&self.stream, number))
    }

    /// The next messages, which go together.
    pub(crate) fn next_atomic(&mut self, count: usize) -> (Range<usize>, Vec<String>) {
        let first = self.fates.len();
        let values = (0..count).map(|_| self.next_message().1).collect();
        self.atomic.push(first..first + count);
        (first..first + count, values)
    }

    /// What the publisher was told.
    pub(crate) fn note(&mut self, number: usize, fate: Fate) {
        self.fates[number] = fate;
    }

    /// How many are known to be there.
    pub(crate) fn present(&self) -> usize {
        self.fates.iter().filter(|fate| matches!(fate, Fate::At(_))).count()
    }

    /// Values in the stream, in its order, as last read.
    pub(crate) fn values(&self) -> impl Iterator<Item = String> {
        self.content.iter().map(|number| value(&self.stream, *number))
    }

    /// Reads the whole stream while nobody publishes to it, and checks every promise. What was
    /// unknown is known then. Returns the sources that records came from.
    pub(crate) async fn check(&mut self, client: &Client) -> Vec<&'static str> {
        let (content, sources) = self.read(client).await;
        let stream = &self.stream;
        let kept = content.get(..self.content.len());
        assert_eq!(kept, Some(&*self.content), "{stream}: what was read before has changed");
        let mut seen = vec![None; self.fates.len()];
        for (offset, &number) in content.iter().enumerate() {
            let place = seen.get_mut(number);
            let place = place.unwrap_or_else(|| panic!("{stream}: {number} was never sent"));
            if let Some(first) = place.replace(offset as u64) {
                panic!("{stream}: {number} is there twice, at {first} and {offset}");
            }
        }
        for (number, fate) in self.fates.iter_mut().enumerate() {
            *fate = match (*fate, seen[number]) {
                (Fate::At(acked), found) if found == Some(acked) => Fate::At(acked),
                (Fate::Unknown, Some(found)) => Fate::At(found),
                (Fate::Unknown | Fate::Absent, None) => Fate::Absent,
                (told, found) => panic!("{stream}: {number} was told {told:?}, found {found:?}"),
            };
        }
        self.content = content;
        self.check_promises();
        sources
    }

    fn check_promises(&self) {
        let stream = &self.stream;
        let offset = |number: usize| match self.fates[number] {
            Fate::At(offset) => Some(offset),
            Fate::Unknown | Fate::Absent => None,
        };
        for Session { numbers, .. } in self.sessions.iter().filter(|session| session.ordered) {
            let offsets: Vec<_> = numbers.clone().map(offset).collect();
            let there = offsets.iter().take_while(|offset| offset.is_some()).count();
            let gap = offsets[there..].iter().position(Option::is_some);
            assert_eq!(gap, None, "{stream}: after message {there} of {numbers:?} there is a gap");
            assert!(offsets[..there].is_sorted(), "{stream}: {numbers:?} is out of order");
        }
        for numbers in &self.atomic {
            let offsets: Vec<_> = numbers.clone().map(offset).collect();
            let base = offsets[0];
            let whole = (0..).zip(&offsets).all(|(at, offset)| *offset == base.map(|b| b + at));
            assert!(whole, "{stream}: the atomic batch {numbers:?} lies at {offsets:?}");
        }
    }

    /// Every message by its number, each compared byte by byte, and where records came from.
    async fn read(&self, client: &Client) -> (Vec<usize>, Vec<&'static str>) {
        let stream = &self.stream;
        let reader = client.subscribe(stream.clone()).start(StartPosition::Earliest).until_end();
        let mut reader = reader.open().await.expect("the stream can be read");
        let (mut content, mut sources, mut last_ts) = (Vec::new(), Vec::new(), None);
        while let Some(event) = reader.next_batch().await.expect("the stream can be read") {
            let Event::Data(delivery) = event else { panic!("{stream}: a gap: {event:?}") };
            assert!(last_ts <= Some(delivery.ts()), "{stream}: log time goes back");
            last_ts = Some(delivery.ts());
            if !sources.contains(&delivery.source().name()) {
                sources.push(delivery.source().name());
            }
            for record in delivery.records() {
                assert_eq!(record.offset, Offset(content.len() as u64), "{stream}: not dense");
                let number = number_of(record.value);
                let expected = number.map(|number| value(stream, number));
                let as_sent = expected.is_some_and(|value| value.as_bytes() == record.value);
                assert!(as_sent, "{stream}: offset {} is not as it was sent", record.offset);
                content.extend(number);
            }
        }
        (content, sources)
    }
}

/// Text without line ends that names its stream and number; mostly short, at times 40 KB.
fn value(stream: &StreamName, number: usize) -> String {
    let mut random = Random::new(number as u64);
    let words = match random.below(128) {
        0 => 2_500,
        _ => random.below(32) as usize,
    };
    format!("{number} {stream} ") + &format!("{:016x}", random.next()).repeat(words)
}

fn number_of(value: &[u8]) -> Option<usize> {
    std::str::from_utf8(value).ok()?.split(' ').next()?.parse().ok()
}
