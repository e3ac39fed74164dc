//! `rcrun kill`, people's form.

use rcrun_runtime::error::{Context, Result};

use super::{get_with_record, not_running};
use crate::containers::Status;
use crate::settings::Settings;
use crate::verbs::oci::parse_signal;
use crate::{output, report};

/// send a signal to containers
#[derive(Debug, clap::Parser)]
#[command(name = "kill", disable_help_flag = true)]
pub(crate) struct Kill {
    /// name or number of the signal
    #[arg(long, short, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Kill {
    fn run(self, settings: &Settings) -> Result<u8> {
        let signal = parse_signal(&self.signal)?;
        report::each(&self.names, |name| {
            let (_, container, record) = get_with_record(settings, name)?;
            let failed = || format!("cannot kill container {name}");
            match container.status(&record)? {
                Status::Running(_) | Status::Paused(_) => {}
                Status::Created | Status::Exited(_) => {
                    return Err(not_running(name)).context(failed);
                }
            }
            let killed = record.runtime().kill(container.id(), signal, false);
            killed.context(failed)?;
            output::print(&format!("{name}\n"))
        })?;
        Ok(0)
    }
}
