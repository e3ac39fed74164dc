//! Which of two verbs of one name is meant. Pure.
//!
//! `run` with an OCI runtime's flags, for a directory that is a bundle, or in one, is the runtime's, as
//! engines and scripts write it; everything else names an image. What stands behind an image's name is
//! the container's business, so flags there decide nothing, unless they name a bundle.

use clap::CommandFactory;

use super::containers::run::RunImage;
use super::{Grammar, Verb, oci};
use crate::arguments::{self, Flag};
use crate::settings::GLOBAL;

/// The verb's two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A container of a bundle.
    Oci,
    /// A container of an image.
    Image,
}

/// Whether a directory is a bundle.
pub(crate) fn has_config(directory: &str) -> bool {
    std::path::Path::new(directory)
        .join(rcrun_runtime::spec::load::CONFIG)
        .is_file()
}

/// What the words behind `run` mean.
pub(crate) fn of_run(words: &[String], is_bundle: &dyn Fn(&str) -> bool) -> Form {
    let Some(oci) = oci::VERBS.iter().find(|verb| verb.name == "run") else {
        return Form::Image;
    };
    debug_assert!(oci.grammar == Grammar::Go);
    if let Some(form) = before_the_name(words, oci) {
        return form;
    }
    let Some(split) = as_runtime(words, oci) else {
        return Form::Image;
    };
    let bundle = split.1.as_deref();
    match split.0.as_slice() {
        // Nothing to run: the runtime's complaint.
        [] => Form::Oci,
        [name] if bundle.is_some_and(is_bundle) || is_bundle(".") || is_bundle(name) => Form::Oci,
        _ => Form::Image,
    }
}

/// Flags in front of the first argument that only one of the forms has.
fn before_the_name(words: &[String], oci: &Verb) -> Option<Form> {
    let command = (oci.command)();
    let image = RunImage::command();
    let long = |command: &clap::Command, name: &str| {
        let mut all = command.get_arguments();
        let found = all.find(|argument| {
            argument.get_long() == Some(name)
                || argument
                    .get_all_aliases()
                    .is_some_and(|all| all.contains(&name))
        })?;
        Some(found.get_action().takes_values() && !super::is_bool(found))
    };
    let short = |command: &clap::Command, letter: char| {
        let found = command
            .get_arguments()
            .find(|argument| argument.get_short() == Some(letter))?;
        Some(found.get_action().takes_values())
    };
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let (name, dashes) = match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some(""), _) | (_, None) => return None,
            (Some(name), _) => (name, 2),
            (None, Some("")) => return None,
            (None, Some(name)) => (name, 1),
        };
        let (name, value) = match name.split_once('=') {
            Some((name, _)) => (name, true),
            None => (name, false),
        };
        if name == "help" {
            return Some(Form::Image);
        }
        let letter = name
            .chars()
            .next()
            .filter(|first| dashes == 1 && first.len_utf8() == name.len());
        let of_oci =
            long(&command, name).or_else(|| letter.and_then(|letter| short(&command, letter)));
        let of_image = match (dashes, letter) {
            (2, _) => long(&image, name),
            (_, Some(letter)) => short(&image, letter),
            // `-it` and `-eNAME=value`; the runtime takes `-bundle` as well.
            _ => name
                .chars()
                .next()
                .filter(|_| of_oci.is_none())
                .and_then(|letter| short(&image, letter)),
        };
        match (of_oci, of_image) {
            (Some(_), None) => return Some(Form::Oci),
            (None, Some(_)) => return Some(Form::Image),
            // Global flags, also behind the verb.
            (None, None) => {
                let global = GLOBAL.iter().find(|(flag, _)| flag.long == name)?;
                if global.0.takes_value && !value {
                    rest.next();
                }
            }
            (Some(takes), Some(_)) => {
                if takes && !value {
                    rest.next();
                }
            }
        }
    }
    None
}

/// The arguments and the bundle, if an OCI runtime would take these words.
fn as_runtime(words: &[String], oci: &Verb) -> Option<(Vec<String>, Option<String>)> {
    let command = (oci.command)();
    let mut table: Vec<Flag<'_>> = command.get_arguments().filter_map(super::flag).collect();
    table.extend(GLOBAL.iter().map(|(flag, _)| *flag));
    let split = arguments::split(words, &table, None).ok()?;
    let mut flags = split.flags.into_iter().rev();
    let bundle = flags.find(|(index, _)| table[*index].long == "bundle");
    Some((split.positional, bundle.map(|(_, value)| value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `o`: in a bundle; directories that are one begin with `b`.
    fn form(line: &str, inside: bool) -> Form {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let is_bundle =
            |path: &str| path.starts_with('b') || path == "/b" || (path == "." && inside);
        of_run(&words, &is_bundle)
    }

    #[test]
    fn the_runtimes_form() {
        for (line, inside) in [
            ("", false),
            ("--bundle /x id", false),
            ("-b /x id", false),
            ("--bundle=/x id", false),
            ("-bundle /x -detach id", false),
            ("--pid-file /p --console-socket /s id", false),
            ("-d --pid-file /p id", false),
            ("--no-pivot id", false),
            ("--keep id", false),
            ("--preserve-fds 3 id", false),
            ("id", true),
            ("-d id", true),
            ("--detach id", true),
            ("id -d", true),
            ("id --bundle /b", false),
            ("bundle", false),
            ("-d bundle", false),
            ("--debug id", true),
            ("--log /x id", true),
        ] {
            assert_eq!(form(line, inside), Form::Oci, "{line}");
        }
    }

    #[test]
    fn the_peoples_form() {
        for (line, inside) in [
            ("alpine", false),
            ("-d alpine", false),
            ("alpine sh", true),
            ("-it alpine", true),
            ("--rm alpine", true),
            ("-e A=b alpine", true),
            ("-eA=b alpine", true),
            ("-d --name web alpine", true),
            ("--name=web alpine", true),
            ("--init alpine", true),
            ("-it --rm bundle sh", false),
            // Flags of the container's program.
            ("app --bundle /x", false),
            ("app --config x", false),
            ("alpine ls -b", true),
            ("alpine --pid-file /p", false),
            ("--help", false),
            ("-d --help", true),
            ("--shiny alpine", false),
            ("alpine -- x", false),
        ] {
            assert_eq!(form(line, inside), Form::Image, "{line}");
        }
    }
}
