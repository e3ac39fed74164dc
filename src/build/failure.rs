//! Why a build failed, with the place in the Dockerfile and the last lines of the step.

use std::io::IsTerminal;

use rcrun_builder::dockerfile::{Diagnostic, Severity, render};
use rcrun_runtime::error::Error;

use super::job::Failed;
use super::progress::Progress;
use crate::progress::to_stderr;

/// The most last lines that are shown.
const LINES: usize = 40;
/// Columns where nobody says how many there are.
const COLUMNS: usize = 120;

/// Shows what went before; the error that the program ends with.
pub(super) fn report(failed: Failed, progress: &Progress) -> Error {
    if let Some((title, lines)) = progress.last_words() {
        let skip = lines.len().saturating_sub(LINES);
        let mut text = format!("------\n > {title}:\n");
        for line in &lines[skip..] {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("------\n");
        to_stderr(&text);
    }
    match failed {
        Failed::Error(error) => error,
        Failed::File(name, text, wrong) => {
            let count = wrong.len();
            for one in &wrong {
                to_stderr(&show(one, &text, &name));
            }
            let s = if count == 1 { "" } else { "s" };
            Error::invalid(format!("{name} has {count} error{s}"))
        }
        Failed::Problem(name, text, problem) => {
            let Some(span) = problem.span else {
                return problem.error;
            };
            let wrong = Diagnostic {
                severity: Severity::Error,
                rule: None,
                message: problem.error.chain().to_string(),
                span,
                hint: problem.error.hint().map(str::to_owned),
                url: None,
            };
            to_stderr(&show(&wrong, &text, &name));
            Error::invalid(format!("cannot build {name}"))
        }
    }
}

/// Several lines: what is wrong, where, and what to do.
pub(super) fn show(wrong: &Diagnostic, text: &str, name: &str) -> String {
    let terminal = std::io::stderr().is_terminal();
    let columns = match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if terminal && size.ws_col > 20 => usize::from(size.ws_col),
        _ => COLUMNS,
    };
    render(wrong, text, name, columns, terminal)
}

/// The same in one.
pub(super) fn line(wrong: &Diagnostic) -> String {
    format!("line {}: {}", wrong.span.first_line, wrong.message)
}

/// A Dockerfile as errors quote it: passwords of addresses become as many other letters.
pub(super) fn shown(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        let user = word.find("://").and_then(|at| {
            let start = at + 3;
            let end = word[start..].find(['/', '?', '#']);
            let end = end.map_or(word.len(), |end| start + end);
            Some(start..start + word[start..end].rfind('@')?)
        });
        match user {
            Some(user) => {
                all.push_str(&word[..user.start]);
                all.extend(std::iter::repeat_n('x', user.len()));
                all.push_str(&word[user.end..]);
            }
            None => all.push_str(word),
        }
    }
    all
}

/// A Dockerfile as statements call it: where it lies on this machine is nobody's business.
pub(super) fn file_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split(['?', '#']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_quoted_and_places_stay() {
        for (text, expected) in [
            ("FROM a\n", "FROM a\n"),
            (
                "ADD https://u:p@h/a@b /x\nRUN y",
                "ADD https://xxx@h/a@b /x\nRUN y",
            ),
            ("ADD [\"ssh://\u{e4}@h\"]", "ADD [\"ssh://xx@h\"]"),
            ("a://b?c@d", "a://b?c@d"),
        ] {
            assert_eq!(shown(text), expected);
            assert_eq!(shown(text).len(), text.len());
        }
        assert_eq!(file_name("/a/b/Dockerfile.x"), "Dockerfile.x");
        assert_eq!(file_name("https://u:p@h/Dockerfile?token=x"), "Dockerfile");
    }
}
