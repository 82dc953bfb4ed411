//! The dead letters of a group, as records.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use railgun_types::{
    ErrorCode, GroupId, GroupName, Offset, OffsetRange, StartPosition, StreamName, StreamUid,
    Timestamp,
};

use crate::admin::{AdminError, DeadOffsets, Which};
use crate::client::Client;
use crate::subscribe::{Event, Record, RecordRef, SubscribeError, Subscription};

/// What the headers are called in which a dead letter says what it is (DL-4).
const OFFSET: &str = "rg-dlq-offset";
const PREFIX: &str = "rg-dlq-";

/// Why dead letters could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeadLettersError {
    /// Which messages are dead was not told.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Their copies could not be read.
    #[error(transparent)]
    Read(#[from] SubscribeError),
}

/// A message that a group has given up: a copy of it, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its offset in the stream that it comes from.
    pub offset: Offset,
    /// Why it was given up, as the server names it.
    pub reason: String,
    /// Attempts that failed.
    pub attempts: u32,
    /// What the last one said.
    pub last_error: Option<String>,
    /// When it was handed out first.
    pub first_delivered: Option<Timestamp>,
    /// When it was given up.
    pub died_at: Option<Timestamp>,
    /// How often it had been redriven before.
    pub redriven: u32,
    /// The whole message. Its offset and time are those of the copy, in the companion; its headers are those
    /// of the message alone.
    pub record: Record,
}

impl DeadLetter {
    /// `None`: the record is no dead letter.
    fn of(mut record: Record) -> Option<Self> {
        let is_ours = |(key, _): &(String, Bytes)| key.starts_with(PREFIX);
        let said: Vec<_> = record.headers.extract_if(.., |header| is_ours(header)).collect();
        let text = |name: &str| {
            let (_, value) = said.iter().find(|(key, _)| key[PREFIX.len()..] == *name)?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let small = |name: &str| u32::try_from(number(name)?).ok();
        let time = |name: &str| text(name)?.parse().ok().map(Timestamp);
        Some(Self {
            offset: Offset(number("offset")?),
            reason: text("reason").unwrap_or_default(),
            attempts: small("attempts").unwrap_or(0),
            last_error: text("last-error").filter(|error| !error.is_empty()),
            first_delivered: time("first-delivered"),
            died_at: time("died-at"),
            redriven: small("redrive-gen").unwrap_or(0),
            record,
        })
    }
}

/// Reads the dead letters of a group, those that are dead when it is opened, in the order in which they
/// died.
#[derive(Debug)]
pub struct DeadLetters {
    stream: StreamName,
    group: GroupName,
    only: (StreamUid, GroupId),
    /// Whose copies they are. Nobody's while there are none.
    companion: StreamUid,
    offsets: DeadOffsets,
    /// Where the newest copy of each is, in the companion.
    newest: BTreeMap<Offset, Offset>,
    /// Reads the companion a second time.
    copies: Option<Subscription>,
    letters: VecDeque<DeadLetter>,
}

impl DeadLetters {
    /// Finds out which messages are dead, and where their copies are: reads the whole companion once.
    ///
    /// # Errors
    /// [`DeadLettersError`].
    pub async fn open(
        client: &Client,
        stream: &StreamName,
        group: &GroupName,
    ) -> Result<Self, DeadLettersError> {
        let admin = client.admin();
        let stream_uid = admin.describe_stream(stream).await?.uid;
        let group_id = admin.describe_group(stream, group).await?.id;
        let which = Which { stream, group, only: Some((stream_uid, group_id)) };
        let offsets = admin.dead_letters_of(which).await?;
        let companion = StreamName::companion(stream, group);
        let mut newest = BTreeMap::new();
        let mut copies = None;
        let mut companion_uid = StreamUid::default();
        if !offsets.dead.is_empty() {
            let open = async || {
                let builder = client.subscribe(companion.clone()).start(StartPosition::Earliest);
                match builder.until_end().open().await {
                    Ok(subscription) => Ok(Some(subscription)),
                    // All copies are gone, and the companion with them.
                    Err(SubscribeError::Refused { error, .. })
                        if error.code == ErrorCode::StreamNotFound =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            };
            if let Some(mut reading) = open().await? {
                companion_uid = reading.stream_uid();
                while let Some(event) = reading.next_batch().await? {
                    let Event::Data(run) = event else { continue };
                    for record in run.records() {
                        if let Some(offset) = offset_of(&record)
                            && holds(&offsets.dead, offset)
                        {
                            // Each copy is of a later generation than those in front of it.
                            newest.insert(offset, record.offset);
                        }
                    }
                }
            }
            if !newest.is_empty() {
                // Another companion than the one that was read has none of them.
                copies = open().await?.filter(|copies| copies.stream_uid() == companion_uid);
            }
        }
        Ok(Self {
            stream: stream.clone(),
            group: group.clone(),
            only: (stream_uid, group_id),
            companion: companion_uid,
            offsets,
            newest,
            copies,
            letters: VecDeque::new(),
        })
    }

    /// Whose they are.
    pub(super) fn which(&self) -> Which<'_> {
        Which { stream: &self.stream, group: &self.group, only: Some(self.only) }
    }

    pub(super) fn companion_uid(&self) -> StreamUid {
        self.companion
    }

    /// Which messages are dead or parked.
    #[must_use]
    pub fn offsets(&self) -> &DeadOffsets {
        &self.offsets
    }

    /// Those that are dead and of which there is no copy any more.
    pub fn without_copy(&self) -> impl Iterator<Item = Offset> {
        let dead = self.offsets.dead.iter().flat_map(OffsetRange::iter);
        dead.filter(|offset| !self.newest.contains_key(offset))
    }

    /// The next one; `None` after the last. Cancel-safe.
    ///
    /// # Errors
    /// [`DeadLettersError`].
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, DeadLettersError> {
        loop {
            if let Some(letter) = self.letters.pop_front() {
                return Ok(Some(letter));
            }
            let Some(copies) = &mut self.copies else { return Ok(None) };
            match copies.next_batch().await? {
                Some(Event::Data(run)) => {
                    let letters = run.take_records().into_iter().filter_map(|record| {
                        let copy = record.offset;
                        let letter = DeadLetter::of(record)?;
                        (self.newest.get(&letter.offset) == Some(&copy)).then_some(letter)
                    });
                    self.letters = letters.collect();
                }
                Some(Event::Removed(_)) => {}
                None => self.copies = None,
            }
        }
    }
}

fn offset_of(record: &RecordRef<'_>) -> Option<Offset> {
    let (_, value) = record.headers.clone().find(|(key, _)| *key == OFFSET)?;
    std::str::from_utf8(value).ok()?.parse().ok().map(Offset)
}

/// Whether one of these ascending ranges has the offset.
fn holds(ranges: &[OffsetRange], offset: Offset) -> bool {
    let behind = ranges.partition_point(|range| range.start <= offset);
    behind > 0 && ranges[behind - 1].contains(offset)
}
