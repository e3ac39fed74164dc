//! Physical lines -> statements: directives, comments, continuation, heredocs.
//!
//! Owns the places: a [`Statement`] knows for each character of its one line where in the file that stands.

use std::borrow::Cow;
use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::directive;
use super::instruction::{Directives, Heredoc};
use super::limits;
use super::span::Span;

/// A physical line, without what ends it.
struct Line<'t> {
    start: usize,
    number: u32,
    /// With `\n` or `\r\n`.
    whole: Cow<'t, str>,
}

impl Line<'_> {
    fn text(&self) -> &str {
        self.whole.trim_end_matches(['\r', '\n'])
    }

    fn is_comment(&self) -> bool {
        self.whole.trim_start().starts_with('#')
    }

    fn span(&self) -> Span {
        Span::new(
            self.start,
            self.start + self.text().len(),
            self.number,
            self.number,
        )
    }
}

/// A part of a statement that stands in the file as it stands in the statement.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where it begins in the statement.
    at: usize,
    /// Where it begins in the file.
    source: usize,
    line: u32,
}

/// One instruction, as one line.
#[derive(Debug)]
pub(super) struct Statement {
    /// Continuation lines joined, comments within left out.
    pub(super) text: String,
    pieces: Vec<Piece>,
    /// Grows with the heredocs.
    pub(super) span: Span,
    /// The comment lines above.
    pub(super) comments: Vec<String>,
    pub(super) heredocs: Vec<Heredoc>,
}

impl Statement {
    /// Where a part of the text stands in the file.
    pub(super) fn place(&self, range: &Range<usize>) -> Span {
        let find = |at: usize| {
            let index = self
                .pieces
                .partition_point(|piece| piece.at <= at)
                .saturating_sub(1);
            self.pieces
                .get(index)
                .map_or((self.span.start, self.span.first_line), |piece| {
                    (piece.source + (at - piece.at.min(at)), piece.line)
                })
        };
        let (start, first) = find(range.start);
        let (last_byte, last) = find(range.end.saturating_sub(1).max(range.start));
        Span::new(
            start,
            (last_byte + usize::from(range.end > range.start)).max(start),
            first,
            last,
        )
    }
}

/// Reads statements.
pub(super) struct Reader<'t> {
    source: &'t [u8],
    at: usize,
    number: u32,
    /// What stands in the first lines.
    pub(super) directives: Directives,
    /// Empty lines that are continued into; `BuildKit` warns of each statement once, at its last line.
    pub(super) empty_continuations: Vec<Span>,
    /// What is wrong with lines.
    pub(super) errors: Vec<Diagnostic>,
    stopped: bool,
}

/// Bytes that some editors put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

impl<'t> Reader<'t> {
    /// Of a whole file.
    pub(super) fn new(source: &'t [u8]) -> Self {
        let at = if source.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        let mut reader = Self {
            source,
            at,
            number: 0,
            directives: Directives {
                syntax: None,
                escape: '\\',
                check: None,
                check_span: Span::default(),
            },
            empty_continuations: Vec::new(),
            errors: Vec::new(),
            stopped: false,
        };
        if source.len() > limits::FILE_BYTES {
            let message = format!(
                "refuse a Dockerfile of more than {} bytes",
                limits::FILE_BYTES
            );
            reader.stop(Diagnostic::error(Span::new(0, 0, 1, 1), message));
        }
        reader.read_directives();
        reader
    }

    /// Reports what makes the rest meaningless.
    pub(super) fn stop(&mut self, error: Diagnostic) {
        self.errors.push(error);
        self.stopped = true;
        self.at = self.source.len();
    }

    /// The number of the last line read.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    fn line(&mut self) -> Option<Line<'t>> {
        let rest = self
            .source
            .get(self.at..)
            .filter(|rest| !rest.is_empty() && !self.stopped)?;
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |end| end + 1);
        let (bytes, start) = (&rest[..length], self.at);
        self.at += length;
        self.number += 1;
        if length > limits::LINE_BYTES + usize::from(bytes.ends_with(b"\n")) {
            let message = format!(
                "dockerfile line greater than max allowed size of {}",
                limits::LINE_BYTES
            );
            self.stop(Diagnostic::error(
                Span::new(start, start, self.number, self.number),
                message,
            ));
            return None;
        }
        let whole = String::from_utf8_lossy(bytes);
        let line = Line {
            start,
            number: self.number,
            whole,
        };
        if matches!(line.whole, Cow::Owned(_)) && !line.is_comment() {
            let span = Span::new(start, start, self.number, self.number);
            self.errors.push(
                Diagnostic::error(span, "line is not UTF-8")
                    .with_hint("convert the file to UTF-8; COPY a file whose content is not text"),
            );
        }
        Some(line)
    }

    /// The directives: they end with the first line that is none. A first line `#!...` is skipped, but hides `escape` as
    /// it does in `BuildKit`.
    fn read_directives(&mut self) {
        let (start, mut shebang) = (self.at, false);
        let mut seen = directive::Seen::default();
        loop {
            let before = (self.at, self.number);
            let errors = self.errors.len();
            let Some(line) = self.line() else { break };
            if before.0 == start && line.whole.starts_with("#!") {
                shebang = true;
                continue;
            }
            match seen.read(line.text()) {
                Ok(Some((name, value))) => self.set_directive(name, value, line.span(), shebang),
                Ok(None) => {
                    // It is read again, and so are its errors.
                    (self.at, self.number) = before;
                    self.errors.truncate(errors);
                    break;
                }
                Err(message) => self.errors.push(Diagnostic::error(line.span(), message)),
            }
        }
        if shebang && !self.stopped {
            // What follows is read as if nothing had been: these lines are comments.
            (self.at, self.number) = (start, 0);
            self.errors.clear();
        }
    }

    fn set_directive(&mut self, name: directive::Name, value: &str, span: Span, shebang: bool) {
        match name {
            directive::Name::Syntax => self.directives.syntax = Some(value.to_owned()),
            directive::Name::Check => {
                self.directives.check = Some(value.to_owned());
                self.directives.check_span = span;
            }
            directive::Name::Escape if shebang => {}
            directive::Name::Escape => match value {
                "\\" => self.directives.escape = '\\',
                "`" => self.directives.escape = '`',
                _ => {
                    let message = format!("invalid escape token '{value}' does not match ` or \\");
                    self.errors.push(Diagnostic::error(span, message));
                }
            },
        }
    }

    /// The next statement, without its heredocs: whether it has some depends on what it is.
    pub(super) fn statement(&mut self) -> Option<Statement> {
        let mut comments = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_comment() {
                let comment = line.text().trim_start()[1..].trim();
                if comment.is_empty() {
                    comments.clear();
                } else {
                    comments.push(comment.to_owned());
                }
                continue;
            }
            let text = line.text().trim_start();
            if text.is_empty() {
                continue;
            }
            let start = line.start + (line.text().len() - text.len());
            let end = line.start + line.text().len();
            let mut statement = Statement {
                text: String::new(),
                pieces: Vec::new(),
                span: Span::new(start, end, line.number, line.number),
                comments,
                heredocs: Vec::new(),
            };
            if self.append(&mut statement, text, start, line.number) {
                self.continue_statement(&mut statement);
            }
            return Some(statement);
        }
    }

    /// Adds a line; says whether the next one belongs to it too.
    fn append(&mut self, statement: &mut Statement, text: &str, source: usize, line: u32) -> bool {
        let (text, continued) = match without_continuation(text, self.directives.escape) {
            Some(text) => (text, true),
            None => (text, false),
        };
        if statement.text.len() + text.len() > limits::INSTRUCTION_BYTES {
            let message = format!(
                "refuse an instruction of more than {} bytes",
                limits::INSTRUCTION_BYTES
            );
            self.stop(Diagnostic::error(statement.span, message));
            return false;
        }
        statement.pieces.push(Piece {
            at: statement.text.len(),
            source,
            line,
        });
        statement.text.push_str(text);
        continued
    }

    fn continue_statement(&mut self, statement: &mut Statement) {
        let mut has_empty = false;
        while let Some(line) = self.line() {
            statement.span.last_line = line.number;
            statement.span.end = line.start + line.text().len();
            if line.is_comment() {
                continue;
            }
            if line.text().trim_start().is_empty() {
                has_empty = true;
                continue;
            }
            if !self.append(statement, line.text(), line.start, line.number) {
                break;
            }
        }
        if has_empty {
            let last = statement.span.last_line;
            self.empty_continuations.push(Span {
                first_line: last,
                last_line: last,
                ..statement.span
            });
        }
    }

    /// Reads the documents that a statement announced.
    pub(super) fn heredocs(&mut self, statement: &mut Statement, announced: Vec<Heredoc>) {
        for mut heredoc in announced {
            let mut terminated = false;
            while let Some(line) = self.line() {
                statement.span.last_line = line.number;
                statement.span.end = line.start + line.text().len();
                let text = if heredoc.chomp {
                    line.text().trim_start_matches('\t')
                } else {
                    line.text()
                };
                if text == heredoc.name {
                    terminated = true;
                    break;
                }
                heredoc.raw.push_str(&line.whole);
            }
            if !terminated {
                if !self.stopped {
                    let error = Diagnostic::error(statement.span, "unterminated heredoc");
                    self.errors
                        .push(error.with_hint(format!("end it with a line {}", heredoc.name)));
                }
                return;
            }
            statement.heredocs.push(heredoc);
        }
    }
}

/// `line` without the escape character that continues it. That is the last but white space, and not itself escaped.
fn without_continuation(line: &str, escape: char) -> Option<&str> {
    let rest = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!rest.ends_with(escape)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<Statement> {
        let mut reader = Reader::new(text.as_bytes());
        let statements = std::iter::from_fn(|| reader.statement()).collect();
        assert_eq!(reader.errors, []);
        statements
    }

    #[test]
    fn lines_are_joined() {
        for (text, joined) in [
            ("RUN a \\\n  b\n", "RUN a   b"),
            ("RUN a \\ \t\r\n\r\n  b\r\n", "RUN a   b"),
            ("RUN a\\\n# comment\n  # another\nb", "RUN ab"),
            ("RUN a \\\\\nRUN b", "RUN a \\\\"),
            ("RUN a \\", "RUN a "),
            ("\\\nRUN a", "RUN a"),
            ("  RUN\ta  ", "RUN\ta  "),
            ("\u{feff}RUN a", "RUN a"),
            ("# escape=`\nRUN a \\\nRUN b", "RUN a \\"),
            ("# escape=`\nRUN a `\nRUN b", "RUN a RUN b"),
            ("# no directive\n# escape=`\nRUN a \\\n b", "RUN a  b"),
        ] {
            assert_eq!(statements(text)[0].text, joined, "{text:?}");
        }
    }

    #[test]
    fn places_survive_joining() {
        let text = "# c\n\nRUN a \\\n  # no\n\n   bcd \\\n e\nFROM x\n";
        let found = statements(text);
        let run = &found[0];
        assert_eq!(run.text, "RUN a    bcd  e");
        assert_eq!((run.span.first_line, run.span.last_line), (3, 7));
        assert_eq!(&text[run.span.bytes()], "RUN a \\\n  # no\n\n   bcd \\\n e");
        let at = run.text.find("bcd").unwrap();
        let place = run.place(&(at..at + 3));
        assert_eq!(&text[place.bytes()], "bcd");
        assert_eq!((place.first_line, place.last_line), (6, 6));
        let place = run.place(&(0..run.text.len()));
        assert_eq!(&text[place.bytes()], &text[run.span.bytes()]);
        assert_eq!(run.comments, ["c"]);
        assert_eq!(found[1].comments, [""; 0]);
    }

    #[test]
    fn empty_comments_cut_off_those_above() {
        let found = statements("# a\n#\n  # b\n\n# c\nRUN x\n# d\n");
        assert_eq!(found[0].comments, ["b", "c"]);
    }

    #[test]
    fn only_comments_need_not_be_utf8() {
        let mut reader = Reader::new(b"# \xe4\nRUN \\\n # \xf6\n x\nRUN \xfc\n");
        assert!(reader.statement().is_some() && reader.errors.is_empty());
        reader.statement();
        assert_eq!(reader.errors[0].span.first_line, 5);
    }

    #[test]
    fn long_lines_are_refused() {
        let line = |length: usize| format!("RUN {}", "x".repeat(length - 4));
        assert_eq!(statements(&line(limits::LINE_BYTES)).len(), 1);
        assert_eq!(statements(&(line(limits::LINE_BYTES) + "\n")).len(), 1);
        let long = "RUN a\n".to_owned() + &line(limits::LINE_BYTES + 1);
        let mut reader = Reader::new(long.as_bytes());
        while reader.statement().is_some() {}
        assert_eq!(
            reader.errors[0].message,
            "dockerfile line greater than max allowed size of 65535"
        );
        assert_eq!(reader.errors[0].span.first_line, 2);
    }

    #[test]
    fn long_instructions_are_refused() {
        let long = format!("RUN {}\\\n", "x".repeat(60_000)).repeat(80);
        let mut reader = Reader::new(long.as_bytes());
        while reader.statement().is_some() {}
        assert!(
            reader.errors[0]
                .message
                .contains("refuse an instruction of more than")
        );
    }

    #[test]
    fn long_files_are_refused() {
        let long = "#\n".repeat(limits::FILE_BYTES / 2 + 1);
        let mut reader = Reader::new(long.as_bytes());
        assert!(reader.statement().is_none());
        assert!(
            reader.errors[0]
                .message
                .contains("refuse a Dockerfile of more than")
        );
    }
}
