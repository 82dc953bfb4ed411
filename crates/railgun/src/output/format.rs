//! The value of `--format`: text with fields of a record in it.

use std::str::FromStr;

use jiff::Timestamp as Instant;
use railgun_client::{ContentHeaders, Record};

/// A record as commands print it, whether it came from a server or straight from the bucket.
#[derive(Clone, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) offset: u64,
    /// Log time in microseconds since the epoch.
    pub(crate) ts_us: i64,
    pub(crate) source: &'static str,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
    pub(crate) value: &'a [u8],
    pub(crate) id: Option<&'a [u8]>,
}

impl<'a> From<&'a Record> for Shown<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            offset: record.offset.0,
            ts_us: record.ts.0,
            source: record.source.name(),
            key: record.key.as_deref(),
            headers: Headers::Of { record, next: 0 },
            value: &record.value,
            id: record.id.as_deref(),
        }
    }
}

/// The headers of a record, borrowed from its batch or from the record itself.
#[derive(Clone, Debug)]
pub(crate) enum Headers<'a> {
    Encoded(ContentHeaders<'a>),
    Of { record: &'a Record, next: usize },
}

impl<'a> From<ContentHeaders<'a>> for Headers<'a> {
    fn from(headers: ContentHeaders<'a>) -> Self {
        Self::Encoded(headers)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Encoded(headers) => headers.next(),
            Self::Of { record, next } => {
                let (key, value) = record.headers.get(*next)?;
                *next += 1;
                Some((key, value))
            }
        }
    }
}

/// A parsed format. A record is printed as it says, and an LF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Offset,
    Ts,
    Source,
    Key,
    Headers,
    Value,
    Id,
}

const FIELDS: [(&str, Field); 7] = [
    ("offset", Field::Offset),
    ("ts", Field::Ts),
    ("source", Field::Source),
    ("key", Field::Key),
    ("headers", Field::Headers),
    ("value", Field::Value),
    ("id", Field::Id),
];

/// A text that is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error(
        "there is no field '{{{name}}}'; there are {{offset}}, {{ts}}, {{source}}, {{key}}, {{headers}}, {{value}} and {{id}}"
    )]
    UnknownField { name: String },
    #[error("'{{' is not closed; write '{{{{' for a brace")]
    Open,
    #[error("'}}' is not opened; write '}}}}' for a brace")]
    Close,
    #[error("'\\{escape}' is no escape; there are \\n, \\t, \\0 and \\\\")]
    Escape { escape: String },
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '{' if rest.as_str().starts_with('{') => {
                    rest.next();
                    plain.push(b'{');
                }
                '}' if rest.as_str().starts_with('}') => {
                    rest.next();
                    plain.push(b'}');
                }
                '{' => {
                    let (name, behind) = rest.as_str().split_once('}').ok_or(FormatError::Open)?;
                    let field = FIELDS.iter().find(|(known, _)| *known == name);
                    let (_, field) =
                        field.ok_or_else(|| FormatError::UnknownField { name: name.to_owned() })?;
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Field(*field));
                    rest = behind.chars();
                }
                '}' => return Err(FormatError::Close),
                '\\' => plain.push(match rest.next() {
                    Some('n') => b'\n',
                    Some('t') => b'\t',
                    Some('0') => 0,
                    Some('\\') => b'\\',
                    other => {
                        let escape = other.map(String::from).unwrap_or_default();
                        return Err(FormatError::Escape { escape });
                    }
                }),
                c => plain.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }
}

impl Format {
    /// Appends the record and an LF. Bytes of the record are printed as they are.
    pub(crate) fn print(&self, record: &Shown<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Field(field) => field.print(record, out),
            }
        }
        out.push(b'\n');
    }
}

impl Field {
    fn print(self, record: &Shown<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
            Self::Ts => out.extend_from_slice(rfc3339(record.ts_us).as_bytes()),
            Self::Source => out.extend_from_slice(record.source.as_bytes()),
            Self::Key => out.extend_from_slice(record.key.unwrap_or_default()),
            Self::Value => out.extend_from_slice(record.value),
            Self::Id => out.extend_from_slice(record.id.unwrap_or_default()),
            Self::Headers => {
                for (number, (key, value)) in record.headers.clone().enumerate() {
                    if number > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b'=');
                    out.extend_from_slice(value);
                }
            }
        }
    }
}

/// Appends the record as a person reads it on a terminal: what a terminal would obey is escaped.
pub(crate) fn print_for_people(record: &Shown<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}  {}  ", record.offset, rfc3339(record.ts_us)).as_bytes());
    if let Some(key) = record.key {
        out.push(b'[');
        print_safely(key, out);
        out.extend_from_slice(b"]  ");
    }
    print_safely(record.value, out);
    out.push(b'\n');
}

/// A text from elsewhere as a person reads it on a terminal.
pub(crate) fn safe(text: &str) -> String {
    let mut out = Vec::new();
    print_safely(text.as_bytes(), &mut out);
    // What was text is text.
    String::from_utf8_lossy(&out).into_owned()
}

fn print_safely(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.iter().all(|b| (0x20..0x7f).contains(b)) {
        return out.extend_from_slice(bytes);
    }
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() {
            out.extend(c.escape_default().map(|c| c as u8));
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// Microseconds since the epoch as RFC 3339, always with six digits.
pub(crate) fn rfc3339(us: i64) -> String {
    match Instant::from_microsecond(us) {
        Ok(instant) => format!("{instant:.6}"),
        // Outside the years that a calendar has.
        Err(_) => format!("{us}us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};

    fn printed(format: &str) -> Result<String, FormatError> {
        let format: Format = format.parse()?;
        let mut builder = BatchBuilder::new(1 << 20);
        let headers: &[(&str, &[u8])] = &[("a", b"1"), ("b", b"2")];
        let draft = RecordDraft {
            key: Some(b"k"),
            headers,
            value: b"v\xff",
            id: Some(b"i"),
            ..RecordDraft::default()
        };
        builder.push(&draft).unwrap();
        let batch = RecordBatch::verify(builder.finish().concat()).unwrap();
        let entry = batch.records().next().unwrap();
        let content = entry.content().unwrap();
        let shown = Shown {
            offset: 7,
            ts_us: 1_500_000,
            source: "hot",
            key: content.key,
            headers: content.headers.into(),
            value: content.value,
            id: entry.id,
        };
        let mut out = Vec::new();
        format.print(&shown, &mut out);
        let mut people = Vec::new();
        print_for_people(&shown, &mut people);
        assert_eq!(
            String::from_utf8_lossy(&people),
            "7  1970-01-01T00:00:01.500000Z  [k]  v\u{fffd}\n"
        );
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn fields_and_text_are_printed() {
        assert_eq!(
            printed("{offset} {ts} {source} {key} {value}").unwrap(),
            "7 1970-01-01T00:00:01.500000Z hot k v\u{fffd}\n"
        );
        assert_eq!(printed(r"{{{id}}}\t{headers}\\é").unwrap(), "{i}\ta=1,b=2\\é\n");
        assert_eq!(printed("").unwrap(), "\n");
    }

    #[test]
    fn what_is_no_format_is_said() {
        let error = |text: &str| text.parse::<Format>().unwrap_err();
        assert_eq!(error("{ofset}"), FormatError::UnknownField { name: "ofset".into() });
        assert_eq!(error("a{offset"), FormatError::Open);
        assert_eq!(error("a}"), FormatError::Close);
        assert_eq!(error("\\x"), FormatError::Escape { escape: "x".into() });
        assert_eq!(error("\\"), FormatError::Escape { escape: String::new() });
    }

    #[test]
    fn terminals_get_nothing_to_obey() {
        let mut out = Vec::new();
        print_safely("a\x1b[31m\tü\n".as_bytes(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a\\u{1b}[31m\\tü\\n");
        assert_eq!(safe("a\u{9b}31m ü"), "a\\u{9b}31m ü");
    }
}
