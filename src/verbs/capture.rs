//! `rcrun capture`: the process that saves a container for the CRI server. Started by that, not by people.

use std::io::Write as _;
use std::path::PathBuf;

use rcrun_runtime::error::Error;
use rcrun_runtime::monitor::WireError;

use super::{Count, Verb};
use crate::settings::Settings;

pub(super) const VERB: Verb = Verb::new::<Capture>("capture", Count::Exactly(1), "<directory>")
    .enters_container()
    .hidden();

/// save a container as the order in a directory says
#[derive(Debug, clap::Parser)]
#[command(name = "capture", disable_help_flag = true)]
pub(crate) struct Capture {
    directory: PathBuf,
}

impl super::Run for Capture {
    fn run(self, _: &Settings) -> Result<u8, Error> {
        let result = rcrun_cri::capture(&self.directory);
        let text = match &result {
            Ok(captured) => serde_json::to_string(captured),
            Err(error) => serde_json::to_string(&WireError::from(error)),
        };
        // The server reads this; nobody else has started this process.
        let told = std::io::stdout().write_all(text.unwrap_or_default().as_bytes());
        match (result, told) {
            (Ok(_), Ok(())) => Ok(0),
            (Err(_), Ok(())) => Ok(1),
            (Ok(_), Err(error)) => Err(error.into()),
            (Err(error), Err(_)) => Err(error),
        }
    }
}
