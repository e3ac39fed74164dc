//! Which of two verbs of one name is meant. Pure.
//!
//! `run` with an OCI runtime's flags, for a directory that is a bundle, or in one, is the runtime's, as
//! engines and scripts write it; everything else names an image. What stands behind an image's name is
//! the container's business, so flags there decide nothing, unless they name a bundle.

use crate::arguments::{self, Flag};
use crate::settings::GLOBAL;

/// The flags of the runtime's `run`: a table of its own, since building a parser to choose a parser
/// would cost what an engine's call must not. A test compares it with the parser.
const RUNTIME: &[Flag<'static>] = &[
    value("bundle", Some('b')),
    value("config", Some('f')),
    value("console-socket", None),
    value("pidfd-socket", None),
    value("pid-file", None),
    switch("no-pivot"),
    switch("no-new-keyring"),
    value("preserve-fds", None),
    value("root-fd", None),
    Flag {
        long: "detach",
        short: Some('d'),
        takes_value: false,
    },
    switch("keep"),
    switch("no-subreaper"),
];
/// The one that both forms have.
const SHARED: &str = "detach";

const fn value(long: &'static str, short: Option<char>) -> Flag<'static> {
    Flag {
        long,
        short,
        takes_value: true,
    }
}

const fn switch(long: &'static str) -> Flag<'static> {
    Flag {
        long,
        short: None,
        takes_value: false,
    }
}

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
    if let Some(form) = before_the_name(words) {
        return form;
    }
    let Some((arguments, bundle)) = as_runtime(words) else {
        return Form::Image;
    };
    match arguments.as_slice() {
        // Nothing to run: the runtime's complaint.
        [] => Form::Oci,
        [name] if bundle.as_deref().is_some_and(is_bundle) || is_bundle(".") || is_bundle(name) => {
            Form::Oci
        }
        _ => Form::Image,
    }
}

/// Flags in front of the first argument that only one of the forms has.
fn before_the_name(words: &[String]) -> Option<Form> {
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let text = match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some(text), _) | (None, Some(text)) if !text.is_empty() => text,
            _ => return None,
        };
        let (name, has_value) = match text.split_once('=') {
            Some((name, _)) => (name, true),
            None => (text, false),
        };
        let is_letter = |short: Option<char>| {
            short.is_some_and(|short| name.chars().eq([short])) && !word.starts_with("--")
        };
        let mut runtimes = RUNTIME.iter();
        let found = runtimes.find(|flag| flag.long == name || is_letter(flag.short));
        let global = || GLOBAL.iter().find(|(flag, _)| flag.long == name);
        let takes_value = match (found, global()) {
            (Some(flag), _) if flag.long == SHARED => false,
            (Some(_), _) => return Some(Form::Oci),
            // Also behind the verb.
            (None, Some((flag, _))) if flag.long != "help" => flag.takes_value,
            (None, _) => return Some(Form::Image),
        };
        if takes_value && !has_value {
            rest.next();
        }
    }
    None
}

/// The arguments and the bundle, if an OCI runtime would take these words.
fn as_runtime(words: &[String]) -> Option<(Vec<String>, Option<String>)> {
    let global = GLOBAL.iter().map(|(flag, _)| *flag);
    let table: Vec<Flag<'_>> = RUNTIME.iter().copied().chain(global).collect();
    let split = arguments::split(words, &table, None).ok()?;
    let mut flags = split.flags.into_iter().rev();
    let bundle = flags.find(|(index, _)| table[*index].long == "bundle");
    Some((split.positional, bundle.map(|(_, value)| value)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::verbs::containers::run::RunImage;

    #[test]
    fn the_table_is_that_of_the_parser() {
        let verb = crate::verbs::oci().iter().find(|verb| verb.name == "run");
        let command = (verb.unwrap().command)();
        let flag = |flag: Flag<'_>| (flag.long.to_owned(), flag.short, flag.takes_value);
        let parsers: Vec<_> = command
            .get_arguments()
            .filter_map(crate::verbs::flag)
            .map(flag)
            .collect();
        let table: Vec<_> = RUNTIME.iter().copied().map(flag).collect();
        assert_eq!(table, parsers);
        let image = RunImage::command();
        let of_image = image.get_arguments().filter_map(crate::verbs::flag);
        let shared: Vec<_> = of_image
            .filter(|flag| {
                let is = |of_runtime: &Flag<'_>| {
                    of_runtime.long == flag.long
                        || (of_runtime.short.is_some() && of_runtime.short == flag.short)
                };
                RUNTIME.iter().any(is)
            })
            .map(|flag| flag.long.to_owned())
            .collect();
        assert_eq!(shared, [SHARED]);
    }

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
