//! `rcrun monitor`: the process beside a container that people keep. Started by other verbs, not by
//! people.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rcrun_runtime::error::{Context, Error, Result};
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
    directory: PathBuf,
}

impl super::Run for Monitor {
    fn run(self, _: &Settings) -> Result<u8, Error> {
        let directory = std::path::absolute(&self.directory)
            .context(|| format!("cannot resolve {}", self.directory.display()))?;
        let root = |launch: &Launch| launch.snapshot.as_ref().map(mount).transpose();
        let made = serve(&directory, root, self.ready_fd)?;
        Ok(u8::from(!made))
    }
}

/// The snapshot's file system, mounted nowhere. MERGE: the overlay crate's mount comes here.
fn mount(_: &Snapshot) -> Result<OwnedFd> {
    Err(Error::unsupported("snapshots are not supported yet"))
}
