//! Reading a value that lies in several pieces of memory.

use bytes::Bytes;
use railgun_types::Malformed;

/// A position in a sequence of byte pieces. What is taken must lie inside one piece, which is how
/// commands are cut; it comes out as a slice, not a copy.
#[derive(Debug)]
pub struct PartsCursor<'a> {
    all: &'a [Bytes],
    /// Those not taken yet.
    parts: &'a [Bytes],
    /// Bytes taken from `parts[0]`.
    at: usize,
    position: u64,
}

impl<'a> PartsCursor<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub fn new(parts: &'a [Bytes]) -> Self {
        Self { all: parts, parts, at: 0, position: 0 }
    }

    /// Moves to an absolute position. Goes on from where it stands if it can: a walk through all
    /// items, in order, looks at each piece once.
    ///
    /// # Errors
    /// [`Malformed`] if it lies behind the end; the cursor is at the end then.
    pub fn seek(&mut self, position: u64) -> Result<(), Malformed> {
        if position < self.position {
            *self = Self::new(self.all);
        }
        let left = usize::try_from(position - self.position).map_err(|_| Malformed)?;
        let mut left = self.at.checked_add(left).ok_or(Malformed)?;
        self.position -= self.at as u64;
        self.at = 0;
        while let Some(first) = self.parts.first() {
            if left < first.len() {
                self.at = left;
                self.position = position;
                return Ok(());
            }
            left -= first.len();
            self.position += first.len() as u64;
            self.parts = &self.parts[1..];
        }
        if left == 0 { Ok(()) } else { Err(Malformed) }
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes not taken yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum::<usize>() - self.at
    }

    /// What is left of the current piece.
    fn current(&mut self) -> Option<&'a Bytes> {
        while let Some(first) = self.parts.first() {
            if self.at < first.len() {
                return Some(first);
            }
            self.parts = &self.parts[1..];
            self.at = 0;
        }
        None
    }

    /// The rest of the current piece, not taken.
    #[must_use]
    pub fn peek(&mut self) -> &'a [u8] {
        match self.current() {
            Some(first) => &first[self.at..],
            None => &[],
        }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if they do not lie in one piece.
    pub fn take(&mut self, len: usize) -> Result<Bytes, Malformed> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let first = self.current().ok_or(Malformed)?;
        let end = self.at.checked_add(len).filter(|&end| end <= first.len()).ok_or(Malformed)?;
        let taken = first.slice(self.at..end);
        self.at = end;
        self.position += len as u64;
        Ok(taken)
    }
}
