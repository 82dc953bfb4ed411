//! Dead letters: copies of messages in the companions of groups (DL-4).

use railgun_client::{Offset, StreamUid};

use super::super::said::Said;
use super::{History, MessageId};

/// What headers begin with that say what has become of a message.
const PREFIX: &str = "rg-dlq-";

/// What a dead letter says.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    pub(super) stream: StreamUid,
    pub(super) group: String,
    pub(super) offset: Offset,
    pub(super) generation: u32,
    /// The message.
    said: Said<'a>,
}

impl<'a> Letter<'a> {
    /// `None`: the record is no dead letter.
    pub(super) fn of(said: &Said<'a>) -> Option<Self> {
        let text = |name: &str| {
            let mut headers = said.headers.iter();
            let is_it = |key: &str| key.strip_prefix(PREFIX) == Some(name);
            let (_, value) = headers.find(|(key, _)| is_it(key))?;
            std::str::from_utf8(value).ok()
        };
        let offset = Offset(text("offset")?.parse().ok()?);
        let (stream, group) = (text("uid")?.parse().ok()?, text("group")?.to_owned());
        let generation = text("redrive-gen")?.parse().ok()?;
        let mut said = said.clone();
        said.headers.retain(|(key, _)| !key.starts_with(PREFIX));
        Some(Self { stream, group, offset, generation, said })
    }
}

impl History {
    /// Whether it is the dead letter of a message that was published: the whole message (DL-4).
    pub(in super::super) fn is_letter(&self, said: &Said<'_>) -> bool {
        Letter::of(said).is_some_and(|letter| self.of_letter(&letter).is_some())
    }

    /// The message that it is of.
    pub(super) fn of_letter(&self, letter: &Letter<'_>) -> Option<MessageId> {
        self.identify(letter.stream, &letter.said)
    }
}
