//! What the administrator and the program choose.

use std::path::PathBuf;
use std::time::Duration;

use rcrun_error::{Error, Result};

use crate::limits;

/// The longest time that may be asked for: a plugin holds every event up for so long.
const TIME_MAX: Duration = Duration::from_secs(600);

/// How the interface is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Plugins that we start: programs named `NN-NAME`. A directory that does not exist has none.
    pub plugins: PathBuf,
    /// Their configurations: `NN-NAME.conf`, else `NAME.conf`.
    pub configurations: PathBuf,
    /// From the connection to the registration; and after that, for the list of all that is there, unless a request
    /// may take longer.
    pub registration_time: Duration,
    /// For the answer to one request.
    pub request_time: Duration,
    /// Who we are, as plugins are told.
    pub runtime_name: String,
    /// Which version of it.
    pub runtime_version: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            plugins: "/opt/nri/plugins".into(),
            configurations: "/etc/nri/conf.d".into(),
            registration_time: limits::REGISTRATION_TIME,
            request_time: limits::REQUEST_TIME,
            runtime_name: "rcrun".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl Settings {
    /// Times are told to plugins in whole milliseconds, and none is no time.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, time) in [
            ("registration", self.registration_time),
            ("request", self.request_time),
        ] {
            if time < Duration::from_millis(1) || time > TIME_MAX {
                return Err(Error::invalid(format!(
                    "cannot give NRI plugins {time:?} for a {name}: 1 ms to {} s are possible",
                    TIME_MAX.as_secs()
                )));
            }
        }
        Ok(())
    }
}
