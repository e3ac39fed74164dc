//! `rcrun start`.

use rcrun_runtime::error::Error;

use crate::settings::Settings;

/// executes the user defined process in a created container
///
/// The start command executes the user defined process in a created container.
#[derive(Debug, clap::Parser)]
#[command(name = "start", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Start {
    id: String,
}

impl crate::verbs::Run for Start {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        settings.runtime.start(&self.id)?;
        Ok(0)
    }
}
