//! Records on standard output, buffered.

use std::io::{self, Write};

use super::format::{Format, Shown, print_for_people};

/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// How `sub` and `replay` print records.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RecordFormat {
    /// Print only the value and an LF
    #[arg(long, conflicts_with = "format")]
    raw: bool,
    /// Print fields, such as '{offset} {ts} {source} {key} {value}'; also {headers} and {id}, and
    /// \n \t \0 \\ {{ }}
    #[arg(long, value_name = "TEXT")]
    format: Option<Format>,
}

impl RecordFormat {
    fn print(&self, record: &Shown<'_>, out: &mut Vec<u8>) {
        match &self.format {
            Some(format) => format.print(record, out),
            None if self.raw => {
                out.extend_from_slice(record.value);
                out.push(b'\n');
            }
            None => print_for_people(record, out),
        }
    }
}

/// Prints records; nobody waits for what is printed longer than until the next [`flush`](Self::flush).
#[derive(Debug)]
pub(crate) struct RecordPrinter<W> {
    out: W,
    format: RecordFormat,
    buffer: Vec<u8>,
    left: u64,
}

/// Whether there is more to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Printed {
    More,
    /// The limit is reached.
    Enough,
}

impl<W: Write> RecordPrinter<W> {
    /// Prints at most `limit` records to `out`.
    pub(crate) fn new(out: W, format: RecordFormat, limit: Option<u64>) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Self { out, format, buffer, left: limit.unwrap_or(u64::MAX) }
    }

    /// Whether no record may be printed any more.
    pub(crate) fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Prints one record.
    pub(crate) fn print(&mut self, record: &Shown<'_>) -> io::Result<Printed> {
        if self.left == 0 {
            return Ok(Printed::Enough);
        }
        self.left -= 1;
        self.format.print(record, &mut self.buffer);
        if self.buffer.len() >= BUFFER_BYTES {
            self.write()?;
        }
        Ok(if self.left == 0 { Printed::Enough } else { Printed::More })
    }

    /// Hands everything to the reader.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.write()?;
        self.out.flush()
    }

    fn write(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railgun_types::batch::Content;

    #[test]
    fn raw_output_is_value_and_lf_up_to_the_limit() {
        let record = b"\0\r\xff";
        let content = Content::decode(record).unwrap();
        let shown = Shown {
            offset: 0,
            ts_us: 0,
            source: "hot",
            key: None,
            headers: content.headers.into(),
            value: content.value,
            id: None,
        };
        let format = RecordFormat { raw: true, format: None };
        let mut printer = RecordPrinter::new(Vec::new(), format, Some(2));
        assert_eq!(printer.print(&shown).unwrap(), Printed::More);
        assert_eq!(printer.print(&shown).unwrap(), Printed::Enough);
        assert!(printer.is_full());
        assert_eq!(printer.print(&shown).unwrap(), Printed::Enough);
        assert!(printer.out.is_empty(), "buffered");
        printer.flush().unwrap();
        assert_eq!(printer.out, b"\r\xff\n\r\xff\n");
    }
}
