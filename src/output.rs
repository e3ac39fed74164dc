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
    let width = |column: usize| {
        let widest = rows
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0);
        (widest + 3).max(12)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < N {
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
