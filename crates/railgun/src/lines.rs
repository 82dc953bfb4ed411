//! Records out of a file or pipe: one ends at LF, which is removed. CR stays, an empty line is an
//! empty record, a last line without LF is a record.

use std::io::{self, Read};

/// Bytes asked of the input at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// The input cannot be read, or is not made of records that can be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("cannot read: {0}")]
    Read(#[from] io::Error),
    #[error("line {number} has more than {limit} bytes")]
    TooLong { number: u64, limit: usize },
}

/// Cuts an input into lines without allocating for each.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    input: R,
    buffer: Vec<u8>,
    /// What is not handed out yet: `buffer[start..filled]`.
    start: usize,
    filled: usize,
    /// Where the search for LF goes on; never before `start`.
    searched: usize,
    ended: bool,
    limit: usize,
    lines: u64,
    bytes: u64,
}

impl<R: Read> LineReader<R> {
    /// Lines of `input` of at most `limit` bytes.
    pub(crate) fn new(input: R, limit: usize) -> Self {
        Self {
            input,
            buffer: vec![0; BLOCK_BYTES],
            start: 0,
            filled: 0,
            searched: 0,
            ended: false,
            limit,
            lines: 0,
            bytes: 0,
        }
    }

    /// Bytes of the input that were handed out, LF included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line; `None` at the end. Waits for the input, but never for a whole block of it.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, LineError> {
        loop {
            let unsearched = &self.buffer[self.searched..self.filled];
            if let Some(at) = memchr::memchr(b'\n', unsearched) {
                let end = self.searched + at;
                return self.hand_out(end, end + 1).map(Some);
            }
            self.searched = self.filled;
            if self.filled - self.start > self.limit {
                return Err(LineError::TooLong { number: self.lines + 1, limit: self.limit });
            }
            if self.ended {
                if self.start == self.filled {
                    return Ok(None);
                }
                return self.hand_out(self.filled, self.filled).map(Some);
            }
            self.fill()?;
        }
    }

    /// The line up to `end`; the rest begins at `next`.
    fn hand_out(&mut self, end: usize, next: usize) -> Result<&[u8], LineError> {
        let start = self.start;
        self.lines += 1;
        if end - start > self.limit {
            return Err(LineError::TooLong { number: self.lines, limit: self.limit });
        }
        self.bytes += (next - start) as u64;
        (self.start, self.searched) = (next, next);
        Ok(&self.buffer[start..end])
    }

    fn fill(&mut self) -> Result<(), LineError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.searched -= self.start;
            self.start = 0;
        }
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() + BLOCK_BYTES, 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.filled..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of one size.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(self.0.len()).min(out.len());
            out[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn lines(input: &[u8], piece: usize, limit: usize) -> Result<Vec<Vec<u8>>, LineError> {
        let mut reader = LineReader::new(Pieces(input, piece), limit);
        let mut lines = Vec::new();
        while let Some(line) = reader.next()? {
            lines.push(line.to_vec());
        }
        assert_eq!(reader.bytes(), input.len() as u64);
        Ok(lines)
    }

    #[test]
    fn the_rules_hold_whatever_the_pieces() {
        for piece in [1, 2, 3, 1000] {
            let cut = |input: &[u8]| lines(input, piece, 100).unwrap();
            assert_eq!(cut(b""), Vec::<Vec<u8>>::new());
            assert_eq!(cut(b"\n"), [b""]);
            assert_eq!(cut(b"a\n\nb\n"), [&b"a"[..], b"", b"b"]);
            assert_eq!(cut(b"a\r\nlast"), [&b"a\r"[..], b"last"]);
            assert_eq!(cut(b"\0\xff\n"), [b"\0\xff"]);
        }
    }

    #[test]
    fn joined_with_lf_the_lines_are_the_input_across_blocks() {
        let mut input = Vec::new();
        for number in 0..300_000 {
            input.extend_from_slice(format!("line {number}\n").as_bytes());
        }
        input.extend(vec![b'x'; 3 * BLOCK_BYTES]);
        input.push(b'\n');
        let lines = lines(&input, 700_001, 4 * BLOCK_BYTES).unwrap();
        assert_eq!(lines.len(), 300_001);
        let mut joined = lines.join(&b'\n');
        joined.push(b'\n');
        assert!(joined == input);
    }

    #[test]
    fn a_line_over_the_limit_is_named_without_being_read_to_its_end() {
        let endless = io::repeat(b'x');
        let mut reader = LineReader::new((&b"ok\n"[..]).chain(endless), 1000);
        assert_eq!(reader.next().unwrap(), Some(&b"ok"[..]));
        let error = reader.next().unwrap_err().to_string();
        assert_eq!(error, "line 2 has more than 1000 bytes");
        assert!(matches!(lines(b"abc\n", 9, 2), Err(LineError::TooLong { number: 1, .. })));
    }
}
