//! `rcrun monitor`: the process beside a container that people keep. Started by other verbs, not by
//! people.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rcrun_overlay::snapshot::{Extent, Form, Mounting, Snapshots};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::idmap::Mapping;
use rcrun_runtime::monitor::{Launch, Snapshot, serve};

use super::{Count, Verb};
use crate::settings::Settings;

pub(super) const VERB: Verb = Verb::new::<Monitor>("monitor", Count::Exactly(1), "<directory>")
    .enters_container()
    .hidden();

/// make a container and look after it until its end
#[derive(Debug, clap::Parser)]
#[command(name = "monitor", disable_help_flag = true)]
pub(crate) struct Monitor {
    /// descriptor that hears whether the container could be made
    #[arg(long)]
    ready_fd: Option<i32>,
    /// descriptor that stays open until then
    #[arg(long)]
    lock_fd: Option<i32>,
    directory: PathBuf,
}

impl super::Run for Monitor {
    fn run(self, _: &Settings) -> Result<u8, Error> {
        let directory = std::path::absolute(&self.directory)
            .context(|| format!("cannot resolve {}", self.directory.display()))?;
        let root = |launch: &Launch| launch.snapshot.as_ref().map(mount).transpose();
        let made = serve(&directory, root, self.ready_fd, self.lock_fd)?;
        Ok(u8::from(!made))
    }
}

/// The snapshot's file system, mounted nowhere, with the ids of its container.
fn mount(snapshot: &Snapshot) -> Result<OwnedFd> {
    let store = Store::open(&snapshot.store)?;
    let id = snapshot.id.parse()?;
    let missing = || Error::new(ErrorKind::NotFound, format!("there is no snapshot {id}"));
    let found = Snapshots::new(&store)?.open(&id)?.ok_or_else(missing)?;
    let record = found.record();
    let Some(idmap) = record
        .idmap
        .as_ref()
        .filter(|_| record.form == Form::Overlay)
    else {
        return found.detached(&Mounting::default());
    };
    let mapping = Mapping::new(&list(&idmap.uids)?, &list(&idmap.gids)?)?;
    let apply = |tree: BorrowedFd<'_>| mapping.apply(tree);
    found.detached(&Mounting {
        idmap: Some(&apply),
        ..Mounting::default()
    })
}

fn list(extents: &[Extent]) -> Result<Vec<LinuxIdMapping>> {
    let one = |extent: &Extent| {
        LinuxIdMappingBuilder::default()
            .container_id(extent.inside)
            .host_id(extent.outside)
            .size(extent.count)
            .build()
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
    };
    extents.iter().map(one).collect()
}
