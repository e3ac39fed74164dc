//! The section `cri.nri` of the settings file.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The longest time that a plugin may be given: it holds every event up for so long.
const MAX_TIMEOUT: u64 = 600;

/// The section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nri {
    /// Plugins are started and may connect.
    pub enable: bool,
    /// Where they connect; null: only those count that the server starts.
    pub socket: Option<PathBuf>,
    /// Plugins that the server starts: programs named `NN-NAME`.
    pub plugin_path: PathBuf,
    /// Their configurations: `NN-NAME.conf`, else `NAME.conf`.
    pub config_path: PathBuf,
    /// Seconds from the connection to the registration.
    pub registration_timeout: u64,
    /// Seconds for the answer to one request.
    pub request_timeout: u64,
}

impl Default for Nri {
    fn default() -> Self {
        let usual = rcrun_nri::Settings::default();
        Self {
            enable: false,
            socket: Some("/var/run/nri/nri.sock".into()),
            plugin_path: usual.plugins,
            config_path: usual.configurations,
            registration_timeout: usual.registration_time.as_secs(),
            request_timeout: usual.request_time.as_secs(),
        }
    }
}

impl Nri {
    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, seconds) in [
            ("registration_timeout", self.registration_timeout),
            ("request_timeout", self.request_timeout),
        ] {
            if !(1..=MAX_TIMEOUT).contains(&seconds) {
                let text = format!("{name} is not in 1..={MAX_TIMEOUT}");
                return Err(Error::invalid(text));
            }
        }
        let paths = [&self.plugin_path, &self.config_path];
        match paths
            .into_iter()
            .chain(&self.socket)
            .find(|path| !path.is_absolute())
        {
            None => Ok(()),
            Some(path) => Err(Error::invalid(format!(
                "{} is not absolute",
                path.display()
            ))),
        }
    }

    /// As the interface wants them.
    pub(super) fn of_interface(&self, version: &str) -> rcrun_nri::Settings {
        rcrun_nri::Settings {
            plugins: self.plugin_path.clone(),
            configurations: self.config_path.clone(),
            registration_time: Duration::from_secs(self.registration_timeout),
            request_time: Duration::from_secs(self.request_timeout),
            runtime_version: version.to_owned(),
            ..Default::default()
        }
    }
}
