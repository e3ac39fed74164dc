//! `rcrun kill`.

use rcrun_runtime::error::Error;
use rcrun_runtime::template::signal;

use crate::settings::Settings;

/// kill sends the specified signal (default: SIGTERM) to the container's init process
#[derive(Debug, clap::Parser)]
#[command(name = "kill", disable_help_flag = true)]
pub(crate) struct Kill {
    /// send the specified signal to all processes inside the container
    #[arg(long, short, hide = true)]
    all: bool,
    id: String,
    signal: Option<String>,
}

impl crate::verbs::Run for Kill {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        let signal = match self.signal.as_deref() {
            None | Some("") => "SIGTERM",
            Some(name) => name,
        };
        settings
            .runtime
            .kill(&self.id, signal::parse(signal)?, self.all)?;
        Ok(0)
    }
}
