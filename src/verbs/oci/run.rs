//! `rcrun run`.

use std::path::Path;

use rcrun_runtime::container::CreateOptions;
use rcrun_runtime::error::{Context, Error};
use rcrun_runtime::spec::load::CONFIG;

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
        let (container, id) = match self.container.has_bundle() {
            false => directory(self.container, self.id)?,
            true => (self.container, self.id),
        };
        let options = CreateOptions {
            detach: self.detach,
            keep: self.keep,
            no_subreaper: self.no_subreaper,
            ..container.options()?
        };
        crate::verbs::exit_code(settings.runtime.run(&id, &options)?)
    }
}

/// `run PATH`: a bundle instead of an ID, which then is the directory's name.
fn directory(container: ContainerFlags, id: String) -> Result<(ContainerFlags, String), Error> {
    let is_bundle = |path: &str| Path::new(path).join(CONFIG).is_file();
    if is_bundle(".") || !is_bundle(&id) {
        return Ok((container, id));
    }
    let path = Path::new(&id)
        .canonicalize()
        .context(|| format!("cannot resolve {id}"))?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default().to_owned();
    Ok((container.with_bundle(path), name))
}
