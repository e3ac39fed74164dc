//! `rcrun resume`.

use rcrun_runtime::error::Error;

use crate::settings::Settings;

/// resumes all processes that have been previously paused
///
/// The resume command resumes all processes in the instance of the container.
#[derive(Debug, clap::Parser)]
#[command(name = "resume", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Resume {
    id: String,
}

impl crate::verbs::Run for Resume {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        settings.runtime.resume(&self.id)?;
        Ok(0)
    }
}
