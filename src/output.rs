//! Standard output: plain text, JSON as Go's encoder lays it out, and aligned tables.

use std::io::Write;

use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Writes text to standard output at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context(|| "cannot write to standard output")
}

/// Writes one line of compact JSON.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<()> {
    let mut text = serde_json::to_string(value).map_err(|e| unencodable(&e))?;
    text.push('\n');
    print(&text)
}

/// JSON indented by `indent` per level, without a final newline.
pub(crate) fn json_indented<T: Serialize>(value: &T, indent: &str) -> Result<String> {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(indent.as_bytes());
    value
        .serialize(&mut Serializer::with_formatter(&mut text, formatter))
        .map_err(|e| unencodable(&e))?;
    String::from_utf8(text).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
}

fn unencodable(error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("cannot encode JSON: {error}"))
}

/// A table with columns at least 12 wide and three spaces apart; the last column is not padded.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    aligned(rows, 12)
}

/// A table with columns three spaces apart; the last column is not padded.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    aligned(rows, 0)
}

fn aligned<R: AsRef<[String]>>(rows: &[R], least: usize) -> String {
    let count = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let mut widths = vec![least; count];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = (*width).max(cell.chars().count() + 3);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.as_ref().iter().enumerate() {
            text.push_str(cell);
            if column + 1 < count {
                let padding = widths[column] - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', padding));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text = table(&[
            row(["ID", "PID", "OWNER"]),
            row(["a-longer-name", "7", "root"]),
        ]);
        assert_eq!(
            text,
            "ID              PID         OWNER\na-longer-name   7           root\n"
        );
    }

    #[test]
    fn indentation_is_chosen_by_the_caller() {
        let text = json_indented(&serde_json::json!({"a": [1], "b": []}), "    ").unwrap();
        assert_eq!(text, "{\n    \"a\": [\n        1\n    ],\n    \"b\": []\n}");
    }
}
