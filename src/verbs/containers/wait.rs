//! `rcrun wait`.

use rcrun_runtime::error::{Error, ErrorKind, Result};

use super::get_with_record;
use crate::settings::Settings;
use crate::{output, report};

/// wait until containers end, and print their exit codes
#[derive(Debug, clap::Parser)]
#[command(name = "wait", disable_help_flag = true)]
pub(crate) struct Wait {
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Wait {
    fn run(self, settings: &Settings) -> Result<u8> {
        report::each(&self.names, |name| {
            let (_, container, record) = get_with_record(settings, name)?;
            let unknown = || {
                let text = format!("nobody knows how container {name} ended");
                Error::new(ErrorKind::NotFound, text)
            };
            let exit = container.wait(&record)?.ok_or_else(unknown)?;
            output::print(&format!("{}\n", exit.code))
        })?;
        Ok(0)
    }
}
