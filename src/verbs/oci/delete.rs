//! `rcrun delete`.

use rcrun_runtime::error::Error;

use crate::settings::Settings;

/// delete any resources held by the container often used with detached container
#[derive(Debug, clap::Parser)]
#[command(name = "delete", disable_help_flag = true)]
pub(crate) struct Delete {
    /// Forcibly deletes the container if it is still running (uses SIGKILL)
    #[arg(long, short)]
    force: bool,
    /// <container-id> is a POSIX extended regular expression: delete all containers that match (as crun has it)
    #[arg(long)]
    regex: bool,
    id: String,
}

impl crate::verbs::Run for Delete {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        if self.regex {
            settings.runtime.delete_matching(&self.id, self.force)?;
        } else {
            settings.runtime.delete(&self.id, self.force)?;
        }
        Ok(0)
    }
}
