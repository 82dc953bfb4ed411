//! Dead letters that are published into another stream (DL-7).

use railgun_types::{Offset, OffsetRange, StreamName, StreamUid};

use super::dead_letters::{DeadLetter, DeadLetters, DeadLettersError};
use crate::admin::AdminError;
use crate::client::Client;
use crate::message::Message;
use crate::publish::{OpenError, PublishError, SendError};

/// Messages that are published before they are given up in their group.
const AT_A_TIME: usize = 500;

/// What came of dead letters that were to be published into another stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Messages that are in the other stream now.
    pub messages: u64,
    /// Those of them that were there already, from an attempt before that did not come to its end.
    pub duplicates: u64,
}

/// Why dead letters were not, or not all, published into another stream. Those that were are given up in
/// their group, or found again by their ids: repeat it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedriveError {
    /// They could not be read.
    #[error(transparent)]
    Letters(#[from] DeadLettersError),
    /// The stream was not described, or the group not told that they are done.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The stream holds no ids, by which a message that is sent again is known.
    #[error("stream '{stream}' has no ID time box: what is redriven twice would be in it twice")]
    NoIds {
        /// The stream.
        stream: StreamName,
    },
    /// Nobody may publish there.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A message was not taken.
    #[error("dead letter {offset}: {error}")]
    Send {
        /// Its offset in the stream that it comes from.
        offset: Offset,
        /// Why.
        error: Box<SendError>,
    },
    /// A message was not published, or is not known to have been.
    #[error("dead letter {offset}: {error}")]
    Publish {
        /// Its offset in the stream that it comes from.
        offset: Offset,
        /// Why.
        error: Box<PublishError>,
    },
}

impl DeadLetters {
    /// Publishes dead letters into another stream, as the messages that they were, and gives them up in
    /// their group (DL-7): those of these ranges, or all of them where none is named.
    ///
    /// Each has an id, of the companion's uid, its number there and how often it was redriven, so that none
    /// is in the other stream twice, whatever fails and is repeated while that stream holds ids. (The id
    /// that the message had is not kept.) Parked messages, and those without a copy, are left as they are.
    ///
    /// Cancelled, some may be published and not given up: the same again finishes it.
    ///
    /// # Errors
    /// [`RedriveError`].
    pub async fn redrive_to(
        mut self,
        client: &Client,
        target: &StreamName,
        offsets: &[OffsetRange],
    ) -> Result<Redriven, RedriveError> {
        let admin = client.admin();
        if !admin.describe_stream(target).await?.spec.dedup.is_on() {
            return Err(RedriveError::NoIds { stream: target.clone() });
        }
        let publisher = client.publisher(target.clone()).open().await?;
        let is_meant = |offset| {
            offsets.is_empty() || offsets.iter().any(|range: &OffsetRange| range.contains(offset))
        };
        let mut redriven = Redriven::default();
        loop {
            let (mut sent, mut failure) = (Vec::new(), None);
            while sent.len() < AT_A_TIME
                && failure.is_none()
                && let Some(letter) = self.next().await?
            {
                let offset = letter.offset;
                if !is_meant(offset) {
                    continue;
                }
                match publisher.send(self.message(letter)).await {
                    Ok(ticket) => sent.push((offset, ticket)),
                    Err(error) => {
                        failure = Some(RedriveError::Send { offset, error: Box::new(error) });
                    }
                }
            }
            if sent.is_empty() && failure.is_none() {
                return Ok(redriven);
            }
            let mut done = Vec::new();
            for (offset, ticket) in sent {
                match ticket.await {
                    Ok(published) => {
                        redriven.messages += 1;
                        redriven.duplicates += u64::from(published.duplicate);
                        done.push(OffsetRange::single(offset));
                    }
                    Err(error) => {
                        let error = Box::new(error);
                        failure.get_or_insert(RedriveError::Publish { offset, error });
                    }
                }
            }
            // With none named, all would be meant.
            if !done.is_empty() {
                done.sort_unstable();
                admin.discard_of(self.which(), &done).await?;
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
    }

    fn message(&self, letter: DeadLetter) -> Message {
        let DeadLetter { record, redriven, .. } = letter;
        let id = redrive_id(self.companion_uid(), record.offset, redriven);
        Message {
            key: record.key,
            headers: record.headers,
            producer_ts: record.producer_ts,
            value: record.value,
            id: Some(id.into()),
        }
    }
}

/// The number of a dead letter is its offset in the companion.
fn redrive_id(companion: StreamUid, number: Offset, generation: u32) -> String {
    format!("rg-redrive:{companion}:{number}:{generation}")
}

#[cfg(test)]
mod tests {
    use railgun_types::limits::MESSAGE_ID_BYTES;

    use super::*;

    #[test]
    fn an_id_names_one_death_of_one_message_of_one_group() {
        // DL-7
        let id = redrive_id(StreamUid([7; 16]), Offset(12), 3);
        assert_eq!(id, format!("rg-redrive:{}:12:3", StreamUid([7; 16])));
        let longest = redrive_id(StreamUid([255; 16]), Offset(u64::MAX), u32::MAX);
        assert!(longest.len() <= MESSAGE_ID_BYTES, "{longest}");
    }
}
