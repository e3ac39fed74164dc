//! `rcrun pause`.

use rcrun_runtime::error::Error;

use crate::settings::Settings;

/// pause suspends all processes inside the container
///
/// The pause command suspends all processes in the instance of the container.
#[derive(Debug, clap::Parser)]
#[command(name = "pause", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Pause {
    id: String,
}

impl crate::verbs::Run for Pause {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        settings.runtime.pause(&self.id)?;
        Ok(0)
    }
}
