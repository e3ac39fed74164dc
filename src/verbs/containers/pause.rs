//! `rcrun pause` and `rcrun unpause`, which is also `resume`.

use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::{get_with_record, not_running};
use crate::containers::Status;
use crate::settings::Settings;
use crate::{output, report};

/// suspend all processes of containers
#[derive(Debug, clap::Parser)]
#[command(name = "pause", disable_help_flag = true)]
pub(crate) struct Pause {
    #[arg(required = true)]
    names: Vec<String>,
}

/// let all processes of paused containers go on
#[derive(Debug, clap::Parser)]
#[command(name = "unpause", disable_help_flag = true)]
pub(crate) struct Unpause {
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Pause {
    fn run(self, settings: &Settings) -> Result<u8> {
        freeze(settings, &self.names, true)
    }
}

impl crate::verbs::Run for Unpause {
    fn run(self, settings: &Settings) -> Result<u8> {
        freeze(settings, &self.names, false)
    }
}

fn freeze(settings: &Settings, names: &[String], pause: bool) -> Result<u8> {
    report::each(names, |name| {
        let (_, container, record) = get_with_record(settings, name)?;
        let verb = if pause { "pause" } else { "unpause" };
        let failed = || format!("cannot {verb} container {name}");
        let runtime = record.runtime();
        let status = container.status(&record)?;
        let done = match &status {
            Status::Created | Status::Exited(_) => Err(not_running(name)),
            _ if already(&status, pause).is_some() => Ok(()),
            _ if pause => runtime.pause(container.id()),
            _ => runtime.resume(container.id()),
        };
        // Who fails may just have been late.
        let status = match done {
            Ok(()) => status,
            Err(_) => container.status(&record)?,
        };
        if let Some(words) = already(&status, pause) {
            return Err(Error::new(ErrorKind::FailedPrecondition, words)).context(failed);
        }
        done.context(failed)?;
        output::print(&format!("{name}\n"))
    })?;
    Ok(0)
}

/// Why there is nothing to do.
fn already(status: &Status, pause: bool) -> Option<&'static str> {
    match (status, pause) {
        (Status::Paused(_), true) => Some("it is paused already"),
        (Status::Running(_), false) => Some("it is not paused"),
        _ => None,
    }
}
