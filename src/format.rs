//! `--format`, the same in all verbs that print things: `json`, `table`, or a text with fields.
//!
//! Fields stand in braces, `{Repository}:{Tag}`; one within another follows after a dot,
//! `{Config.Cmd}`; `\t` and `\n` are a tab and a line feed, `{{` and `}}` are braces. There are no
//! templates with logic: that is `--format json` and a program that reads JSON. `json` prints one
//! object per line.

use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;

use crate::output;

/// What `--help` says of it.
pub(crate) const HELP: &str =
    "print as 'table', 'json' (an object per line), or by fields: '{Name} {Size}'";

/// How things are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One object per line.
    Json,
    /// Text with fields, one line per thing.
    Fields(Vec<Part>),
}

/// A part of a text with fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// As it is.
    Text(String),
    /// The names that lead to the value.
    Field(Vec<String>),
}

impl Format {
    /// Whether one of these fields is asked for by name.
    pub(crate) fn names(&self, fields: &[&str]) -> bool {
        let Self::Fields(parts) = self else {
            return false;
        };
        parts.iter().any(|part| match part {
            Part::Field(names) => names.iter().any(|name| fields.contains(&name.as_str())),
            Part::Text(_) => false,
        })
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" | "" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            text if text.contains("{{.") || text.contains("{{ ") || text.contains("{{json") => {
                Err("Go templates are not understood: write a field as {Name}, or use json".into())
            }
            text => parts(text).map(Self::Fields),
        }
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\\' => match rest.next() {
                Some('t') => plain.push('\t'),
                Some('n') => plain.push('\n'),
                Some('\\') => plain.push('\\'),
                other => return Err(format!("unknown escape \\{}", other.unwrap_or(' '))),
            },
            '{' if rest.peek() == Some(&'{') => {
                rest.next();
                plain.push('{');
            }
            '}' if rest.peek() == Some(&'}') => {
                rest.next();
                plain.push('}');
            }
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(character) => name.push(character),
                        None => return Err(format!("no }} after {{{name}")),
                    }
                }
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Field(name.split('.').map(str::to_owned).collect()));
            }
            '}' => return Err("} without {".into()),
            other => plain.push(other),
        }
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    if parts.iter().any(|part| matches!(part, Part::Field(_))) {
        return Ok(parts);
    }
    Err("no field in it: write table, json, or fields such as {Name}".into())
}

/// A column of a table: its heading, and the field that it shows.
pub(crate) type Column = (&'static str, &'static str);

/// The rows as text. `columns` are those of the table.
pub(crate) fn render<T: Serialize + Default>(
    rows: &[T],
    format: &Format,
    columns: &[Column],
) -> Result<String> {
    let mut text = String::new();
    if let (Format::Fields(parts), []) = (format, rows) {
        // A mistake is told also when there is nothing to print.
        let sample = value(&T::default())?;
        if sample.is_object() {
            fill(parts, &sample, &mut String::new())?;
        }
    }
    match format {
        Format::Json => {
            for row in rows {
                text += &serde_json::to_string(row).map_err(|e| unencodable(&e))?;
                text.push('\n');
            }
        }
        Format::Fields(parts) => {
            for row in rows {
                fill(parts, &value(row)?, &mut text)?;
                text.push('\n');
            }
        }
        Format::Table => {
            let mut cells = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
            for row in rows {
                let row = value(row)?;
                let shown = columns.iter().map(|(_, field)| plain(&row[*field]));
                cells.push(shown.collect::<Vec<String>>());
            }
            text = output::columns(&cells);
        }
    }
    Ok(text)
}

fn value<T: Serialize>(row: &T) -> Result<Value> {
    serde_json::to_value(row).map_err(|e| unencodable(&e))
}

fn unencodable(error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("cannot encode JSON: {error}"))
}

fn fill(parts: &[Part], row: &Value, text: &mut String) -> Result<()> {
    for part in parts {
        match part {
            Part::Text(plain) => text.push_str(plain),
            Part::Field(names) => text.push_str(&plain(look_up(row, names)?)),
        }
    }
    Ok(())
}

fn look_up<'a>(row: &'a Value, names: &[String]) -> Result<&'a Value> {
    let mut found = row;
    for name in names {
        let next = match found {
            Value::Object(members) => members.get(name),
            Value::Array(items) => name
                .parse::<usize>()
                .ok()
                .and_then(|index| items.get(index)),
            _ => None,
        };
        found = next.ok_or_else(|| unknown(names, found))?;
    }
    Ok(found)
}

fn unknown(names: &[String], within: &Value) -> Error {
    let names = names.join(".");
    let known = match within {
        Value::Object(members) => members.keys().cloned().collect::<Vec<_>>().join(", "),
        Value::Array(items) => format!("0 to {}", items.len().saturating_sub(1)),
        _ => "none".to_owned(),
    };
    Error::invalid(format!("unknown field {{{names}}}: there is {known}"))
}

/// A value in a line of text: strings as they are, all else as JSON. Control characters, which may
/// come from a stranger's image, are made visible.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Text of a stranger, harmless at a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> [Value; 2] {
        [
            json!({"Name": "a", "Size": 5, "Config": {"Cmd": ["sh", "-c"]}}),
            json!({"Name": "long\u{1b}[2J", "Size": null, "Config": {"Cmd": null}}),
        ]
    }

    fn run(text: &str) -> Result<String, String> {
        let format: Format = text.parse()?;
        render(&rows(), &format, &[("NAME", "Name"), ("SIZE", "Size")]).map_err(|e| e.to_string())
    }

    #[test]
    fn every_form() {
        for (format, expected) in [
            ("{Name}", "a\nlong\\u{1b}[2J\n"),
            ("{Name}\\t{Size}!", "a\t5!\nlong\\u{1b}[2J\t!\n"),
            ("{{{Name}}}", "{a}\n{long\\u{1b}[2J}\n"),
            ("{Config.Cmd}", "[\"sh\",\"-c\"]\n\n"),
            (
                "table",
                "NAME            SIZE\na               5\nlong\\u{1b}[2J   \n",
            ),
        ] {
            assert_eq!(run(format).as_deref(), Ok(expected), "{format}");
        }
        assert_eq!(run("json").unwrap().lines().count(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        for (format, words) in [
            ("{{.Name}}", "Go templates"),
            ("{{json .}}", "Go templates"),
            (
                "{Nmae}",
                "unknown field {Nmae}: there is Config, Name, Size",
            ),
            ("{Name.x}", "there is none"),
            ("{Config.Cmd.9}", "there is 0 to 1"),
            ("{Name", "no } after"),
            ("Name}", "} without {"),
            ("Name", "no field"),
            ("\\x{Name}", "unknown escape"),
        ] {
            let error = run(format).unwrap_err();
            assert!(error.contains(words), "{format}: {error}");
        }
    }
}
