//! `rcrun disconnect ID`: what a monitor becomes whose container has ended, but is not removed. Not for
//! people.

use rcrun_runtime::error::{Context, ErrorKind, Result};

use super::all;
use crate::settings::Settings;

/// give back the address and ports of a container that has ended
#[derive(Debug, clap::Parser)]
#[command(name = "disconnect", disable_help_flag = true)]
pub(crate) struct Disconnect {
    id: String,
}

impl crate::verbs::Run for Disconnect {
    fn run(self, settings: &Settings) -> Result<u8> {
        let Some(containers) = all(settings)? else {
            return Ok(0);
        };
        let disconnect = || -> Result<()> {
            let container = containers.open_id(&self.id)?;
            let lock = container.lock()?;
            let record = container.complete()?;
            // Started again since: what it has now is its own.
            match container.status(&record)?.is_alive() {
                true => Ok(()),
                false => container.disconnect(&record, &lock),
            }
        };
        match disconnect() {
            // Removed since, with all that it had.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::FailedPrecondition
                ) =>
            {
                Ok(0)
            }
            other => other
                .context(|| format!("cannot disconnect container {}", self.id))
                .map(|()| 0),
        }
    }
}
