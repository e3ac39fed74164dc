//! `rcrun rename`.

use rcrun_runtime::error::{Context, Result};

use super::get;
use crate::settings::Settings;

/// give a container another name
#[derive(Debug, clap::Parser)]
#[command(name = "rename", disable_help_flag = true)]
pub(crate) struct Rename {
    name: String,
    new: String,
}

impl crate::verbs::Run for Rename {
    fn run(self, settings: &Settings) -> Result<u8> {
        let (containers, container) = get(settings, &self.name)?;
        let rename = || {
            let lock = container.lock()?;
            containers.rename(&container, &lock, &self.new)
        };
        rename().context(|| format!("cannot rename container {}", self.name))?;
        Ok(0)
    }
}
