//! Lists, for people and for programs.

use std::io::{self, BufRead as _, Write as _};

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::exit::{CommandResult, Exit, Failure};
use crate::output::format::safe;

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns for people
    #[default]
    Table,
    /// A JSON array of objects
    Json,
}

/// The option of every command that lists something.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Listing {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
}

impl Listing {
    /// Prints a table to standard output.
    pub(crate) fn print(self, table: &Table) -> CommandResult {
        print(&match self.output {
            ListFormat::Table => table.to_text(),
            ListFormat::Json => table.to_json(),
        })
    }

    /// Prints one thing: as rows of field and value, or as one JSON object.
    pub(crate) fn print_one(self, thing: &Fields) -> CommandResult {
        print(&match self.output {
            ListFormat::Table => thing.to_text(),
            ListFormat::Json => to_json(thing),
        })
    }
}

/// Prints text to standard output. A reader that went away is no error.
pub(crate) fn print(text: &str) -> CommandResult {
    let mut out = io::stdout().lock();
    or_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Asks whoever sits at the terminal.
pub(crate) fn confirmed(question: &str) -> bool {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    // Whoever cannot be asked has not said yes.
    let asked = io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// A failed write to standard output; a closed pipe is none.
pub(crate) fn or_closed(written: io::Result<()>) -> CommandResult {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("cannot write: {error}"))
                .at("standard output")
                .next("the same with another place for the output"))
        }
        _ => Ok(()),
    }
}

/// Fields of one thing, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(String, Value)>);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// For programs, indented.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    // Neither fails to be written nor has keys that are no strings.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    format!("{text}\n")
}

impl Fields {
    /// Adds a field.
    pub(crate) fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    fn to_text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let line = |(name, value): &(String, Value)| format!("{name:<width$}  {}\n", plain(value));
        self.0.iter().map(line).collect()
    }
}

/// Rows with the same columns.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Table {
    /// No rows yet.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, one value per column.
    pub(crate) fn row<V: Into<Value>, const N: usize>(&mut self, values: [V; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(values.into_iter().map(Into::into).collect());
    }

    /// In columns, for people.
    pub(crate) fn to_text(&self) -> String {
        let header = self.columns.iter().map(|name| name.to_uppercase()).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(plain).collect());
        let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
        let width = |column: usize| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let numeric = |column: usize| self.rows.iter().all(|row| row[column].is_number());
        let numeric: Vec<bool> = (0..self.columns.len()).map(numeric).collect();
        let mut text = String::new();
        for line in lines {
            let mut row = String::new();
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                // Numbers stand under one another.
                row += &if numeric[column] && !self.rows.is_empty() {
                    format!("{cell:>width$}  ")
                } else {
                    format!("{cell:<width$}  ")
                };
            }
            text += row.trim_end();
            text.push('\n');
        }
        text
    }

    fn to_json(&self) -> String {
        let name = |name: &&str| name.replace(' ', "_");
        let object = |row: &Vec<Value>| {
            Fields(self.columns.iter().map(name).zip(row.iter().cloned()).collect())
        };
        to_json(&self.rows.iter().map(object).collect::<Vec<_>>())
    }
}

/// A value as people read it: on a terminal, which obeys nothing in it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => safe(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["name", "records", "last"]);
        table.row([Value::from("orders"), 12.into(), Value::Null]);
        table.row([Value::from("a"), 1_000_000.into(), "now".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        assert_eq!(
            table().to_text(),
            "NAME    RECORDS  LAST\norders       12  -\na       1000000  now\n"
        );
        assert_eq!(Table::new(&["name"]).to_text(), "NAME\n");
    }

    #[test]
    fn no_value_makes_lines_or_colours_of_its_own() {
        let text = "x\u{1b}]0;title\u{7}\nrevision  99";
        let escaped = r"x\u{1b}]0;title\u{7}\nrevision  99";
        let fields = Fields::default().field("owner", text).field("revision", 1).to_text();
        assert_eq!(fields, format!("owner     {escaped}\nrevision  1\n"));
        let mut table = Table::new(&["owner"]);
        table.row([text]);
        assert_eq!(table.to_text(), format!("OWNER\n{escaped}\n"));
    }

    #[test]
    fn json_keeps_types() {
        let parsed: Value = serde_json::from_str(&table().to_json()).unwrap();
        assert_eq!(parsed[1]["records"], 1_000_000);
        assert_eq!(parsed[0]["last"], Value::Null);
    }
}
