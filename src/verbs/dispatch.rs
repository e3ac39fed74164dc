//! One word, two verbs: what people do to containers made from images, and what engines do to those
//! of an OCI runtime.
//!
//! [`decide`] is the rule. A verb is people's if it is about a container that they made, or is
//! written in a way that no OCI verb is; all else is exactly the OCI verb, and the same for engines as
//! if there were no other. An OCI verb that people have no form of takes their names too. Where
//! there are no containers of people, finding that out is one failed open.

use std::borrow::Cow;

use clap::error::ErrorKind;
use rcrun_runtime::error::Result;

use super::{Verb, containers, flag};
use crate::arguments::{self, Flag};
use crate::containers::{Container, Containers};
use crate::settings::{GLOBAL, Global};

/// The verbs that have two forms, or take people's names for an ID.
const SHARED: &[&str] = &[
    "delete", "events", "exec", "kill", "pause", "ps", "resume", "start", "state", "update",
];

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    /// The row of the form that is meant.
    pub(crate) verb: &'static Verb,
    /// The words behind it.
    pub(crate) words: Cow<'a, [String]>,
    /// It is about what people have in a store.
    pub(crate) in_store: bool,
}

/// How the words read in both forms.
#[derive(Debug, Default)]
struct Reading {
    /// The containers that people's form would be about; none if it cannot be that.
    people: Option<Vec<String>>,
    /// It has a flag of people's, which the OCI form does not have, whatever its value.
    flagged: bool,
    /// The words that the OCI form would take for ID and what follows; none if it cannot be that.
    oci: Option<Vec<String>>,
}

/// Which form is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As for any OCI container.
    Oci,
    /// The OCI form, of a container that people made.
    OciOfPeople,
    /// People's form.
    People,
}

/// The rule.
fn decide(
    verb: &str,
    reading: &Reading,
    known: &dyn Fn(&str) -> bool,
    is_signal: &dyn Fn(&str) -> bool,
) -> Form {
    let oci = match reading.oci.as_deref().unwrap_or_default() {
        [id, ..] if known(id) => Form::OciOfPeople,
        _ => Form::Oci,
    };
    let Some(names) = &reading.people else {
        // Said wrongly, but to people's verb: that one says what is wrong.
        if reading.flagged {
            return Form::People;
        }
        // What deletes by a pattern is about no name.
        return if verb == "delete" { Form::Oci } else { oci };
    };
    match (verb, names.as_slice()) {
        // `ps` of containers names none of them.
        ("ps", _) => Form::People,
        // `kill -s TERM web`; but `kill ID TERM`.
        ("kill", _) if reading.flagged => Form::People,
        ("kill", [_, signal]) if !known(signal) && is_signal(signal) => oci,
        (_, names) if names.iter().any(|name| known(name)) => Form::People,
        _ => oci,
    }
}

/// Chooses, and translates a name for an OCI verb. `--root` becomes the container's own then.
pub(crate) fn choose<'a>(
    verb: &'static Verb,
    words: &'a [String],
    global: &mut Global,
) -> Result<Choice<'a>> {
    let unchanged = Choice {
        verb,
        words: Cow::Borrowed(words),
        in_store: verb.in_store,
    };
    if !SHARED.contains(&verb.name) || asks_for_help(words) {
        return Ok(unchanged);
    }
    let people = containers::SHARED
        .iter()
        .find(|other| other.name == verb.name);
    // A store that cannot be read is no matter of an engine's; people's verbs say so themselves.
    let found = global
        .store_path()
        .and_then(|store| Containers::existing(&store).ok().flatten());
    // Without any container only the way it is written can make it people's.
    if found.is_none() && !matches!(verb.name, "ps" | "kill") {
        return Ok(unchanged);
    }
    let reading = read(verb, people, words);
    let lookup = |name: &str| match &found {
        // `delete --force ID` of what is gone already deletes nothing else.
        Some(containers) if verb.name == "delete" => containers.find_whole(name),
        Some(containers) => meant(containers, name, global),
        None => Ok(None),
    };
    let known = |name: &str| !matches!(lookup(name), Ok(None));
    let is_signal = |text: &str| super::oci::is_signal(text);
    match (decide(verb.name, &reading, &known, &is_signal), people) {
        (Form::People, Some(people)) => Ok(Choice {
            verb: people,
            in_store: people.in_store,
            ..unchanged
        }),
        (Form::OciOfPeople, _) => {
            let name = reading.oci.unwrap_or_default().remove(0);
            let Some(container) = lookup(&name)? else {
                return Ok(unchanged);
            };
            if let Some(record) = container.record()? {
                global.use_root(&record.runtime().root);
            }
            let mut words = words.to_vec();
            if let Some(at) = position(verb, &words, &name) {
                container.id().clone_into(&mut words[at]);
            }
            let words = Cow::Owned(words);
            let in_store = true;
            Ok(Choice {
                verb,
                words,
                in_store,
            })
        }
        _ => Ok(unchanged),
    }
}

fn asks_for_help(words: &[String]) -> bool {
    words
        .first()
        .is_some_and(|word| word == "-h" || word == "--help")
}

/// The container of people that a word means. The beginning of an ID is not meant where it is the
/// whole ID of an OCI container.
fn meant(containers: &Containers, name: &str, global: &Global) -> Result<Option<Container>> {
    if let Some(container) = containers.find_whole(name)? {
        return Ok(Some(container));
    }
    let root = global
        .root()
        .unwrap_or(crate::settings::DEFAULT_ROOT.as_ref());
    match root.join(name).exists() {
        true => Ok(None),
        false => containers.find(name),
    }
}

fn read(verb: &Verb, people: Option<&Verb>, words: &[String]) -> Reading {
    let mut reading = Reading {
        oci: positional(verb, words),
        ..Reading::default()
    };
    let Some(people) = people else {
        return reading;
    };
    let line = std::iter::once(people.name).chain(words.iter().map(String::as_str));
    let parsed = (people.command)()
        .args_override_self(true)
        .try_get_matches_from(line);
    let matches = match parsed {
        Ok(matches) => matches,
        Err(error) => {
            reading.flagged = reading.oci.is_none() && error.kind() == ErrorKind::ValueValidation;
            return reading;
        }
    };
    let strings = |id| match matches.try_get_many::<String>(id) {
        Ok(Some(values)) => values.cloned().collect(),
        _ => Vec::new(),
    };
    reading.flagged = matches!(matches.try_contains_id("signal"), Ok(true))
        && matches.value_source("signal") == Some(clap::parser::ValueSource::CommandLine);
    // A command's own words are no names.
    let mut command = strings("command");
    command.truncate(1);
    reading.people = Some([strings("names"), command].concat());
    reading
}

/// What the OCI form takes for its positional arguments.
fn positional(verb: &Verb, words: &[String]) -> Option<Vec<String>> {
    let command = (verb.command)();
    let mut table: Vec<Flag<'_>> = command.get_arguments().filter_map(flag).collect();
    table.extend(GLOBAL.iter().map(|(flag, _)| *flag));
    let split = arguments::split(words, &table, verb.stop_after).ok()?;
    Some(split.positional)
}

/// Where the first positional argument stands.
fn position(verb: &Verb, words: &[String], name: &str) -> Option<usize> {
    (0..words.len()).find(|at| {
        words[*at] == name && positional(verb, &words[..*at]).is_some_and(|found| found.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(line: &str) -> Form {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let name = words.remove(0);
        let verb = super::super::find(&name).unwrap();
        let people = containers::SHARED.iter().find(|other| other.name == name);
        let known = |name: &str| ["web", "db"].contains(&name);
        let is_signal = |text: &str| super::super::oci::is_signal(text);
        decide(&name, &read(verb, people, &words), &known, &is_signal)
    }

    #[test]
    fn every_shared_word() {
        use Form::{Oci, OciOfPeople, People};
        for (line, expected) in [
            ("exec web sh", People),
            ("exec -it web sh -c ls", People),
            ("exec -e A=b -w /tmp -u app web env", People),
            ("exec abc sh", Oci),
            ("exec abc web", Oci),
            ("exec -it abc sh", Oci),
            ("exec --cap CAP_SYS_ADMIN web sh", OciOfPeople),
            ("exec --process p.json web", OciOfPeople),
            ("exec --process=web abc", Oci),
            ("exec --console-socket web abc sh", Oci),
            ("exec", Oci),
            ("kill web", People),
            ("kill web db", People),
            ("kill abc web", People),
            ("kill -s TERM web", People),
            ("kill -sTERM abc", People),
            ("kill --signal=TERM abc", People),
            ("kill web TERM", OciOfPeople),
            ("kill web 9", OciOfPeople),
            ("kill abc", Oci),
            ("kill abc 9", Oci),
            ("kill abc SIGTERM", Oci),
            ("kill --all abc", Oci),
            ("kill --all web", OciOfPeople),
            ("ps", People),
            ("ps -a", People),
            ("ps -aq --no-trunc", People),
            ("ps -n 3", People),
            ("ps --filter name=web", People),
            ("ps --filter colour=red", People),
            ("ps --colour red", Oci),
            ("ps --format json", People),
            ("ps -f name=x", People),
            ("ps abc", Oci),
            ("ps --format json abc", Oci),
            ("ps abc -ef", Oci),
            ("ps web", OciOfPeople),
            ("ps web -o pid", OciOfPeople),
            ("pause web", People),
            ("pause web db", People),
            ("pause abc", Oci),
            ("resume web", People),
            ("resume abc", Oci),
            ("start web", People),
            ("start -a web", People),
            ("start abc", Oci),
            ("delete web", People),
            ("delete --force web", People),
            ("delete -f abc", Oci),
            ("delete --regex web", Oci),
            ("state web", OciOfPeople),
            ("state abc", Oci),
            ("events --stats web", OciOfPeople),
            ("events --interval 1s abc", Oci),
            ("update --memory 1m web", OciOfPeople),
            ("update --memory web abc", Oci),
        ] {
            assert_eq!(form(line), expected, "{line}");
        }
    }

    #[test]
    fn a_name_is_found_where_it_stands() {
        let verb = super::super::find("update").unwrap();
        let words = ["--memory", "web", "web", "--pids-limit", "3"].map(str::to_owned);
        assert_eq!(position(verb, &words, "web"), Some(2));
    }
}
