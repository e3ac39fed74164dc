//! `rcrun create`.

use rcrun_runtime::error::Error;

use super::container::ContainerFlags;
use crate::settings::Settings;

/// create a container
///
/// The create command creates an instance of a container for a bundle. The bundle
/// is a directory with a specification file named "config.json" and a root
/// filesystem. Its program waits for the start command.
#[derive(Debug, clap::Parser)]
#[command(name = "create", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Create {
    #[command(flatten)]
    container: ContainerFlags,
    id: String,
}

impl crate::verbs::Run for Create {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        settings
            .runtime
            .create(&self.id, &self.container.options()?)?;
        Ok(0)
    }
}
