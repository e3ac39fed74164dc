//! The verbs on containers that were made from images, with docker's names and habits.

mod attach;
mod cp;
mod diff;
mod disconnect;
mod exec;
mod filter;
pub(super) mod group;
pub(super) mod inspect;
mod kill;
mod list;
mod logs;
mod pause;
mod port;
mod remove;
mod rename;
pub(super) mod run;
mod start;
mod stats;
mod stop;
mod top;
pub(super) mod volume;
mod wait;

use rcrun_runtime::error::{Error, ErrorKind, Result};

use super::{Count, Verb};
use crate::containers::{Container, Containers, Record};
use crate::settings::Settings;

const NAMES: &str = "CONTAINER...

CONTAINER is a name, an ID, or the beginning of one.";

/// The rows, in the order of the help.
pub(super) const VERBS: &[Verb] = &[
    Verb::people::<attach::Attach>("attach", Count::Exactly(1), "CONTAINER"),
    Verb::people::<group::Group>("container", Count::AtLeast(1), "VERB ...").enters_container(),
    Verb::people::<cp::Copy>("cp", Count::Exactly(2), cp::USAGE),
    Verb::people::<diff::Diff>("diff", Count::Between(1, 2), "CONTAINER  ||  IMAGE IMAGE"),
    Verb::people::<disconnect::Disconnect>("disconnect", Count::Exactly(1), "ID").hidden(),
    Verb::people::<logs::Logs>("logs", Count::Exactly(1), "CONTAINER"),
    Verb::people::<port::Ports>("port", Count::Between(1, 2), port::USAGE),
    Verb::people::<start::Restart>("restart", Count::AtLeast(1), NAMES),
    Verb::people::<remove::Remove>("rm", Count::AtLeast(1), NAMES),
    Verb::people::<rename::Rename>("rename", Count::Exactly(2), "CONTAINER NAME"),
    Verb::people::<run::RunImage>("run", Count::AtLeast(1), run::USAGE).fails_as("", 125),
    Verb::people::<stats::Stats>("stats", Count::AtLeast(0), "[CONTAINER...]"),
    Verb::people::<stop::Stop>("stop", Count::AtLeast(1), NAMES),
    Verb::people::<top::Top>("top", Count::AtLeast(1), "CONTAINER [ps options]"),
    Verb::people::<pause::Unpause>("unpause", Count::AtLeast(1), NAMES),
    Verb::people::<volume::Group>("volume", Count::AtLeast(1), volume::USAGE),
    Verb::people::<wait::Wait>("wait", Count::AtLeast(1), NAMES),
];

/// Rows of words that OCI verbs have as well: see [`super::dispatch`].
pub(super) const SHARED: &[Verb] = &[
    Verb::people::<remove::Remove>("delete", Count::AtLeast(1), NAMES),
    Verb::people::<exec::Exec>("exec", Count::AtLeast(2), exec::USAGE).enters_container(),
    Verb::people::<kill::Kill>("kill", Count::AtLeast(1), NAMES),
    Verb::people::<pause::Pause>("pause", Count::AtLeast(1), NAMES),
    Verb::people::<list::List>("ps", Count::Exactly(0), ""),
    Verb::people::<pause::Unpause>("resume", Count::AtLeast(1), NAMES),
    Verb::people::<start::Start>("start", Count::AtLeast(1), NAMES),
];

/// The store's containers; none if there never were any.
fn all(settings: &Settings) -> Result<Option<Containers>> {
    Containers::existing(&settings.store_path()?)
}

/// The container that is meant.
fn get(settings: &Settings, name: &str) -> Result<(Containers, Container)> {
    let Some(containers) = all(settings)? else {
        return Err(no_such(name));
    };
    let container = containers.get(name)?;
    Ok((containers, container))
}

/// The same with its record.
fn get_with_record(settings: &Settings, name: &str) -> Result<(Containers, Container, Record)> {
    let (containers, container) = get(settings, name)?;
    // Removed since it was found.
    let record = container.record()?.ok_or_else(|| no_such(name))?;
    Ok((containers, container, record))
}

fn no_such(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such container: {name}"))
}

/// A verb on a container that does not run.
fn not_running(name: &str) -> Error {
    let text = format!("container {name} is not running");
    Error::new(ErrorKind::FailedPrecondition, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parser_is_consistent_and_has_a_help_line() {
        for verb in VERBS.iter().chain(SHARED) {
            let command = (verb.command)();
            assert!(command.get_about().is_some(), "{}", verb.name);
            for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
                assert!(argument.get_help().is_some(), "{argument}");
            }
            command.debug_assert();
        }
    }

    #[test]
    fn words_with_two_meanings_are_in_both_tables() {
        for verb in SHARED {
            let oci = super::super::oci::VERBS;
            assert!(
                oci.iter().any(|other| other.name == verb.name),
                "{}",
                verb.name
            );
            assert!(
                VERBS.iter().all(|other| other.name != verb.name),
                "{}",
                verb.name
            );
        }
    }
}
