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
