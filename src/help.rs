//! Help texts and the version, in the layout that engines and their tests know.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Arg;

use crate::settings::GLOBAL;
use crate::verbs::{self, Verb};
use crate::{output, report};

/// Our version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The release of runc whose command line this is.
pub(crate) const COMPATIBLE_WITH: &str = "1.5.1";
/// Source revision, when the build knew it.
pub(crate) const COMMIT: &str = env!("RCRUN_COMMIT");

const ABOUT: &str = "Open Container Initiative runtime, with images and without a daemon

Of an image, from a registry or the store:

    # rcrun run --rm -it debian:12 sh

Of an OCI bundle, a directory with a file \"config.json\" and a root filesystem,
below any engine, in place of runc:

    # rcrun run [ -b bundle ] <container-id>";

/// The parts of the list of verbs.
const OCI: &str = "OCI runtime, as runc";
const IMAGES: &str = "images and the store";
const CONTAINERS: &str = "containers of images";
const BUILDS: &str = "builds";
const NODE: &str = "node of a cluster";

/// What `--version` prints.
///
/// The first line begins as containerd's go-runc demands (`runc version `), the second and third
/// are found by its and runc's own tests, and docker takes the last line with the word `version`
/// as name and version of the runtime. podman shows all of it.
pub(crate) fn version() -> String {
    format!(
        "runc version {COMPATIBLE_WITH}+rcrun.{VERSION}\ncommit: {COMMIT}\nspec: {}\n\
         rcrun version {VERSION}\n",
        rcrun_runtime::spec::VERSION
    )
}

/// What `--help` prints.
pub(crate) fn program() -> String {
    let about = ABOUT.replace('\n', "\n          ");
    let mut text = format!(
        "NAME:\n   rcrun, in place of runc - {about}\n\nUSAGE:\n   rcrun [global options] [command [command options]]\n\n\
         VERSION:\n   {VERSION} (runc {COMPATIBLE_WITH})\n"
    );
    let parts = [
        (CONTAINERS, verbs::containers(), verbs::shared()),
        (IMAGES, verbs::images(), &[]),
        (BUILDS, verbs::builds(), &[]),
        (NODE, verbs::node(), &[]),
        (OCI, verbs::oci(), &[]),
    ];
    let shown = |part: &'static [Verb]| part.iter().filter(|verb| !verb.hidden);
    let width = parts
        .iter()
        .flat_map(|(_, part, more)| shown(part).chain(*more));
    let width = width.map(|verb| verb.name.len()).max().unwrap_or(0);
    for (title, part, more) in parts {
        let _ = writeln!(text, "\nCOMMANDS: {title}");
        for verb in shown(part).chain(more) {
            let _ = writeln!(text, "   {:width$}  {}", verb.name, about_of(verb));
        }
    }
    text.push_str("\n`rcrun VERB --help` tells more of each.\n");
    text.push_str("\nGLOBAL OPTIONS:\n");
    text.push_str(&options(global_options()));
    text
}

/// What `VERB --help` prints.
pub(crate) fn verb(verb: &Verb) -> String {
    let command = (verb.command)();
    let own: Vec<(String, String)> = command.get_arguments().filter_map(option).collect();
    let mark = if own.is_empty() { "" } else { " [options]" };
    let mut text = format!(
        "NAME:\n   rcrun {name} - {about}\n\nUSAGE:\n   rcrun {name}{mark} {usage}\n",
        name = verb.name,
        about = about_of(verb),
        usage = verb.usage
    );
    if let Some(long) = command.get_long_about() {
        let long = long.to_string();
        // The first paragraph is the short text again.
        if let Some((_, description)) = long.split_once("\n\n") {
            let description = description
                .replace('\n', "\n   ")
                .replace("\n   \n", "\n\n");
            let _ = write!(text, "\nDESCRIPTION:\n   {description}\n");
        }
    }
    text.push_str("\nOPTIONS:\n");
    text.push_str(&options(
        own.into_iter()
            .chain([("--help, -h".into(), "show help".into())]),
    ));
    text.push_str("\nGLOBAL OPTIONS:\n");
    text.push_str(&options(
        global_options().filter(|(name, _)| !name.starts_with("--help")),
    ));
    text
}

/// `rcrun help [VERB]`.
pub(crate) fn topic(name: Option<&str>) -> ExitCode {
    match name.map(|name| (name, verbs::find(name))) {
        None => report::finish(output::print(&program())),
        Some((_, Some(found))) => report::finish(output::print(&verb(found))),
        Some((name, None)) => report::unknown_topic(name, 3),
    }
}

fn about_of(verb: &Verb) -> String {
    (verb.command)()
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn global_options() -> impl Iterator<Item = (String, String)> {
    GLOBAL.iter().map(|(flag, help)| {
        let value = if flag.takes_value { " string" } else { "" };
        let short = flag
            .short
            .map(|short| format!(", -{short}{value}"))
            .unwrap_or_default();
        (format!("--{}{value}{short}", flag.long), (*help).to_owned())
    })
}

fn option(argument: &Arg) -> Option<(String, String)> {
    let long = argument.get_long().filter(|_| !argument.is_hide_set())?;
    let value = match argument.get_value_names() {
        Some([name, ..]) if argument.get_action().takes_values() && !verbs::is_bool(argument) => {
            format!(" {name}")
        }
        _ => String::new(),
    };
    let short = argument
        .get_short()
        .map(|c| format!(", -{c}{value}"))
        .unwrap_or_default();
    let help = argument.get_long_help().or_else(|| argument.get_help());
    Some((
        format!("--{long}{value}{short}"),
        help.map(ToString::to_string).unwrap_or_default(),
    ))
}

fn options(rows: impl Iterator<Item = (String, String)>) -> String {
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, help) in rows {
        let help = help.replace('\n', "\n      ").replace("\n      \n", "\n\n");
        let _ = writeln!(text, "   {name:width$}  {help}");
    }
    text
}

#[cfg(test)]
mod tests {
    /// runc's own tests look for these two lines.
    #[test]
    fn the_help_begins_as_runcs() {
        let text = super::program();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("NAME:"));
        let second = lines.next().unwrap();
        assert!(
            second.contains("runc - Open Container Initiative runtime"),
            "{second}"
        );
    }
}
