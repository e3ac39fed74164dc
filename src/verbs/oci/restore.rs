//! `rcrun restore`.

use std::path::PathBuf;

use rcrun_runtime::checkpoint::RestoreOptions;
use rcrun_runtime::container::CreateOptions;
use rcrun_runtime::error::Error;

use super::checkpoint::CriuFlags;
use super::container::{bundle, given};
use crate::settings::Settings;

/// restore a container from a previous checkpoint
///
/// Restores the saved state of the container instance that was previously saved
/// using the checkpoint command.
#[derive(Debug, clap::Parser)]
#[command(name = "restore", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Restore {
    #[command(flatten)]
    criu: CriuFlags,
    /// path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal
    #[arg(long, value_name = "string")]
    console_socket: Option<PathBuf>,
    /// path to the root of the bundle directory
    #[arg(long, short, value_name = "string")]
    bundle: Option<PathBuf>,
    /// detach from the container's process
    #[arg(long, short)]
    detach: bool,
    /// specify the file to write the process id to
    #[arg(long, value_name = "string")]
    pid_file: Option<PathBuf>,
    /// disable the use of the subreaper used to reap reparented processes
    #[arg(long)]
    no_subreaper: bool,
    /// do not use pivot root to jail process inside rootfs.  This should be used whenever the rootfs is on top of a ramdisk
    #[arg(long)]
    no_pivot: bool,
    /// Specify an LSM profile to be used during restore in the form of TYPE:NAME.
    #[arg(long, value_name = "string")]
    lsm_profile: Option<String>,
    /// Specify an LSM mount context to be used during restore.
    #[arg(long, value_name = "string")]
    lsm_mount_context: Option<String>,
    id: String,
}

impl crate::verbs::Run for Restore {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        let container = CreateOptions {
            bundle: bundle(self.bundle)?,
            pid_file: given(self.pid_file),
            console_socket: given(self.console_socket),
            no_pivot: self.no_pivot,
            no_subreaper: self.no_subreaper,
            detach: self.detach,
            ..CreateOptions::default()
        };
        let options = RestoreOptions {
            common: self.criu.options(settings)?,
            container,
            lsm_profile: self.lsm_profile.filter(|text| !text.is_empty()),
            lsm_mount_context: self.lsm_mount_context.filter(|text| !text.is_empty()),
            foreign: false,
        };
        crate::verbs::exit_code(settings.runtime.restore(&self.id, &options)?)
    }
}
