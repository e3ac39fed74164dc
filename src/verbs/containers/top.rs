//! `rcrun top`: the host's ps(1), of which only the lines of one container are shown.

use rcrun_runtime::error::{Context, Result};

use super::{get_with_record, not_running};
use crate::containers::Status;
use crate::output;
use crate::settings::Settings;
use crate::verbs::oci::{host_ps, select};

/// show the processes of a container
///
/// The options are those of the host's ps(1), which has to print a PID column;
/// without any it is called with -ef.
#[derive(Debug, clap::Parser)]
#[command(name = "top", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Top {
    /// The container, and options of ps.
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl crate::verbs::Run for Top {
    fn run(self, settings: &Settings) -> Result<u8> {
        let (name, options) = self
            .command
            .split_first()
            .map_or(("", &[][..]), |(n, o)| (n, o));
        let (_, container, record) = get_with_record(settings, name)?;
        if !matches!(
            container.status(&record)?,
            Status::Running(_) | Status::Paused(_)
        ) {
            return Err(not_running(name));
        }
        let pids = record.runtime().processes(container.id());
        let pids = pids.context(|| format!("cannot list the processes of {name}"))?;
        output::print(&select(&host_ps(options)?, &pids)?)?;
        Ok(0)
    }
}
