//! Writing an object that will never change.

use std::sync::atomic::Ordering;

use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};

use super::error::{BucketError, Failure, FailureKind, RetryClass};
use super::{Bucket, Inner};

/// What is read back after a write: all of a small object, the end of a large one. There lies the
/// footer of a segment or bundle, with digests of all it holds: so an object that was cut short or
/// padded is noticed, and so is that of another writer, where the store has no conditional PUT.
/// Against other bytes in the middle a store guards its own way in, with the signed hash of the
/// request; what rots later is found by whoever reads it.
const READ_BACK_BYTES: u64 = 64 << 10;

/// Piece in which an existing object is compared with ours.
const COMPARE_BYTES: u64 = 8 << 20;

/// How an immutable object came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// This call wrote it.
    Stored,
    /// It was there with exactly this content: written before, or the answer to an earlier attempt
    /// of this call was lost.
    Existed,
}

impl Bucket {
    /// Writes `content` under `key`, which nothing else may ever have been written to, and checks
    /// that it is there, by its size and its end. Idempotent: an equal content that is there already
    /// is a success, in a directory after it was synced. A content of many pieces is sent as they
    /// are, and makes the same object as one.
    ///
    /// Uses a conditional PUT. Where the store ignores or refuses the condition, the look before
    /// the write is all there is: two writers with different contents for one key may then race,
    /// and the one that finds the other's content fails. Keys that carry a content hash cannot race.
    ///
    /// Cancel safe: the object is then there as a whole, or not at all.
    ///
    /// # Errors
    /// [`BucketError::Conflict`] if another content lies under the key; otherwise as for
    /// [`Bucket::get`], and then the object may or may not be there.
    pub async fn put_immutable(
        &self,
        key: &str,
        content: impl Into<PutPayload>,
    ) -> Result<Put, BucketError> {
        self.put(key, &content.into()).await
    }

    async fn put(&self, key: &str, content: &PutPayload) -> Result<Put, BucketError> {
        let Inner { retry, pacer, .. } = &*self.inner;
        let mut attempts = 1;
        loop {
            // The look also finds what an attempt with a lost answer has written.
            let looks = self.inner.seen_is_stored && !self.overwrites();
            if looks && self.is_there(key, content).await? {
                return Ok(Put::Existed);
            }
            let creates = self.inner.creates_only.load(Ordering::Relaxed) && !self.overwrites();
            let mode = if creates { PutMode::Create } else { PutMode::Overwrite };
            let failure = match self.put_once(key, content, mode.clone()).await {
                Ok(()) => match self.check_stored(key, content).await? {
                    Ok(()) => return Ok(Put::Stored),
                    Err(vanished) => vanished,
                },
                // Somebody was faster, maybe ourselves.
                Err(failure) if failure.kind == FailureKind::AlreadyExists => {
                    if self.is_there(key, content).await? {
                        return Ok(Put::Existed);
                    }
                    Failure { kind: FailureKind::Transient, ..failure }
                }
                Err(failure)
                    if failure.kind == FailureKind::Unsupported && mode == PutMode::Create =>
                {
                    tracing::warn!(bucket = %self, "the store has no conditional PUT");
                    self.inner.creates_only.store(false, Ordering::Relaxed);
                    continue;
                }
                Err(failure) => failure,
            };
            let class = failure.retry_class();
            if class == RetryClass::Permanent || attempts >= retry.attempts {
                // The last attempt may have stored it all the same.
                if class != RetryClass::Permanent
                    && self.inner.seen_is_stored
                    && self.is_there(key, content).await?
                {
                    return Ok(Put::Existed);
                }
                return Err(failure.into_error(key, attempts));
            }
            pacer.sleep(retry.pause(attempts, class, &**pacer)).await;
            attempts += 1;
        }
    }

    /// Plants a bug: a bucket that writes over what is there, without a look and without a condition.
    /// For a bucket that nobody else has yet.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn overwriting(mut self) -> Self {
        let inner = std::sync::Arc::get_mut(&mut self.inner);
        inner.expect("nobody else has it").overwrites = true;
        self
    }

    #[cfg(any(test, feature = "testing"))]
    fn overwrites(&self) -> bool {
        self.inner.overwrites
    }

    #[cfg(not(any(test, feature = "testing")))]
    const fn overwrites(&self) -> bool {
        false
    }

    async fn put_once(
        &self,
        key: &str,
        content: &PutPayload,
        mode: PutMode,
    ) -> Result<(), Failure> {
        let Inner { store, retry, .. } = &*self.inner;
        let path = self.path(key).map_err(|error| Failure {
            kind: FailureKind::Refused,
            reason: error.to_string().into(),
        })?;
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = store.put_opts(&path, content.clone(), options);
        self.attempt(retry.attempt_deadline(content.content_length() as u64), put).await?;
        Ok(())
    }

    /// Looks at what was just written. The inner error: it is not there, try again.
    async fn check_stored(
        &self,
        key: &str,
        content: &PutPayload,
    ) -> Result<Result<(), Failure>, BucketError> {
        let Some(bytes) = self.size(key).await? else {
            let reason = "an acknowledged object is not there".into();
            return Ok(Err(Failure { kind: FailureKind::Transient, reason }));
        };
        let from = (content.content_length() as u64).saturating_sub(READ_BACK_BYTES);
        self.compare(key, bytes, content, from).await?;
        Ok(Ok(()))
    }

    /// Whether there is an object under `key`; it must be `content`.
    async fn is_there(&self, key: &str, content: &PutPayload) -> Result<bool, BucketError> {
        match self.size(key).await? {
            Some(bytes) => self.compare(key, bytes, content, 0).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Compares the object of `bytes` bytes under `key` with `content`, whose bytes before `from`
    /// are taken for granted.
    async fn compare(
        &self,
        key: &str,
        bytes: u64,
        content: &PutPayload,
        from: u64,
    ) -> Result<(), BucketError> {
        let conflict = || BucketError::Conflict { key: key.into() };
        if bytes != content.content_length() as u64 {
            return Err(conflict());
        }
        let mut start = from;
        while start < bytes {
            let end = bytes.min(start + COMPARE_BYTES);
            let found = self.get_range(key, start..end).await?;
            if found.len() as u64 != end - start || !lies_at(&found, start as usize, content) {
                return Err(conflict());
            }
            start = end;
        }
        Ok(())
    }
}

/// Whether `content` has `found` at `start`.
fn lies_at(mut found: &[u8], mut start: usize, content: &PutPayload) -> bool {
    for piece in content {
        let here = piece.get(start..).unwrap_or_default();
        start = start.saturating_sub(piece.len());
        let (now, later) = found.split_at(here.len().min(found.len()));
        if !here.starts_with(now) {
            return false;
        }
        found = later;
    }
    found.is_empty()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_lies_at_a_place_is_found_however_it_is_cut() {
        let whole: Vec<u8> = (0..20).collect();
        for piece in 1..=20 {
            let pieces = whole.chunks(piece).map(Bytes::copy_from_slice);
            // Empty pieces are as good as none.
            let content: PutPayload = pieces.chain([Bytes::new()]).collect();
            for start in 0..=20 {
                for end in start..=20 {
                    assert!(lies_at(&whole[start..end], start, &content));
                    let mut other = whole[start..end].to_vec();
                    for at in 0..other.len() {
                        other[at] ^= 1;
                        assert!(!lies_at(&other, start, &content), "{piece} {start} {at}");
                        other[at] ^= 1;
                    }
                    other.push(99);
                    assert!(!lies_at(&other, start, &content));
                }
            }
        }
    }
}
