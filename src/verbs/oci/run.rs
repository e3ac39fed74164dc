//! `rcrun run`.

use rcrun_runtime::container::CreateOptions;
use rcrun_runtime::error::Error;

use super::container::ContainerFlags;
use crate::settings::Settings;

/// create and run a container
///
/// The run command creates an instance of a container for a bundle and starts its
/// program. The bundle is a directory with a specification file named
/// "config.json" and a root filesystem. The exit code is that of the program.
#[derive(Debug, clap::Parser)]
#[command(name = "run", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Run {
    #[command(flatten)]
    container: ContainerFlags,
    /// detach from the container's process
    #[arg(long, short)]
    detach: bool,
    /// do not delete the container after it exits
    #[arg(long)]
    keep: bool,
    /// disable the use of the subreaper used to reap reparented processes
    #[arg(long)]
    no_subreaper: bool,
    id: String,
}

impl crate::verbs::Run for Run {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        let options = CreateOptions {
            detach: self.detach,
            keep: self.keep,
            no_subreaper: self.no_subreaper,
            ..self.container.options()?
        };
        crate::verbs::exit_code(settings.runtime.run(&self.id, &options)?)
    }
}
