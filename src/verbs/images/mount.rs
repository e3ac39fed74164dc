//! `rcrun mount` and `rcrun unmount`.

use std::path::{Path, PathBuf};

use rcrun_overlay::snapshot::{Mounted, Snapshots, mounts_here, unmount};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use serde::Serialize;

use crate::containers::{Containers, short};
use crate::format::{self, Column, Format};
use crate::images::mounts;
use crate::settings::Settings;
use crate::{output, report, rootless};

pub(super) const USAGE: &str = "[IMAGE|CONTAINER DIRECTORY]

Without arguments: what is mounted.";

/// show the files of an image or a container in a directory
///
/// They can be read only. What a container that runs changes meanwhile may be
/// seen or not. An image stays as long as it is mounted.
/// Fields: ID, Name, Path, Mode.
#[derive(Debug, clap::Parser)]
#[command(name = "mount", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Mount {
    #[arg(long, value_name = "FORMAT", default_value = "table", help = format::HELP)]
    format: Format,
    /// whole identifiers
    #[arg(long)]
    no_trunc: bool,
    /// only something of this type: container or image
    #[arg(long, value_name = "TYPE", value_parser = ["container", "image"])]
    r#type: Option<String>,
    /// for writing too: a container that does not run, and then cannot be started
    #[arg(long, short)]
    writable: bool,
    name: Option<String>,
    directory: Option<PathBuf>,
}

/// A line.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    path: String,
    mode: &'static str,
}

const COLUMNS: [Column; 4] = [
    ("ID", "ID"),
    ("NAME", "Name"),
    ("MODE", "Mode"),
    ("PATH", "Path"),
];

impl crate::verbs::Run for Mount {
    fn run(self, settings: &Settings) -> Result<u8> {
        match (&self.name, &self.directory) {
            (None, _) => self.list(settings)?,
            (Some(name), Some(directory)) => {
                self.mount(settings, name, directory)
                    .context(|| format!("cannot mount {name}"))?;
                output::print(&format!("{}\n", directory.display()))?;
            }
            (Some(name), None) => {
                return Err(
                    Error::invalid(format!("cannot mount {name}: it is not said where"))
                        .with_hint(format!("`rcrun mount {name} DIRECTORY`")),
                );
            }
        }
        Ok(0)
    }
}

impl Mount {
    fn mount(&self, settings: &Settings, name: &str, at: &Path) -> Result<()> {
        if rootless::has_entered() {
            let text = "what an ordinary user mounts is seen in that user's namespaces only";
            return Err(Error::new(ErrorKind::FailedPrecondition, text).with_hint(
                "call `rcrun unshare` first: it is seen in that shell until that ends",
            ));
        }
        let store = settings.store()?;
        if self.r#type.as_deref() != Some("image")
            && let Some(containers) = Containers::existing(store.path())?
            && let Some(container) = containers.find(name)?
        {
            let record = container.complete()?;
            // Nobody starts or removes it until it is mounted.
            let _lock = container.lock()?;
            let snapshot = mounts::of_container(&store, &record)?;
            if self.writable {
                if container.status(&record)?.is_alive() {
                    let text = "the container runs, so it can be mounted for reading only";
                    return Err(Error::new(ErrorKind::FailedPrecondition, text));
                }
                // Two of them would not know of each other's changes.
                mounts::refuse_writable(snapshot.id())?;
            }
            return snapshot.mount_at(at, !self.writable);
        }
        if self.r#type.as_deref() == Some("container") {
            let text = format!("no such container: {name}");
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        if self.writable {
            return Err(Error::invalid("an image can be mounted for reading only"));
        }
        mounts::mount_image(&store, name, at)
    }

    fn list(&self, settings: &Settings) -> Result<()> {
        let store = settings.store()?;
        let mut rows = Vec::new();
        for one in mounts_here()? {
            let Some((id, name)) = whose(&store, &one)? else {
                continue;
            };
            let id = match self.no_trunc {
                true => id,
                false => short(id.strip_prefix("sha256:").unwrap_or(&id)).to_owned(),
            };
            rows.push(Row {
                id,
                name,
                path: one.path.display().to_string(),
                mode: if one.read_only { "ro" } else { "rw" },
            });
        }
        output::print(&format::render(&rows, &self.format, &COLUMNS)?)
    }
}

/// Identifier and name of what is mounted; none if it is not of this store.
fn whose(store: &Store, one: &Mounted) -> Result<Option<(String, String)>> {
    let Some(id) = &one.id else {
        return Ok(None);
    };
    if mounts::is_image(id) {
        let snapshot = Snapshots::new(store)?.open(id)?;
        return Ok(snapshot.as_ref().map(mounts::image_of));
    }
    let containers = Containers::existing(store.path())?;
    let found = match &containers {
        Some(containers) => containers.find_whole(id.as_str())?,
        None => None,
    };
    let record = found.map(|found| found.record()).transpose()?.flatten();
    Ok(record.map(|record| (record.id, record.name)))
}

pub(super) const WHAT: &str = "DIRECTORY|NAME...

NAME is a container or an image, which is unmounted wherever it is mounted.";

/// take away what `rcrun mount` showed
#[derive(Debug, clap::Parser)]
#[command(name = "unmount", disable_help_flag = true)]
pub(crate) struct Unmount {
    /// what is in use too: nobody can open anything in it any more
    #[arg(long, short)]
    lazy: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Unmount {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        report::each(&self.names, |name| {
            for one in meant(&store, name)? {
                unmount(&one.path, self.lazy)?;
                if let Some(id) = &one.id {
                    mounts::release(&store, id)?;
                }
                output::print(&format!("{}\n", one.path.display()))?;
            }
            Ok(())
        })?;
        Ok(0)
    }
}

/// What is to be unmounted, the last mount first.
fn meant(store: &Store, name: &str) -> Result<Vec<Mounted>> {
    let mut all = mounts_here()?;
    all.reverse();
    let path = std::fs::canonicalize(name);
    if let Some(one) = all
        .iter()
        .find(|one| path.as_ref().is_ok_and(|path| *path == one.path))
    {
        return Ok(vec![one.clone()]);
    }
    let container = match Containers::existing(store.path())? {
        Some(containers) => containers.find(name)?,
        None => None,
    };
    let image = mounts::image_named(store, name);
    let mut found = Vec::new();
    for one in all {
        let is = match (&container, &one.id) {
            (Some(container), Some(id)) => container.id() == id.as_str(),
            (None, Some(id)) if mounts::is_image(id) => {
                let snapshot = Snapshots::new(store)?.open(id)?;
                snapshot.is_some_and(|snapshot| mounts::is_of(&snapshot, name, image.as_ref()))
            }
            _ => false,
        };
        if is {
            found.push(one);
        }
    }
    match path {
        _ if !found.is_empty() => Ok(found),
        // Refused there, with the reason.
        Ok(path) => Ok(vec![Mounted {
            id: None,
            path,
            read_only: true,
        }]),
        Err(_) => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "cannot unmount {name}: no such directory, and nothing of that name is mounted"
            ),
        )),
    }
}
