//! `rcrun logs`.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;

use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::get_with_record;
use crate::containers::{Container, Init, Line, LogReader, Record, drain, wait_for};
use crate::settings::Settings;
use crate::units;

/// How long a look at a monitor that may have been killed is put off, once its container has ended.
const GRACE: std::time::Duration = std::time::Duration::from_millis(200);

/// print what a container has written
///
/// Its standard output is printed to standard output, its standard error to
/// standard error.
#[derive(Debug, clap::Parser)]
#[command(name = "logs", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Logs {
    /// go on until the container has ended
    #[arg(long, short)]
    follow: bool,
    /// only so many lines from the end, or all
    #[arg(
        long,
        short = 'n',
        value_name = "NUMBER",
        default_value = "all",
        allow_hyphen_values = true
    )]
    tail: Tail,
    /// only what was written at or after this moment (10m, 2026-11-22T08:00:00Z, seconds since 1970)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// only what was written before this moment
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// begin lines with their time
    #[arg(long, short)]
    timestamps: bool,
    /// begin lines with what `run --log-opt labels=...` and env=... chose
    #[arg(long)]
    details: bool,
    name: String,
}

/// How many lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail(Option<u64>);

impl std::str::FromStr for Tail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" || text.parse::<i64>().is_ok_and(|number| number < 0) {
            return Ok(Self(None));
        }
        let number = text
            .parse()
            .map_err(|_| "use a number, or all".to_owned())?;
        Ok(Self(Some(number)))
    }
}

impl crate::verbs::Run for Logs {
    fn run(self, settings: &Settings) -> Result<u8> {
        let (_, container, record) = get_with_record(settings, &self.name)?;
        if record.log.is_none() {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!("container {} was made without a log", self.name),
            ));
        }
        let moment = |text: &Option<String>| -> Result<Option<String>> {
            let read = |text: &String| units::instant(text, units::now());
            text.as_ref().map(read).transpose()
        };
        let mut printer = Printer {
            since: moment(&self.since)?,
            until: moment(&self.until)?,
            timestamps: self.timestamps,
            details: match (self.details, &record.log) {
                (true, Some(log)) => Some(details(&log.attributes)),
                _ => None,
            },
            inside: [false; 2],
            pending: [Vec::new(), Vec::new()],
        };
        let shown = match self.follow {
            true => follow(&container, &record, self.tail, &mut printer),
            false => {
                let mut log = LogReader::open(container.fd(), self.tail.0)?;
                read(&mut log, &mut printer).map(drop)
            }
        };
        match shown {
            // Whoever reads has seen enough.
            Err(error) if error.to_string() == CLOSED => Ok(0),
            other => other.map(|()| 0),
        }
    }
}

/// Names and values as docker writes them: like those of a URL's query, with commas in between.
fn details(attributes: &BTreeMap<String, String>) -> String {
    let escaped = |text: &String| -> String {
        let one = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            other => format!("%{other:02X}"),
        };
        text.bytes().map(one).collect()
    };
    let all = attributes.iter();
    let all = all.map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    all.collect::<Vec<_>>().join(",")
}

const CLOSED: &str = "nobody reads any more";

fn read(log: &mut LogReader<'_>, printer: &mut Printer) -> Result<bool> {
    let more = log.read(&mut |line| printer.take(line))?;
    printer.flush()?;
    Ok(more)
}

fn follow(container: &Container, record: &Record, tail: Tail, printer: &mut Printer) -> Result<()> {
    let watch = container.watch_with_monitor(record)?;
    let mut init = container.init(record)?;
    let mut log = LogReader::open(container.fd(), tail.0)?;
    loop {
        // Looked at before the log: what is written in between is printed in the next round.
        let over = init.is_none() && is_over(container, record)?;
        if !read(&mut log, printer)? || over {
            return Ok(());
        }
        let ended = wait(&watch, init.as_ref())?;
        if ended {
            init = None;
        }
    }
}

/// Waits for something to look at; whether the init has ended.
fn wait(watch: &std::os::fd::OwnedFd, init: Option<&Init>) -> Result<bool> {
    let ended = match init {
        Some(init) => wait_for(&[watch.as_fd(), init.pidfd.as_fd()], None)?[1],
        None => {
            wait_for(&[watch.as_fd()], Some(GRACE))?;
            true
        }
    };
    drain(watch);
    Ok(ended)
}

/// Nothing will be written any more.
fn is_over(container: &Container, record: &Record) -> Result<bool> {
    Ok(!container.has_monitor(record) || container.is_removed()?)
}

/// Prints lines to where they were written to.
#[derive(Debug)]
struct Printer {
    since: Option<String>,
    until: Option<String>,
    timestamps: bool,
    /// The same before each line.
    details: Option<String>,
    /// In the middle of a line, by stream.
    inside: [bool; 2],
    /// Not written yet; at most one of them has something.
    pending: [Vec<u8>; 2],
}

impl Printer {
    /// Whether more is wanted.
    fn take(&mut self, line: Line<'_>) -> Result<bool> {
        // Both have the same form, so that text sorts as time does.
        if self
            .until
            .as_deref()
            .is_some_and(|until| line.time >= until)
        {
            return Ok(false);
        }
        if self.since.as_deref().is_some_and(|since| line.time < since) {
            return Ok(true);
        }
        let stream = usize::from(line.is_error);
        if !self.pending[1 - stream].is_empty() || self.pending[stream].len() > 64 << 10 {
            self.flush()?;
        }
        let out = &mut self.pending[stream];
        if self.timestamps && !self.inside[stream] {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        if let Some(details) = self.details.as_ref().filter(|_| !self.inside[stream]) {
            out.extend_from_slice(details.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.is_part {
            out.push(b'\n');
        }
        self.inside[stream] = line.is_part;
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        let [output, error] = &mut self.pending;
        write(&mut std::io::stdout().lock(), output)?;
        write(&mut std::io::stderr().lock(), error)
    }
}

fn write(to: &mut dyn Write, bytes: &mut Vec<u8>) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let written = to.write_all(bytes).and_then(|()| to.flush());
    bytes.clear();
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Unavailable, CLOSED))
        }
        other => other.context(|| "cannot print the log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes() {
        let pairs = [("b", "x y"), ("a/b", "é="), ("c", "")];
        let map = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(details(&map.into()), "a%2Fb=%C3%A9%3D,b=x+y,c=");
        assert_eq!(details(&BTreeMap::new()), "");
    }

    #[test]
    fn tails() {
        for (text, expected) in [
            ("all", Some(None)),
            ("-1", Some(None)),
            ("0", Some(Some(0))),
            ("7", Some(Some(7))),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(
                text.parse::<Tail>().ok().map(|tail| tail.0),
                expected,
                "{text}"
            );
        }
    }
}
