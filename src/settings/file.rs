//! The settings file: one JSON object, read anew by each operation, so that a change counts from
//! the next one on.
//!
//! `$RCRUN_SETTINGS`; else `$XDG_CONFIG_HOME/rcrun/settings.json` (`~/.config` without the
//! variable) for an ordinary user; else `/etc/rcrun/settings.json`. No file means the defaults; an
//! unknown setting is an error, since it is most likely a misspelt one.

use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

use rcrun_image::registry;
use rcrun_runtime::error::{Context, Error, Result};
use serde::Deserialize;

/// The machine's file.
const SYSTEM: &str = "/etc/rcrun/settings.json";

/// What the file says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    /// How registries are reached, by host.
    pub(crate) registries: registry::settings::Settings,
    /// How images are built.
    pub(crate) build: Build,
    /// How the CRI server works.
    pub(crate) cri: rcrun_cri::Settings,
    /// How people's containers are connected.
    pub(crate) network: Network,
}

/// How people's containers are connected.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    /// The network of a container for which none is asked; absent: `bridge` for root, else `none`.
    pub(crate) default: Option<DefaultNetwork>,
    /// The bridge: another one than that of pods, whose server removes what it does not know.
    #[serde(deserialize_with = "bridge_with")]
    pub(crate) bridge: rcrun_network::bridge::Settings,
}

/// What a container gets that asks for no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DefaultNetwork {
    /// A network of its own, with a way out.
    Bridge,
    /// The host's.
    Host,
    /// Loopback only.
    None,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            default: None,
            bridge: bridge(),
        }
    }
}

/// What is not said is as it is by default here, which is not the default of pods.
fn bridge_with<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<rcrun_network::bridge::Settings, D::Error> {
    use serde::de::Error as _;
    let given = serde_json::Map::deserialize(deserializer)?;
    let mut all = serde_json::to_value(bridge()).map_err(D::Error::custom)?;
    for (name, value) in given {
        all[name] = value;
    }
    serde_json::from_value(all).map_err(D::Error::custom)
}

/// The bridge of people's containers.
fn bridge() -> rcrun_network::bridge::Settings {
    rcrun_network::bridge::Settings::named("rcrun1", 138)
}

/// How images are built.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Build {
    /// What the build cache may take on the disk, such as `20g`.
    pub(crate) cache_limit: Option<String>,
}

impl File {
    /// The first file that exists.
    pub(super) fn find(
        user: bool,
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self> {
        if let Some(given) = variable("RCRUN_SETTINGS") {
            return Self::read(Path::new(&given))?.ok_or_else(|| {
                Error::invalid(format!("{given}, named by $RCRUN_SETTINGS, does not exist"))
            });
        }
        for path in places(user, variable) {
            if let Some(found) = Self::read(&path)? {
                return Ok(found);
            }
        }
        Ok(Self::default())
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        let failed = || format!("cannot read the settings {}", path.display());
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| Error::invalid(e.to_string()))
                .context(failed),
            Err(error) if error.kind() == NotFound => Ok(None),
            Err(error) => Err(error).context(failed),
        }
    }
}

fn places(user: bool, variable: impl Fn(&'static str) -> Option<String>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if user {
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
        let home = || variable("HOME").map(|home| Path::new(&home).join(".config"));
        let config = config.filter(|path| path.is_absolute()).or_else(home);
        places.extend(config.map(|path| path.join("rcrun/settings.json")));
    }
    places.push(PathBuf::from(SYSTEM));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_settings_are_refused_with_their_file() {
        let dir = std::env::temp_dir().join(format!("rcrun-settings-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("settings.json");
        for (text, fault) in [
            (r#"{"registry": {}}"#, "unknown field `registry`"),
            (
                r#"{"registries": {"a.b": {"plain": true}}}"#,
                "unknown field `plain`",
            ),
            ("{", "EOF"),
            (r#"{"network": {"default": "pasta"}}"#, "unknown variant"),
            (r#"{"network": {"bridge": {"mtus": 1}}}"#, "unknown field"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = File::read(&path).unwrap_err().chain().to_string();
            assert!(
                message.contains(fault) && message.contains("settings.json"),
                "{message}"
            );
        }
        std::fs::write(&path, r#"{"registries": {"a.b": {"plain_http": true}}}"#).unwrap();
        let file = File::read(&path).unwrap().unwrap();
        assert_eq!(file.registries.host("a.b").plain_http, Some(true));
        let text = r#"{"network": {"default": "none", "bridge": {"mtu": 1400}}}"#;
        std::fs::write(&path, text).unwrap();
        let network = File::read(&path).unwrap().unwrap().network;
        assert_eq!(network.default, Some(DefaultNetwork::None));
        assert_eq!(
            (&*network.bridge.name, network.bridge.mtu),
            ("rcrun1", Some(1400))
        );
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(File::read(&path).unwrap().is_none());
    }

    #[test]
    fn what_the_documentation_shows_is_understood() {
        let text = include_str!("../../docs/settings.md");
        let examples: Vec<&str> = text.split("```json").skip(1).collect();
        assert!(examples.len() >= 5);
        for example in examples {
            let example = example.split("```").next().unwrap();
            serde_json::from_str::<File>(example).unwrap_or_else(|e| panic!("{e}: {example}"));
        }
    }

    #[test]
    fn a_user_has_a_file_of_their_own() {
        let variable = |name| (name == "HOME").then(|| "/home/a".to_owned());
        let user = Path::new("/home/a/.config/rcrun/settings.json");
        assert_eq!(places(true, variable), [user, Path::new(SYSTEM)]);
        assert_eq!(places(false, variable), [Path::new(SYSTEM)]);
    }
}
