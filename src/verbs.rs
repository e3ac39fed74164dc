//! The table of verbs, and how one is parsed: by the verb's own clap parser, for OCI verbs after a
//! split that knows how engines write flags.

pub(crate) mod build;
mod capture;
mod containers;
pub(crate) mod dispatch;
mod form;
mod images;
mod monitor;
mod oci;
mod pin;
mod serve;

#[cfg(feature = "generate")]
mod generate;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, Parser};
use rcrun_runtime::error::Error;

use crate::arguments::{self, Flag, switch};
use crate::settings::{GLOBAL, Global, Settings};
pub(crate) use images::pull::fetch;
pub(crate) use rcrun_runtime::template::signal::parse as signal_number;

/// A verb's arguments, parsed, and what it does with them.
pub(crate) trait Run: Parser {
    /// Does the work; the exit code of the process.
    fn run(self, settings: &Settings) -> Result<u8, Error>;
}

/// How many positional arguments a verb takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    /// So many.
    Exactly(usize),
    /// So many or more.
    AtLeast(usize),
    /// Between the two.
    Between(usize, usize),
}

impl Count {
    /// The complaint about a wrong number.
    pub(crate) fn check(self, verb: &str, given: usize) -> Result<(), String> {
        let (wanted, count) = match self {
            Count::Exactly(count) if given != count => ("exactly", count),
            Count::AtLeast(least) | Count::Between(least, _) if given < least => {
                ("a minimum of", least)
            }
            Count::Between(_, most) if given > most => ("a maximum of", most),
            _ => return Ok(()),
        };
        let program = std::env::args().next().unwrap_or_default();
        Err(format!(
            "{program}: {verb:?} requires {wanted} {count} argument(s)"
        ))
    }
}

/// How a verb's words are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grammar {
    /// As Go's flag package does, on which engines rely: `-bundle`, switches with `=false`.
    Go,
    /// As getopt_long(3) does, which people know from docker: `-it`, `-eNAME=value`.
    Posix,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Verb {
    /// Word on the command line.
    pub(crate) name: &'static str,
    /// Not shown in the help.
    pub(crate) hidden: bool,
    /// How its words are read.
    pub(crate) grammar: Grammar,
    /// Number of positional arguments.
    pub(crate) arguments: Count,
    /// Flags end after so many positional arguments.
    pub(crate) stop_after: Option<usize>,
    /// What stands behind the verb in the usage line, and the paragraphs below it.
    pub(crate) usage: &'static str,
    /// Beginning of its error messages.
    pub(crate) failure_prefix: &'static str,
    /// Exit code when the verb itself fails.
    pub(crate) failure_code: u8,
    /// Makes a process that enters a container, which must not be able to write to our file.
    pub(crate) enters_container: bool,
    /// Works in a store, for which an ordinary user becomes root of a user namespace.
    pub(crate) in_store: bool,
    /// Builds the clap parser.
    pub(crate) command: fn() -> Command,
    start: fn(ArgMatches, &Settings) -> Result<u8, Error>,
}

/// A command line that only needs to be run.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// Global flags of both places.
    pub(crate) global: Global,
    /// The verb's own arguments, or the complaint about a wrong number of them.
    pub(crate) matches: Result<ArgMatches, String>,
}

impl Verb {
    const fn new<V: Run>(name: &'static str, arguments: Count, usage: &'static str) -> Self {
        Self {
            name,
            hidden: false,
            grammar: Grammar::Go,
            arguments,
            stop_after: None,
            usage,
            failure_prefix: "",
            failure_code: 1,
            enters_container: false,
            in_store: false,
            command: V::command,
            start: start::<V>,
        }
    }

    /// A verb for people: docker's habits.
    const fn people<V: Run>(name: &'static str, arguments: Count, usage: &'static str) -> Self {
        let mut verb = Self::new::<V>(name, arguments, usage);
        verb.grammar = Grammar::Posix;
        verb.in_store = true;
        verb
    }

    /// Runs it for a verb that has it behind a word of its own: `volume rm`.
    fn behind(&self, words: &[String], settings: &Settings) -> Result<u8, Error> {
        let parsed = self
            .parse(words, Global::default())
            .map_err(Error::invalid)?;
        if parsed.global.help {
            crate::output::print(&crate::help::verb(self))?;
            return Ok(0);
        }
        (self.start)(parsed.matches.map_err(Error::invalid)?, settings)
    }

    /// It needs no store.
    const fn without_store(mut self) -> Self {
        self.in_store = false;
        self
    }

    const fn stop_after(mut self, count: usize) -> Self {
        self.stop_after = Some(count);
        self
    }

    const fn enters_container(mut self) -> Self {
        self.enters_container = true;
        self
    }

    const fn fails_as(mut self, prefix: &'static str, code: u8) -> Self {
        self.failure_prefix = prefix;
        self.failure_code = code;
        self
    }

    const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Parses the words behind the verb.
    pub(crate) fn parse(&self, words: &[String], global: Global) -> Result<Parsed, String> {
        match self.grammar {
            Grammar::Go => self.parse_go(words, global),
            Grammar::Posix => self.parse_posix(words, global),
        }
    }

    /// Global flags stand before the verb; `--help` may stand behind it, before what the verb hands
    /// on.
    fn parse_posix(&self, words: &[String], mut global: Global) -> Result<Parsed, String> {
        let command = (self.command)().args_override_self(true).arg(
            Arg::new("help")
                .long("help")
                .action(ArgAction::SetTrue)
                .hide(true),
        );
        let line = std::iter::once(self.name).chain(words.iter().map(String::as_str));
        // Where errors are ignored, not even defaults are certain to be there.
        let asked = |matches: &ArgMatches| {
            let found = matches.try_get_one::<bool>("help");
            found.ok().flatten().copied().unwrap_or(false)
        };
        let found = command
            .clone()
            .ignore_errors(true)
            .try_get_matches_from(line.clone());
        global.help |= found.as_ref().is_ok_and(asked) || words == ["-h"];
        let matches = match global.help {
            true => Err(String::new()),
            false => Ok(command
                .try_get_matches_from(line)
                .map_err(|e| self.describe_for_people(&e))?),
        };
        Ok(Parsed { global, matches })
    }

    /// A clap error in docker's words.
    fn describe_for_people(&self, error: &clap::Error) -> String {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => text.clone(),
            Some(ContextValue::Strings(texts)) => texts.join(", "),
            _ => String::new(),
        };
        let argument = text(ContextKind::InvalidArg);
        let flag = argument.split(' ').next().unwrap_or_default();
        let value = text(ContextKind::InvalidValue);
        let takes = |words: &str, count: usize| {
            let s = if count == 1 { "" } else { "s" };
            format!("it takes {words}{count} argument{s}")
        };
        match error.kind() {
            ErrorKind::UnknownArgument if flag.starts_with('-') => format!("unknown flag: {flag}"),
            ErrorKind::UnknownArgument | ErrorKind::TooManyValues => match self.arguments {
                Count::Exactly(0) => "it takes no arguments".to_owned(),
                Count::Exactly(count) => takes("exactly ", count),
                Count::Between(_, most) => takes("at most ", most),
                Count::AtLeast(_) => format!("unexpected argument {flag:?}"),
            },
            ErrorKind::MissingRequiredArgument => match self.arguments {
                Count::Exactly(count) => takes("exactly ", count),
                Count::AtLeast(least) | Count::Between(least, _) => takes("at least ", least),
            },
            ErrorKind::InvalidValue if value.is_empty() => {
                format!("flag needs an argument: {flag}")
            }
            ErrorKind::ValueValidation => {
                let mut words = format!("invalid value {value:?} for {flag}");
                let mut cause = std::error::Error::source(error);
                while let Some(one) = cause {
                    words += &format!(": {one}");
                    cause = one.source();
                }
                words
            }
            ErrorKind::InvalidValue => {
                let valid = text(ContextKind::ValidValue);
                format!("invalid value {value:?} for {flag}: use one of {valid}")
            }
            ErrorKind::ArgumentConflict => {
                format!(
                    "{flag} and {} exclude each other",
                    text(ContextKind::PriorArg)
                )
            }
            _ => describe(error),
        }
    }

    fn parse_go(&self, words: &[String], mut global: Global) -> Result<Parsed, String> {
        let command = (self.command)().args_override_self(true);
        let mut table: Vec<Flag<'_>> = command.get_arguments().filter_map(flag).collect();
        let own = table.len();
        table.extend(
            GLOBAL
                .iter()
                .map(|(flag, _)| *flag)
                .filter(|flag| flag.long != "version"),
        );
        let split = arguments::split(words, &table, self.stop_after)?;

        let mut line = vec![self.name.to_owned()];
        let mut switches = vec![None; own];
        for (index, value) in split.flags {
            let Flag {
                long, takes_value, ..
            } = table[index];
            if index >= own {
                global.set(long, value);
            } else if takes_value {
                line.push(format!("--{long}={value}"));
            } else {
                switches[index] = switch(&value);
            }
        }
        for (flag, state) in table.iter().zip(switches) {
            match state {
                Some(on) if takes_bool(&command, flag.long) => {
                    line.push(format!("--{}={on}", flag.long));
                }
                Some(true) => line.push(format!("--{}", flag.long)),
                Some(false) | None => {}
            }
        }
        let count = self.arguments.check(self.name, split.positional.len());
        let matches = match count {
            Err(complaint) => Err(complaint),
            // The help is printed whatever else is wrong.
            Ok(()) if global.help => Err(String::new()),
            Ok(()) => {
                line.push("--".to_owned());
                line.extend(split.positional);
                Ok(command
                    .try_get_matches_from(line)
                    .map_err(|e| describe(&e))?)
            }
        };
        Ok(Parsed { global, matches })
    }

    /// Runs what was parsed.
    pub(crate) fn run(&self, matches: ArgMatches, global: Global) -> Result<u8, Error> {
        (self.start)(matches, &Settings::new(global)?)
    }
}

fn start<V: Run>(matches: ArgMatches, settings: &Settings) -> Result<u8, Error> {
    let mut matches = matches;
    V::from_arg_matches_mut(&mut matches)
        .map_err(|e| Error::invalid(describe(&e)))?
        .run(settings)
}

/// The flag of a clap argument; `None` for positional ones.
fn flag(argument: &Arg) -> Option<Flag<'_>> {
    let long = argument.get_long()?;
    let takes_value = argument.get_action().takes_values() && !is_bool(argument);
    Some(Flag {
        long,
        short: argument.get_short(),
        takes_value,
    })
}

/// A switch that can also be turned off: an argument with the values `true` and `false`.
pub(crate) fn is_bool(argument: &Arg) -> bool {
    let values = argument.get_possible_values();
    values.len() == 2
        && values
            .iter()
            .all(|value| switch(value.get_name()).is_some())
}

fn takes_bool(command: &Command, long: &str) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.get_long() == Some(long) && argument.get_action().takes_values())
}

/// A clap error in the words that engines know.
fn describe(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let name = text(ContextKind::InvalidArg).trim_start_matches('-');
    let name = name.split(' ').next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue);
    match (error.kind(), std::error::Error::source(error)) {
        (ErrorKind::ValueValidation, Some(cause)) => {
            format!("invalid value {value:?} for flag -{name}: {cause}")
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}

/// An exit code of a process as a shell shows it.
pub(crate) fn exit_code(code: i32) -> Result<u8, Error> {
    u8::try_from(code).map_err(|_| Error::invalid(format!("exit code {code} is out of range")))
}

/// The verbs of an OCI runtime.
pub(crate) fn oci() -> &'static [Verb] {
    oci::VERBS
}

/// The verbs on images and the store.
pub(crate) fn images() -> &'static [Verb] {
    images::VERBS
}

/// The verbs on containers that were made from images.
pub(crate) fn containers() -> &'static [Verb] {
    containers::VERBS
}

/// The verbs on Dockerfiles.
pub(crate) fn builds() -> &'static [Verb] {
    std::slice::from_ref(&build::VERB)
}

/// The verbs of a node of a cluster.
pub(crate) fn node() -> &'static [Verb] {
    std::slice::from_ref(&serve::VERB)
}

/// Of these, the ones whose words an OCI runtime has as well.
pub(crate) fn shared() -> &'static [Verb] {
    containers::SHARED
}

/// All verbs, in the order of the help.
pub(crate) fn all() -> impl Iterator<Item = &'static Verb> {
    #[cfg(feature = "generate")]
    return tables().chain([
        &build::VERB,
        &serve::VERB,
        &monitor::VERB,
        &capture::VERB,
        &pin::VERB,
        &build::STEP,
        &generate::VERB,
    ]);
    #[cfg(not(feature = "generate"))]
    tables().chain([
        &build::VERB,
        &serve::VERB,
        &monitor::VERB,
        &capture::VERB,
        &pin::VERB,
        &build::STEP,
    ])
}

fn tables() -> impl Iterator<Item = &'static Verb> {
    let tables = [oci(), images(), containers()];
    tables.into_iter().flatten()
}

/// The verb of that name, as the help shows it.
pub(crate) fn find(name: &str) -> Option<&'static Verb> {
    let named = || all().filter(|verb| verb.name == name);
    named().find(|verb| !verb.hidden).or_else(|| named().next())
}

/// The verb that these words are for: some names have two, an OCI runtime's and the people's.
pub(crate) fn choose(name: &str, words: &[String]) -> Option<&'static Verb> {
    match name {
        "run" if form::of_run(words, &form::has_config) == form::Form::Oci => {
            oci::VERBS.iter().find(|verb| verb.name == name)
        }
        _ => find(name),
    }
}
