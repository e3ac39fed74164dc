//! How a failure reaches the caller: text, hint and exit code. Errors are logged here and nowhere else.
//!
//! `runc create failed: ` and the other fixed beginnings are what engines and their tests look
//! for, whatever the runtime is called.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use rcrun_runtime::error::{Error, ErrorKind, Result};

use crate::settings::Global;
use crate::verbs::{Grammar, Verb};
use crate::{help, logging, output};

/// Starts logging as the global flags say; whether lines end up somewhere else than on stderr.
pub(crate) fn start_log(global: &Global) -> Result<bool> {
    let (file, format, debug) = global.log()?;
    logging::start(file, format, debug)
}

/// Exit code of a verb that only prints.
pub(crate) fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => early(&error.chain().to_string()),
    }
}

/// Reports what went wrong before `--log` was understood.
pub(crate) fn early(message: &str) -> ExitCode {
    // A second start fails; the first one then serves.
    let _ = logging::start(None, logging::Format::Text, false);
    tracing::error!("{message}");
    ExitCode::FAILURE
}

/// A flag that does not exist or has a wrong value.
pub(crate) fn usage(message: &str, verb: Option<&Verb>) -> ExitCode {
    if let Some(verb) = verb.filter(|verb| verb.grammar == Grammar::Posix) {
        let name = verb.name;
        to_stderr(&format!(
            "rcrun {name}: {message}\nSee 'rcrun {name} --help'.\n"
        ));
        return ExitCode::from(verb.failure_code);
    }
    to_stderr(&format!("Incorrect Usage: {message}\n\n"));
    let text = verb.map_or_else(help::program, help::verb);
    let _ = output::print(&text);
    early(message)
}

/// The wrong number of arguments.
pub(crate) fn wrong_arguments(message: &str, verb: &Verb, elsewhere: bool) -> ExitCode {
    let _ = output::print(&format!("Incorrect Usage.\n\n{}", help::verb(verb)));
    log_error(message, elsewhere);
    ExitCode::FAILURE
}

/// A verb that does not exist.
pub(crate) fn unknown_topic(name: &str, code: u8) -> ExitCode {
    let _ = early(&format!("No help topic for '{name}'"));
    ExitCode::from(code)
}

/// A verb that failed.
pub(crate) fn failed(verb: &Verb, error: &Error, elsewhere: bool) -> ExitCode {
    if verb.grammar == Grammar::Posix {
        return failed_for_people(verb, error, elsewhere);
    }
    let waits = ["run", "exec"].contains(&verb.name);
    let has_reader = elsewhere || std::io::stderr().is_terminal();
    if !(waits && error.was_told()) || has_reader {
        log_error(
            &format!("{}{}", verb.failure_prefix, error.chain()),
            elsewhere,
        );
    }
    if std::io::stderr().is_terminal()
        && let Some(hint) = hint(error.kind(), verb.name)
    {
        to_stderr(&format!("hint: {hint}\n"));
    }
    ExitCode::from(verb.failure_code)
}

/// One line that a person reads, and what to do about it, if that is known.
fn failed_for_people(verb: &Verb, error: &Error, elsewhere: bool) -> ExitCode {
    if elsewhere || logging::is_json() {
        tracing::error!("{}", error.chain());
    }
    if elsewhere || !logging::is_json() {
        to_stderr(&person(error));
    }
    ExitCode::from(verb.failure_code)
}

/// Tells a person of an error that does not decide the exit code.
pub(crate) fn tell(error: &Error) {
    match logging::is_json() {
        true => tracing::error!("{}", error.chain()),
        false => to_stderr(&person(error)),
    }
}

fn person(error: &Error) -> String {
    let message = crate::format::printable(&error.chain().to_string());
    let general = match error.kind() {
        ErrorKind::Exhausted => Some("`rcrun prune` and `rcrun df` help to make room"),
        ErrorKind::Corrupt => Some(
            "`rcrun fsck --repair` tells what is damaged, mends what it can, and says what removes the rest",
        ),
        _ => None,
    };
    match error.hint().or(general) {
        Some(hint) => format!("rcrun: {message}\nhint: {hint}\n"),
        None => format!("rcrun: {message}\n"),
    }
}

/// Tells a person of something that does not keep the verb from its work.
pub(crate) fn warn(message: &str) {
    match logging::is_json() {
        true => tracing::warn!("{message}"),
        false => to_stderr(&format!(
            "rcrun: warning: {}\n",
            crate::format::printable(message)
        )),
    }
}

/// Does the same for several things. What goes wrong with one does not keep the others from their
/// turn: the last error is returned, those before it are told here.
pub(crate) fn each<T>(
    items: impl IntoIterator<Item = T>,
    mut action: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let mut failed: Option<Error> = None;
    for item in items {
        if let Err(error) = action(item)
            && let Some(before) = failed.replace(error)
        {
            match logging::is_json() {
                true => tracing::error!("{}", before.chain()),
                false => to_stderr(&person(&before)),
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Logs the error and, when the log is a file, also tells the person who called.
fn log_error(message: &str, elsewhere: bool) {
    tracing::error!("{message}");
    if elsewhere {
        to_stderr(&format!("{message}\n"));
    }
}

fn to_stderr(text: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// What a person at a terminal can do next.
fn hint(kind: ErrorKind, verb: &str) -> Option<&'static str> {
    match kind {
        ErrorKind::Exists if ["create", "run", "restore"].contains(&verb) => {
            Some("choose another ID, or remove the old one with `rcrun delete`")
        }
        ErrorKind::PermissionDenied => {
            Some("run as root, or write a bundle for a user namespace with `rcrun spec --rootless`")
        }
        ErrorKind::Unsupported => Some("`rcrun features` prints what this build supports"),
        ErrorKind::Busy => Some("somebody else is using it: try again"),
        ErrorKind::Corrupt => Some("`rcrun delete --force` removes what is left of a container"),
        ErrorKind::Exhausted => Some("check free memory, disk space, inodes and ulimits"),
        _ => None,
    }
}
