//! `rcrun container VERB`, as docker has it: the verbs on containers under a word of their own, which
//! never mean an OCI container; and `container prune`.

use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::filter::Filter;
use super::list::found;
use super::remove::remove;
use super::{SHARED, VERBS, all};
use crate::containers::{Status, network};
use crate::settings::Settings;
use crate::{output, report};

/// list, remove and otherwise manage containers
///
/// What follows is one of the verbs on containers, or prune, which removes all
/// containers that do not run.
#[derive(Debug, clap::Parser)]
#[command(name = "container", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Group {
    /// The verb and its words.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl crate::verbs::Run for Group {
    fn run(self, settings: &Settings) -> Result<u8> {
        let (name, words) = self
            .command
            .split_first()
            .map_or(("", &[][..]), |(n, w)| (n, w));
        let name = match name {
            "ls" | "list" => "ps",
            "remove" => "rm",
            "prune" => return prune(settings, words),
            // It is both: here it is about containers.
            "inspect" => return Err(Error::invalid("write `rcrun inspect --type container`")),
            other => other,
        };
        let verb = SHARED.iter().chain(VERBS).find(|verb| verb.name == name);
        let unknown = || Error::invalid(format!("there is no verb {name:?} on containers"));
        let verb = verb
            .filter(|verb| verb.name != "container")
            .ok_or_else(unknown)?;
        verb.behind(words, settings)
    }
}

/// remove all containers that do not run
#[derive(Debug, clap::Parser)]
#[command(name = "prune", disable_help_flag = true, no_binary_name = true)]
struct Prune {
    /// only those for which KEY=VALUE holds: name, id, label, ancestor, exited, before, since
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// do not ask
    #[arg(long, short)]
    force: bool,
}

fn prune(settings: &Settings, words: &[String]) -> Result<u8> {
    use clap::Parser;
    let options = Prune::try_parse_from(words)
        .map_err(|error| Error::invalid(error.to_string().lines().next().unwrap_or_default()))?;
    if !options.force {
        confirm("this removes all containers that do not run")?;
    }
    let (removed, bytes) = ended(settings, &options.filter)?;
    let mut text = String::new();
    if !removed.is_empty() {
        text += "Deleted Containers:\n";
    }
    for id in &removed {
        text += &format!("{id}\n");
    }
    text += &format!("Total reclaimed space: {}\n", crate::units::size(bytes));
    output::print(&text)?;
    Ok(0)
}

/// Asks whether to go on, at a terminal or whatever stands in for one.
pub(super) fn confirm(what: &str) -> Result<()> {
    use std::io::IsTerminal;
    report::warn(what);
    crate::progress::to_stderr("Go on? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if !std::io::stdin().is_terminal() {
        crate::progress::to_stderr("\n");
    }
    if read.is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            "nothing was removed: it was not confirmed",
        )
        .with_hint("--force does not ask"));
    }
    Ok(())
}

/// Removes containers that do not run, for which the conditions hold: their IDs, and what their changes
/// took.
pub(in crate::verbs) fn ended(
    settings: &Settings,
    filters: &[Filter],
) -> Result<(Vec<String>, u64)> {
    let Some(containers) = all(settings)? else {
        return Ok((Vec::new(), 0));
    };
    let moments = Filter::moments(filters, &containers)?;
    let store = Store::open(containers.store())?;
    let snapshots = rcrun_overlay::snapshot::Snapshots::new(&store)?;
    let (mut removed, mut bytes) = (Vec::new(), 0);
    let all = found(&containers)?.into_iter();
    let ended = all.filter(|one| {
        matches!(one.status, Status::Exited(_)) && Filter::all_hold(filters, &moments, one)
    });
    report::each(ended, |one| {
        let snapshot = snapshots.open(&one.record.snapshot.parse()?);
        let used = match snapshot {
            Ok(Some(snapshot)) => snapshot.usage().map_or(0, |used| used.bytes),
            _ => 0,
        };
        match remove(&containers, &one.container, false, false) {
            // Started since.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => return Ok(()),
            other => other.context(|| format!("cannot remove container {}", one.record.name))?,
        }
        removed.push(one.record.id.clone());
        bytes += used;
        Ok(())
    })?;
    containers.sweep()?;
    network::collect(&settings.runtime.root)?;
    Ok((removed, bytes))
}
