//! Why a build failed, with the place in the Dockerfile and the last lines of the step.

use rcrun_builder::dockerfile::{Diagnostic, Severity};
use rcrun_runtime::error::Error;

use super::job::Failed;
use super::progress::Progress;
use crate::progress::to_stderr;

/// The most last lines that are shown.
const LINES: usize = 40;

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
            if let Some(span) = problem.span {
                let wrong = Diagnostic {
                    severity: Severity::Error,
                    rule: None,
                    message: problem.error.chain().to_string(),
                    span,
                    hint: problem.error.hint().map(str::to_owned),
                    url: None,
                };
                to_stderr(&show(&wrong, &text, &name));
            }
            problem.error
        }
    }
}

fn show(wrong: &Diagnostic, text: &str, name: &str) -> String {
    let first = wrong.span.first_line as usize;
    let last = wrong.span.last_line as usize;
    let mut shown = format!("{name}:{first}\n--------------------\n");
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if number + 2 < first || number > last + 2 {
            continue;
        }
        let mark = if (first..=last).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        shown.push_str(&format!("{number:4} | {mark} {line}\n"));
    }
    shown.push_str("--------------------\n");
    shown
}
