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
        let already = |word: &str| {
            let text = format!("it is {word}");
            Err(Error::new(ErrorKind::FailedPrecondition, text)).context(failed)
        };
        let runtime = record.runtime();
        let done = match (container.status(&record)?, pause) {
            (Status::Running(_), true) => runtime.pause(container.id()),
            (Status::Paused(_), false) => runtime.resume(container.id()),
            (Status::Paused(_), true) => return already("paused already"),
            (Status::Running(_), false) => return already("not paused"),
            (Status::Created | Status::Exited(_), _) => Err(not_running(name)),
        };
        if let Err(error) = done {
            // Somebody else did the same at the same time.
            let now = container.status(&record)?;
            let wanted = match pause {
                true => matches!(now, Status::Paused(_)),
                false => matches!(now, Status::Running(_)),
            };
            if !wanted {
                return Err(error).context(failed);
            }
        }
        output::print(&format!("{name}\n"))
    })?;
    Ok(0)
}
