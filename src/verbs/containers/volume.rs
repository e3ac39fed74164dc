//! `rcrun volume VERB`: volumes by name, with docker's habits.

use std::collections::BTreeMap;

use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::containers::spec::words;
use crate::containers::volumes::{self, Record, User, Volume, Volumes};
use crate::containers::{Containers, random_id};
use crate::format::{self, Column, Format};
use crate::settings::Settings;
use crate::verbs::{Count, Verb};
use crate::{output, report, units};

pub(super) const USAGE: &str = "create|inspect|ls|prune|rm ...

`rcrun volume VERB --help` tells more of each.";

/// The verbs behind `volume`.
const VERBS: &[Verb] = &[
    Verb::people::<Create>("volume create", Count::Between(0, 1), "[NAME]"),
    Verb::people::<Inspect>("volume inspect", Count::AtLeast(1), "NAME..."),
    Verb::people::<List>("volume ls", Count::Exactly(0), ""),
    Verb::people::<Prune>("volume prune", Count::Exactly(0), ""),
    Verb::people::<Remove>("volume rm", Count::AtLeast(1), "NAME..."),
];

/// manage volumes, which outlive containers
///
/// `rcrun run -v NAME:/path` makes one too. An empty volume gets what the image
/// has at that path, with owners and modes. A volume without a name (`-v /path`,
/// or declared by the image) gets a random one, and goes with its container by
/// `rm -v` and `run --rm`.
#[derive(Debug, clap::Parser)]
#[command(name = "volume", disable_help_flag = true, verbatim_doc_comment)]
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
            "list" => "ls",
            "remove" => "rm",
            other => other,
        };
        let is = |verb: &&Verb| verb.name.strip_prefix("volume ") == Some(name);
        let verb = VERBS.iter().find(is);
        let unknown = || Error::invalid(format!("there is no verb {name:?} on volumes"));
        let verb = verb.ok_or_else(unknown)?;
        verb.behind(words, settings)
    }
}

/// make a volume
///
/// Making one that exists is no error. Without a name it gets a random one.
#[derive(Debug, clap::Parser)]
#[command(name = "create", disable_help_flag = true, verbatim_doc_comment)]
struct Create {
    /// label of the volume
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// local is what there is
    #[arg(long, short, value_name = "DRIVER", default_value = "local", value_parser = ["local"])]
    driver: String,
    name: Option<String>,
}

impl crate::verbs::Run for Create {
    fn run(self, settings: &Settings) -> Result<u8> {
        let labels = self.label.iter().map(|text| words::label(text));
        let labels: BTreeMap<String, String> = labels.collect::<Result<_>>()?;
        let anonymous = self.name.is_none();
        let name = self.name.map_or_else(random_id, Ok)?;
        volumes::check_name(&name)?;
        Volumes::open(&settings.store()?)?.make(&name, &labels, anonymous)?;
        output::print(&format!("{name}\n"))?;
        Ok(0)
    }
}

/// A volume, and who uses it.
struct Found {
    volume: Volume,
    record: Record,
    users: Vec<User>,
}

/// All volumes, by name. One whose record cannot be read is told of, not shown.
fn found(store: &Store, volumes: &Volumes) -> Result<Vec<Found>> {
    let users = match Containers::existing(store.path())? {
        Some(containers) => containers.volume_users()?,
        None => BTreeMap::new(),
    };
    found_with(volumes, users)
}

/// The same, to look at only: a container whose record cannot be read is told of.
fn found_to_show(store: &Store, volumes: &Volumes) -> Result<Vec<Found>> {
    let users = match Containers::existing(store.path())? {
        Some(containers) => containers.volume_users().unwrap_or_else(|error| {
            report::warn(&error.chain().to_string());
            BTreeMap::new()
        }),
        None => BTreeMap::new(),
    };
    found_with(volumes, users)
}

fn found_with(volumes: &Volumes, mut users: BTreeMap<String, Vec<User>>) -> Result<Vec<Found>> {
    let all = volumes.list(&mut |_, error| report::warn(&error.chain().to_string()))?;
    let all = all.into_iter().map(|(volume, record)| Found {
        users: users.remove(volume.name()).unwrap_or_default(),
        volume,
        record,
    });
    Ok(all.collect())
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Dangling(bool),
    Driver(String),
    Label(String),
    NoLabel(String),
    Name(String),
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("it is not KEY=VALUE")?;
        match key {
            "dangling" => crate::arguments::switch(value)
                .map(Self::Dangling)
                .ok_or_else(|| "dangling is true or false".into()),
            "driver" => Ok(Self::Driver(value.into())),
            "label" => Ok(Self::Label(value.into())),
            "label!" => Ok(Self::NoLabel(value.into())),
            "name" => Ok(Self::Name(value.into())),
            _ => Err("there is dangling, driver, label, label! and name".into()),
        }
    }
}

impl Filter {
    fn holds(&self, record: &Record, used: bool) -> bool {
        let has = |text: &str| match text.split_once('=') {
            Some((name, value)) => record.labels.get(name).is_some_and(|found| found == value),
            None => record.labels.contains_key(text),
        };
        match self {
            Self::Dangling(wanted) => *wanted != used,
            Self::Driver(name) => name == "local",
            Self::Label(text) => has(text),
            Self::NoLabel(text) => !has(text),
            Self::Name(part) => record.name.contains(part),
        }
    }

    /// Names and drivers are alternatives, all else has to hold.
    fn all_hold(filters: &[Self], record: &Record, used: bool) -> bool {
        let alternatives: [fn(&Self) -> bool; 2] = [
            |filter| matches!(filter, Self::Name(_)),
            |filter| matches!(filter, Self::Driver(_)),
        ];
        let any = |is: &fn(&Self) -> bool| {
            let mut same = filters.iter().filter(|filter| is(filter)).peekable();
            same.peek().is_none() || same.any(|filter| filter.holds(record, used))
        };
        let others = filters.iter();
        let mut others = others.filter(|filter| !alternatives.iter().any(|is| is(filter)));
        alternatives.iter().all(any) && others.all(|filter| filter.holds(record, used))
    }
}

/// list volumes
///
/// Fields: Driver, Name, CreatedAt, Labels, Links, Mountpoint, Scope, Size, Bytes.
#[derive(Debug, clap::Parser)]
#[command(name = "ls", disable_help_flag = true, verbatim_doc_comment)]
struct List {
    /// only those for which KEY=VALUE holds: dangling=BOOL, driver, label, label!, name
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    #[arg(long, value_name = "FORMAT", help = format::HELP, default_value = "table")]
    format: Format,
    /// only names
    #[arg(long, short)]
    quiet: bool,
}

/// A line, with docker's names.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    driver: &'static str,
    name: String,
    created_at: String,
    labels: String,
    links: usize,
    mountpoint: String,
    scope: &'static str,
    size: String,
    bytes: u64,
}

const COLUMNS: [Column; 2] = [("DRIVER", "Driver"), ("VOLUME NAME", "Name")];

impl crate::verbs::Run for List {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let about_use = |filter: &Filter| matches!(filter, Filter::Dangling(_));
        let mut all = match Volumes::existing(&store)? {
            Some(volumes) if self.filter.iter().any(about_use) => found(&store, &volumes)?,
            Some(volumes) => found_to_show(&store, &volumes)?,
            None => Vec::new(),
        };
        all.retain(|one| Filter::all_hold(&self.filter, &one.record, !one.users.is_empty()));
        let text = match self.quiet {
            true => all
                .iter()
                .map(|one| format!("{}\n", one.record.name))
                .collect(),
            false => {
                let measured = self.format != Format::Table;
                let rows = all.iter().map(|one| row(one, measured));
                format::render(&rows.collect::<Result<Vec<_>>>()?, &self.format, &COLUMNS)?
            }
        };
        output::print(&text)?;
        Ok(0)
    }
}

fn row(one: &Found, measured: bool) -> Result<Row> {
    // A table does not show it.
    let bytes = if measured { one.volume.size()? } else { 0 };
    let record = &one.record;
    let labels = record
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    Ok(Row {
        driver: "local",
        name: record.name.clone(),
        created_at: record.created.clone(),
        labels: labels.collect::<Vec<_>>().join(","),
        links: one.users.len(),
        mountpoint: one.volume.mountpoint().display().to_string(),
        scope: "local",
        size: units::size(bytes),
        bytes,
    })
}

/// show everything about volumes
#[derive(Debug, clap::Parser)]
#[command(name = "inspect", disable_help_flag = true)]
struct Inspect {
    /// print an array of objects, 'json' (an object per line), or by fields: '{Name} {Mountpoint}'
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<Format>,
    #[arg(required = true)]
    names: Vec<String>,
}

/// A volume, in docker's shape.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    created_at: String,
    driver: &'static str,
    labels: BTreeMap<String, String>,
    mountpoint: String,
    name: String,
    options: BTreeMap<String, String>,
    scope: &'static str,
    anonymous: bool,
}

impl crate::verbs::Run for Inspect {
    fn run(self, settings: &Settings) -> Result<u8> {
        let volumes = Volumes::existing(&settings.store()?)?;
        let mut all = Vec::new();
        let failed = report::each(&self.names, |name| {
            let found = volumes.as_ref().map(|volumes| volumes.get(name));
            let volume = found.transpose()?.flatten();
            let volume = volume.ok_or_else(|| volumes::no_such(name))?;
            let record = volume.record()?.ok_or_else(|| volumes::no_such(name))?;
            all.push(Shown {
                created_at: record.created,
                driver: "local",
                labels: record.labels,
                mountpoint: volume.mountpoint().display().to_string(),
                name: record.name,
                options: BTreeMap::new(),
                scope: "local",
                anonymous: record.anonymous,
            });
            Ok(())
        });
        let text = match self.format {
            None | Some(Format::Table) => output::json_indented(&all, "    ")? + "\n",
            Some(format) => format::render(&all, &format, &[])?,
        };
        output::print(&text)?;
        failed.map(|()| 0)
    }
}

/// remove volumes that no container uses
#[derive(Debug, clap::Parser)]
#[command(name = "rm", disable_help_flag = true)]
struct Remove {
    /// one that does not exist is no error; one that is in use stays all the same
    #[arg(long, short)]
    force: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Remove {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let volumes = Volumes::existing(&store)?;
        let containers = Containers::open(store.path())?;
        report::each(&self.names, |name| {
            let removed = match &volumes {
                Some(volumes) => containers.remove_volume(volumes, name)?,
                None => false,
            };
            match removed || self.force {
                true => output::print(&format!("{name}\n")),
                false => Err(volumes::no_such(name)),
            }
        })?;
        Ok(0)
    }
}

/// remove volumes without a name that no container uses
#[derive(Debug, clap::Parser)]
#[command(name = "prune", disable_help_flag = true)]
struct Prune {
    /// also those that somebody gave a name
    #[arg(long, short)]
    all: bool,
    /// only those for which KEY=VALUE holds: label, label!
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// do not ask
    #[arg(long, short)]
    force: bool,
}

impl crate::verbs::Run for Prune {
    fn run(self, settings: &Settings) -> Result<u8> {
        let is_label = |filter: &Filter| matches!(filter, Filter::Label(_) | Filter::NoLabel(_));
        if !self.filter.iter().all(is_label) {
            return Err(Error::invalid("--filter: there is label and label!"));
        }
        if !self.force {
            let what = match self.all {
                true => "all volumes that no container uses",
                false => "all volumes without a name that no container uses",
            };
            super::group::confirm(&format!("this removes {what}"))?;
        }
        let (removed, bytes) = unused(&settings.store()?, self.all, &self.filter)?;
        let mut text = String::new();
        if !removed.is_empty() {
            text += "Deleted Volumes:\n";
        }
        for name in &removed {
            text += &format!("{name}\n");
        }
        text += &format!("Total reclaimed space: {}\n", units::size(bytes));
        output::print(&text)?;
        Ok(0)
    }
}

/// Removes volumes that no container uses, those without a name or all: their names, and what they took.
fn unused(store: &Store, named: bool, filters: &[Filter]) -> Result<(Vec<String>, u64)> {
    let (mut removed, mut bytes) = (Vec::new(), 0);
    let Some(volumes) = Volumes::existing(store)? else {
        return Ok((removed, bytes));
    };
    let containers = Containers::open(store.path())?;
    let all = found(store, &volumes)?.into_iter();
    let unused = all.filter(|one| {
        one.users.is_empty()
            && (named || one.record.anonymous)
            && Filter::all_hold(filters, &one.record, false)
    });
    report::each(unused, |one| {
        let size = one.volume.size()?;
        match containers.remove_volume(&volumes, &one.record.name) {
            Ok(true) => {
                removed.push(one.record.name);
                bytes += size;
                Ok(())
            }
            Ok(false) => Ok(()),
            // In use by now.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => Ok(()),
            Err(error) => Err(error),
        }
    })?;
    volumes.sweep()?;
    Ok((removed, bytes))
}

/// The volumes without a name that no container uses are removed: their names, and what they took.
pub(in crate::verbs) fn anonymous(store: &Store) -> Result<(Vec<String>, u64)> {
    unused(store, false, &[])
}

/// How many volumes there are, how many of them containers use, and what all and the unused ones take.
pub(in crate::verbs) fn totals(store: &Store) -> Result<[u64; 4]> {
    let mut totals = [0; 4];
    if let Some(volumes) = Volumes::existing(store)? {
        for one in found(store, &volumes)? {
            let size = one.volume.size()?;
            totals[0] += 1;
            totals[2] += size;
            match one.users.is_empty() {
                true => totals[3] += size,
                false => totals[1] += 1,
            }
        }
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parser_is_consistent_and_has_a_help_line() {
        for verb in VERBS {
            let command = (verb.command)();
            assert!(command.get_about().is_some(), "{}", verb.name);
            for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
                assert!(argument.get_help().is_some(), "{argument}");
            }
            command.debug_assert();
        }
    }

    #[test]
    fn filters() {
        let record: Record = serde_json::from_str(
            r#"{"version":1,"name":"data-1","created":"","labels":{"a":"b","c":""}}"#,
        )
        .unwrap();
        for (filters, used, expected) in [
            (&[][..], true, true),
            (&["dangling=true"], true, false),
            (&["dangling=false"], true, true),
            (&["dangling=1"], false, true),
            (&["name=ata"], true, true),
            (&["name=x", "name=data"], true, true),
            (&["name=x", "driver=local"], true, false),
            (&["driver=nfs"], true, false),
            (&["label=a"], true, true),
            (&["label=a=b", "label=c"], true, true),
            (&["label=a", "label=d"], true, false),
            (&["label!=a"], true, false),
            (&["label!=a=x"], true, true),
        ] {
            let parsed: Vec<Filter> = filters.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(
                Filter::all_hold(&parsed, &record, used),
                expected,
                "{filters:?}"
            );
        }
        for text in ["name", "colour=red", "dangling=perhaps", ""] {
            text.parse::<Filter>().unwrap_err();
        }
    }
}
