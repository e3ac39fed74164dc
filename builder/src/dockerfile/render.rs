//! Diagnostics for people: the message, the line with the place underlined, what to do, where to read more.

use std::fmt::Write;

use super::diagnostic::{Diagnostic, Severity};

/// Lines of one place that are shown; of longer ones the first.
const MAX_LINES: usize = 5;

/// Characters of a line that are shown at least, however narrow the terminal is.
const MIN_WIDTH: usize = 20;

/// Columns of a tab, as they are shown.
const TAB: &str = "    ";

struct Colours {
    bold: &'static str,
    strong: &'static str,
    faint: &'static str,
    off: &'static str,
}

const NONE: Colours = Colours {
    bold: "",
    strong: "",
    faint: "",
    off: "",
};

impl Colours {
    fn of(severity: Severity, colour: bool) -> Self {
        if !colour {
            return NONE;
        }
        let strong = match severity {
            Severity::Error => "\x1b[1;31m",
            Severity::Warning => "\x1b[1;33m",
        };
        Self {
            bold: "\x1b[1m",
            strong,
            faint: "\x1b[2m",
            off: "\x1b[0m",
        }
    }
}

/// One diagnostic, several lines, the last with a newline. `source` is the text that it is about, `name` what people call
/// that; lines are cut to `width` columns. Control characters of the text are not shown.
///
/// ```text
/// error: unknown instruction: RNU
///   --> Dockerfile:3:1
///    |
///  3 | RNU make
///    | ^^^
///    = hint: did you mean RUN?
/// ```
pub fn render(
    diagnostic: &Diagnostic,
    source: &str,
    name: &str,
    width: usize,
    colour: bool,
) -> String {
    let colours = Colours::of(diagnostic.severity, colour);
    let Colours {
        bold,
        strong,
        faint,
        off,
    } = &colours;
    let kind = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let rule = diagnostic
        .rule
        .map(|rule| format!("[{}]", rule.name()))
        .unwrap_or_default();
    let mut out = format!(
        "{strong}{kind}{rule}{off}{bold}: {}{off}\n",
        printable(&diagnostic.message)
    );
    let span = diagnostic.span;
    let margin = if span.first_line == 0 {
        2
    } else {
        let lines = lines(source, span.start, span.end);
        let last = span.first_line as usize + lines.len().saturating_sub(1);
        let margin = last.to_string().len() + 1;
        let column = lines
            .first()
            .map_or(1, |line| line.text[..line.from].chars().count() + 1);
        let name = printable(name);
        _ = writeln!(
            out,
            "{:margin$}{faint}-->{off} {name}:{}:{column}",
            "", span.first_line
        );
        excerpt(
            &mut out,
            &lines,
            span.first_line as usize,
            margin,
            width,
            &colours,
        );
        margin
    };
    let mut note = |label: &str, text: &str| {
        _ = writeln!(
            out,
            "{:margin$} {faint}={off} {label}: {}",
            "",
            printable(text)
        );
    };
    if let Some(hint) = &diagnostic.hint {
        note("hint", hint);
    }
    if let Some(url) = diagnostic.url {
        note("see", url);
    }
    out
}

/// A line and which part of it is meant.
struct Line<'s> {
    text: &'s str,
    from: usize,
    to: usize,
}

/// The lines that bytes `start..end` lie on.
fn lines(source: &str, start: usize, end: usize) -> Vec<Line<'_>> {
    let floor = |at: usize| {
        (0..=at.min(source.len()))
            .rev()
            .find(|at| source.is_char_boundary(*at))
            .unwrap_or(0)
    };
    let (start, end) = (floor(start), floor(end.max(start)));
    let begin = source[..start].rfind('\n').map_or(0, |at| at + 1);
    let mut at = begin;
    let mut found = Vec::new();
    for line in source[begin..].split_inclusive('\n') {
        let text = line.trim_end_matches(['\r', '\n']);
        let inside = |offset: usize| offset.clamp(at, at + text.len()) - at;
        let indent = text.len() - text.trim_start().len();
        let from = if at > start { indent } else { inside(start) };
        found.push(Line {
            text,
            from,
            to: inside(end).max(from),
        });
        at += line.len();
        if at >= end {
            break;
        }
    }
    if found.is_empty() {
        found.push(Line {
            text: "",
            from: 0,
            to: 0,
        });
    }
    found
}

fn excerpt(
    out: &mut String,
    lines: &[Line<'_>],
    first: usize,
    margin: usize,
    width: usize,
    colours: &Colours,
) {
    let Colours {
        strong, faint, off, ..
    } = colours;
    _ = writeln!(out, "{:margin$} {faint}|{off}", "");
    let width = width.saturating_sub(margin + 3).max(MIN_WIDTH);
    for (number, line) in (first..).zip(lines.iter().take(MAX_LINES)) {
        let (text, under) = cut(line, width);
        _ = writeln!(out, "{faint}{number:>margin$} |{off} {text}");
        if !under.trim().is_empty() {
            _ = writeln!(out, "{:margin$} {faint}|{off} {strong}{under}{off}", "");
        }
    }
    if lines.len() > MAX_LINES {
        _ = writeln!(
            out,
            "{:margin$} {faint}|{off} ... {} more lines",
            "",
            lines.len() - MAX_LINES
        );
    }
}

/// A line as it is shown, and what underlines it. Of a long one the part that is meant.
fn cut(line: &Line<'_>, width: usize) -> (String, String) {
    let before = printable(&line.text[..line.from]);
    let meant = printable(&line.text[line.from..line.to]);
    let after = printable(&line.text[line.to..]);
    let count = |text: &str| text.chars().count();
    let marks = count(&meant).max(1);
    let all: Vec<char> = before
        .chars()
        .chain(meant.chars())
        .chain(after.chars())
        .collect();
    let start = count(&before);
    if all.len() <= width {
        let text: String = all.into_iter().collect();
        return (
            text.trim_end().to_owned(),
            " ".repeat(start) + &"^".repeat(marks),
        );
    }
    // The place, with some of what is before it.
    let skipped = if start + marks <= width - 3 {
        0
    } else {
        start.saturating_sub(width / 3)
    };
    let (head, room) = if skipped > 0 {
        ("...", width - 6)
    } else {
        ("", width - 3)
    };
    let shown: String = all.iter().skip(skipped).take(room).collect();
    let tail = if skipped + room < all.len() {
        "..."
    } else {
        ""
    };
    let column = start - skipped + head.len();
    let marks = marks.min((head.len() + room).saturating_sub(column)).max(1);
    (
        format!("{head}{shown}{tail}"),
        " ".repeat(column) + &"^".repeat(marks),
    )
}

/// Text in which nothing commands a terminal.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push_str(TAB),
            c if c.is_control()
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c) =>
            {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[track_caller]
    fn shows(text: &str, width: usize, wanted: &str) {
        let errors = parse(text.as_bytes()).unwrap_err();
        let shown: String = errors
            .iter()
            .map(|error| render(error, text, "Dockerfile", width, false))
            .collect();
        assert_eq!(shown, wanted.trim_start_matches('\n'));
    }

    #[test]
    fn the_place_is_underlined() {
        shows(
            "FROM a\nRNU make\n\nCOPY --form=b c d\n",
            80,
            r"
error: unknown instruction: RNU
  --> Dockerfile:2:1
   |
 2 | RNU make
   | ^^^
   = hint: did you mean RUN?
error: unknown flag: --form
  --> Dockerfile:4:6
   |
 4 | COPY --form=b c d
   |      ^^^^^^^^
   = hint: did you mean from?
",
        );
    }

    #[test]
    fn continued_instructions() {
        shows(
            "FROM a\n\tRUN --network=nno \\\n  --mount=x=1 y\nEXPOSE --a \\\n  # c\n\n b\nENV \\\n a \\\n",
            80,
            r#"
error: invalid network mode "nno"
  --> Dockerfile:2:6
   |
 2 |     RUN --network=nno \
   |         ^^^^^^^^^^^^^
   = hint: did you mean none?
error: unknown flag: --a
  --> Dockerfile:4:8
   |
 4 | EXPOSE --a \
   |        ^^^
error: ENV must have two arguments
  --> Dockerfile:9:2
   |
 9 |  a \
   |  ^
"#,
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!(
            "FROM a\nCOPY --link {} --chwn=b c d\n",
            "--exclude=aaaa ".repeat(10)
        );
        shows(
            &text,
            40,
            r"
error: unknown flag: --chwn
  --> Dockerfile:2:164
   |
 2 | ...lude=aaaa  --chwn=b c d
   |               ^^^^^^^^
   = hint: did you mean chown?
",
        );
    }

    #[test]
    fn nothing_commands_the_terminal() {
        let text = "FROM a\nX\x1b[2J\u{202e} y\n";
        let errors = parse(text.as_bytes()).unwrap_err();
        let shown = render(&errors[0], text, "a\x07b", 80, false);
        assert!(!shown.contains(['\x1b', '\x07', '\u{202e}']), "{shown:?}");
        assert!(render(&errors[0], text, "x", 80, true).starts_with("\x1b[1;31merror\x1b[0m"));
    }

    #[test]
    fn any_span_can_be_shown() {
        let source = "ä\nb\r\n\nc";
        for start in 0..9 {
            for end in 0..9 {
                for width in [0, 5, 80] {
                    let span = super::super::Span::new(start, end, 1, 1);
                    render(&Diagnostic::error(span, "m"), source, "n", width, true);
                    render(&Diagnostic::error(span, "m"), "", "n", width, true);
                }
            }
        }
    }
}
