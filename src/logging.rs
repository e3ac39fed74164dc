//! Log lines in the two formats that engines read: logrus text and logrus JSON.
//!
//! The library and the verbs speak through `tracing`; this is the only subscriber. Without
//! `--log` lines go to stderr (coloured and short when that is a terminal), with it to the file
//! alone. Times are UTC. Spans carry nothing here.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use rcrun_runtime::error::{Context, Error, Result};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata};

use crate::units::{now, rfc3339};

/// Format of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `time="..." level=error msg="..."`.
    Text,
    /// `{"level":"error","msg":"...","time":"..."}`.
    Json,
    /// `ERRO[0000] ...`, for a person at a terminal.
    Terminal,
}

#[derive(Debug)]
struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
    started: Instant,
}

/// Whether lines are JSON.
static JSON: OnceLock<bool> = OnceLock::new();

/// Whether whoever reads our lines expects JSON.
pub(crate) fn is_json() -> bool {
    JSON.get().copied().unwrap_or(false)
}

/// Starts logging; says whether lines end up somewhere else than on stderr.
pub(crate) fn start(file: Option<&Path>, format: Format, debug: bool) -> Result<bool> {
    let file = file.map(open).transpose()?;
    let elsewhere = file.is_some();
    let at_terminal = format == Format::Text && !elsewhere && std::io::stderr().is_terminal();
    let format = if at_terminal {
        Format::Terminal
    } else {
        format
    };
    // Only the first start counts.
    let _ = JSON.set(format == Format::Json);
    let log = Log {
        file,
        format,
        debug,
        started: Instant::now(),
    };
    tracing::subscriber::set_global_default(log)
        .map_err(|e| Error::invalid(format!("cannot start logging: {e}")))?;
    Ok(elsewhere)
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o644)
        .custom_flags(rustix::fs::OFlags::SYNC.bits().cast_signed())
        .open(path)
        .context(|| format!("cannot open log file {}", path.display()))
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries tell of every frame, and of what is in it.
        let ours = || metadata.target().starts_with("rcrun");
        *metadata.level() <= Level::INFO || (self.debug && ours())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.debug {
            LevelFilter::TRACE
        } else {
            LevelFilter::INFO
        })
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if self.debug
            && let (Some(file), Some(number)) = (event.metadata().file(), event.metadata().line())
        {
            line.fields.push(("file", format!("{file}:{number}")));
        }
        let seconds = self.started.elapsed().as_secs();
        let text = line.render(self.format, *event.metadata().level(), now(), seconds);
        // A log that cannot be written leaves nothing to tell it to.
        let _ = match &self.file {
            Some(file) => (&mut &*file).write_all(text.as_bytes()),
            None => std::io::stderr().write_all(text.as_bytes()),
        };
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push((field.name(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }
}

impl Line {
    fn render(&mut self, format: Format, level: Level, unix: u64, since_start: u64) -> String {
        self.fields.sort_unstable_by_key(|(name, _)| *name);
        let (word, colour) = match level {
            Level::ERROR => ("error", 31),
            Level::WARN => ("warning", 33),
            Level::INFO => ("info", 36),
            _ => ("debug", 37),
        };
        let mut out = String::with_capacity(96 + self.message.len());
        match format {
            Format::Text => {
                let _ = write!(out, "time=\"{}\" level={word} msg=", rfc3339(unix));
                quote_if_needed(&mut out, &self.message);
                self.append_fields(&mut out);
            }
            Format::Terminal => {
                let short = word[..4].to_ascii_uppercase();
                let message = self.message.trim_end_matches('\n');
                let _ = write!(
                    out,
                    "\x1b[{colour}m{short}\x1b[0m[{since_start:04}] {message}"
                );
                self.append_fields(&mut out);
            }
            Format::Json => {
                let mut map = serde_json::Map::new();
                for (name, value) in &self.fields {
                    map.insert((*name).to_owned(), value.as_str().into());
                }
                map.insert("level".into(), word.into());
                map.insert("msg".into(), self.message.as_str().into());
                map.insert("time".into(), rfc3339(unix).into());
                let _ = write!(out, "{}", serde_json::Value::Object(map));
            }
        }
        out.push('\n');
        out
    }

    fn append_fields(&self, out: &mut String) {
        for (name, value) in &self.fields {
            let _ = write!(out, " {name}=");
            quote_if_needed(out, value);
        }
    }
}

/// Quotes as logrus does: bare when made of safe characters only.
fn quote_if_needed(out: &mut String, text: &str) {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !text.is_empty() && text.chars().all(safe) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(format: Format, message: &str, fields: &[(&'static str, &str)]) -> String {
        let fields = fields.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        let mut line = Line {
            message: message.to_owned(),
            fields,
        };
        line.render(format, Level::ERROR, 1_795_305_429, 0)
    }

    #[test]
    fn text_lines_are_those_of_logrus() {
        for (message, line) in [
            (
                "nope",
                "time=\"2026-11-21T23:57:09Z\" level=error msg=nope\n",
            ),
            (
                "a b",
                "time=\"2026-11-21T23:57:09Z\" level=error msg=\"a b\"\n",
            ),
            (
                "a \"b\"\n",
                "time=\"2026-11-21T23:57:09Z\" level=error msg=\"a \\\"b\\\"\\n\"\n",
            ),
            ("", "time=\"2026-11-21T23:57:09Z\" level=error msg=\"\"\n"),
            (
                "\x1b[2J",
                "time=\"2026-11-21T23:57:09Z\" level=error msg=\"\\x1b[2J\"\n",
            ),
        ] {
            assert_eq!(render(Format::Text, message, &[]), line);
        }
        let line = render(Format::Text, "m", &[("z", "1"), ("a", "b c")]);
        assert!(line.ends_with("msg=m a=\"b c\" z=1\n"), "{line}");
    }

    #[test]
    fn json_lines_have_the_names_of_logrus() {
        let line = render(Format::Json, "container does not exist", &[]);
        let expected = "{\"level\":\"error\",\"msg\":\"container does not exist\",\
                        \"time\":\"2026-11-21T23:57:09Z\"}\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn calendar() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
    }
}
