//! `rcrun ps`, people's form: a line for each container.

use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::snapshot::{Form, Snapshots};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::Result;
use serde::Serialize;

use super::all;
use super::filter::{Filter, network};
use super::port;
use crate::containers::{Container, Containers, Exit, Record, Status, network as bridge, short};
use crate::format::{self, Column, Format};
use crate::settings::Settings;
use crate::{output, units};
use rcrun_network::Port;

/// list containers
///
/// Fields: ID, Image, ImageID, Command, CreatedAt, RunningFor, State, Status,
/// Names, Labels, Mounts, LocalVolumes, Networks, Ports; with --size also Size,
/// SizeBytes, VirtualBytes.
#[derive(Debug, clap::Parser)]
#[command(name = "ps", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct List {
    /// also those that do not run
    #[arg(long, short)]
    all: bool,
    /// only those for which KEY=VALUE holds: name, id, status, label, ancestor, exited, before, since, volume,
    /// network, health, publish, expose, is-task
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    #[arg(long, value_name = "FORMAT", help = format::HELP, default_value = "table")]
    format: Format,
    /// the last so many that were made, in whatever state
    #[arg(long, short = 'n', value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// the last one that was made, in whatever state
    #[arg(long, short)]
    latest: bool,
    /// whole identifiers and commands
    #[arg(long)]
    no_trunc: bool,
    /// only identifiers
    #[arg(long, short)]
    quiet: bool,
    /// also what containers take: what they changed, and with their image's files
    #[arg(long, short)]
    size: bool,
}

/// A line, with docker's names.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created_at: String,
    running_for: String,
    state: &'static str,
    status: String,
    names: String,
    labels: String,
    mounts: String,
    local_volumes: usize,
    networks: String,
    ports: String,
    size: String,
    size_bytes: u64,
    virtual_bytes: u64,
}

const COLUMNS: [Column; 8] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
    ("SIZE", "Size"),
];

/// How much of a command is shown.
const COMMAND: usize = 20;
/// How much of a volume's name is shown.
const VOLUME: usize = 15;

/// A container and how it stands.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) container: Container,
    pub(super) record: Record,
    pub(super) status: Status,
}

impl crate::verbs::Run for List {
    fn run(self, settings: &Settings) -> Result<u8> {
        let mut found = match all(settings)? {
            Some(containers) => self.found(&containers)?,
            None => Vec::new(),
        };
        let last = if self.latest { Some(1) } else { self.last };
        if let Some(count) = last.and_then(|count| usize::try_from(count).ok()) {
            found.truncate(count);
        }
        let measured = self.format.names(&["Size", "SizeBytes", "VirtualBytes"]);
        let store = match (self.size || measured) && !self.quiet && !found.is_empty() {
            true => Some(settings.store()?),
            false => None,
        };
        let rows: Result<Vec<Row>> = found
            .iter()
            .map(|one| self.row(one, store.as_ref()))
            .collect();
        let rows = rows?;
        let shown = if self.size {
            COLUMNS.len()
        } else {
            COLUMNS.len() - 1
        };
        let text = match self.quiet {
            true => rows.iter().map(|row| format!("{}\n", row.id)).collect(),
            false => format::render(&rows, &self.format, &COLUMNS[..shown])?,
        };
        output::print(&text)?;
        Ok(0)
    }
}

impl List {
    /// Those that are to be shown, newest first.
    fn found(&self, containers: &Containers) -> Result<Vec<Found>> {
        let all = found(containers)?;
        let moments = Filter::moments(&self.filter, containers)?;
        let status_given = self.filter.iter().any(Filter::is_about_status);
        let any = self.all || self.latest || self.last.is_some() || status_given;
        Ok(all
            .into_iter()
            .filter(|one| any || matches!(one.status, Status::Running(_) | Status::Paused(_)))
            .filter(|one| Filter::all_hold(&self.filter, &moments, one))
            .collect())
    }

    fn row(&self, one: &Found, store: Option<&Store>) -> Result<Row> {
        let record = &one.record;
        let id = |id: &str| match self.no_trunc {
            true => id.to_owned(),
            false => short(id).to_owned(),
        };
        let config = record.image.config.as_str();
        let config = config.split_once(':').map_or(config, |(_, digits)| digits);
        let labels = record
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let taken = store.map(|store| size(store, record)).transpose()?;
        let (own, whole) = taken.unwrap_or_default();
        let volumes = record.volumes.iter().map(|volume| match self.no_trunc {
            true => volume.name.clone(),
            false => volume.name.chars().take(VOLUME).collect(),
        });
        Ok(Row {
            id: id(&record.id),
            image: record.image.name.clone(),
            image_id: id(config),
            command: command(&record.command, self.no_trunc),
            created_at: record.created.clone(),
            running_for: since(&record.created),
            state: one.status.as_str(),
            status: status(&one.status, &one.started()),
            names: record.name.clone(),
            labels: labels.collect::<Vec<_>>().join(","),
            mounts: volumes.collect::<Vec<_>>().join(","),
            local_volumes: record.volumes.len(),
            networks: network(one).unwrap_or_default(),
            ports: port::summary(&one.ports()),
            size: match taken {
                Some(_) => format!("{} (virtual {})", units::size(own), units::size(whole)),
                None => String::new(),
            },
            size_bytes: own,
            virtual_bytes: whole,
        })
    }
}

/// What a container changed, and what it sees in all. Of one whose files are a copy both are the same.
fn size(store: &Store, record: &Record) -> Result<(u64, u64)> {
    let Some(snapshot) = Snapshots::new(store)?.open(&record.snapshot.parse()?)? else {
        return Ok((0, 0));
    };
    let own = snapshot.usage()?.bytes;
    if snapshot.record().form == Form::Copy {
        return Ok((own, own));
    }
    let layers = Layers::new(store)?;
    let mut whole = own;
    for id in &snapshot.record().layers {
        whole += layers.get(id)?.map_or(0, |layer| layer.record.size);
    }
    Ok((own, whole))
}

/// All containers, newest first. One whose record cannot be read is told of, not shown.
pub(super) fn found(containers: &Containers) -> Result<Vec<Found>> {
    let broken = &mut |id: &str, error: rcrun_runtime::error::Error| {
        tracing::warn!("container {}: {}", short(id), error.chain());
    };
    let mut all = Vec::new();
    for (container, record) in containers.list(broken)? {
        match container.status(&record) {
            Ok(status) => all.push(Found {
                container,
                record,
                status,
            }),
            Err(error) => broken(&record.id, error),
        }
    }
    Ok(all)
}

impl Found {
    /// Ports of the host that lead to it at this moment.
    pub(super) fn ports(&self) -> Vec<Port> {
        match self.status.pid().map(|_| bridge::attached(&self.record)) {
            Some(Ok(Some(attached))) => attached.ports,
            _ => Vec::new(),
        }
    }

    /// When it was started, if it runs: then the runtime's record is of the same age.
    pub(super) fn started(&self) -> Option<String> {
        self.status.pid()?;
        let state = self.record.runtime().state(self.container.id());
        state.ok().map(|state| state.created)
    }
}

fn command(words: &[String], whole: bool) -> String {
    let text = format::printable(&words.join(" "));
    match text.char_indices().nth(COMMAND) {
        Some(_) if !whole => {
            let shown: String = text.chars().take(COMMAND - 1).collect();
            format!("\"{shown}…\"")
        }
        _ => format!("\"{text}\""),
    }
}

fn since(moment: &str) -> String {
    units::parse_rfc3339(moment).map_or_else(String::new, |then| units::ago(then, units::now()))
}

/// Docker's words for how a container stands.
fn status(status: &Status, started: &Option<String>) -> String {
    let up = || {
        let ago = started.as_deref().map(since).unwrap_or_default();
        format!("Up {}", ago.strip_suffix(" ago").unwrap_or(&ago))
    };
    match status {
        Status::Created => "Created".to_owned(),
        Status::Running(_) => up(),
        Status::Paused(_) => format!("{} (Paused)", up()),
        Status::Exited(Some(exit)) => exited(exit),
        // The machine or the monitor ended first.
        Status::Exited(None) => "Exited (unknown)".to_owned(),
    }
}

fn exited(exit: &Exit) -> String {
    let oom = if exit.oom { " (OOM killed)" } else { "" };
    let code = exit.code;
    format!("Exited ({code}) {}{oom}", since(&exit.finished_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (text, whole, expected) in [
            ("sh", false, "\"sh\""),
            ("12345678901234567890", false, "\"12345678901234567890\""),
            ("123456789012345678901", false, "\"1234567890123456789…\""),
            ("123456789012345678901", true, "\"123456789012345678901\""),
            ("a\u{1b}[2J", false, "\"a\\u{1b}[2J\""),
        ] {
            assert_eq!(command(&words(text), whole), expected);
        }
    }

    #[test]
    fn how_it_stands() {
        let ago = |seconds: u64| units::rfc3339(units::now() - seconds);
        let started = Some(ago(180));
        let exit = |code, oom| {
            let text = format!(
                r#"{{"version":1,"code":{code},"signal":null,"oom":{oom},"finished_at":"{}"}}"#,
                ago(180)
            );
            Status::Exited(Some(serde_json::from_str(&text).unwrap()))
        };
        for (stands, expected) in [
            (Status::Created, "Created"),
            (Status::Running(1), "Up 3 minutes"),
            (Status::Paused(1), "Up 3 minutes (Paused)"),
            (exit(0, false), "Exited (0) 3 minutes ago"),
            (exit(137, true), "Exited (137) 3 minutes ago (OOM killed)"),
            (Status::Exited(None), "Exited (unknown)"),
        ] {
            assert_eq!(status(&stands, &started), expected);
        }
    }
}
