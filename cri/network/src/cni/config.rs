//! Network configurations (specification, section 1): which file, which version, which plugins.
//! Reading of directories aside, pure.

use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use rcrun_overlay::durable;

use crate::{Context, Error, ErrorKind, Result};

/// Versions whose results we read, lowest first.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", NEWEST];
/// The newest of them.
pub(super) const NEWEST: &str = "1.1.0";
/// Bytes of one file.
const FILE_MAX: u64 = 1 << 20;
/// Files of a directory that are looked at.
const FILES_MAX: usize = 1024;
/// Plugins of one network.
const PLUGINS_MAX: usize = 64;

/// A network: a list of plugins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// Its name.
    pub name: String,
    /// The version that its plugins are spoken to in.
    pub version: String,
    pub(super) disable_check: bool,
    pub(super) disable_gc: bool,
    pub(super) plugins: Vec<Map<String, Value>>,
    #[serde(skip)]
    more: bool,
}

impl Configuration {
    /// The first of a directory, by name, that can be used.
    pub(super) fn first(directory: &Path) -> Result<Self> {
        let mut wrong = Vec::new();
        for path in files(directory, &["conf", "conflist", "json"])? {
            match Self::load(&path) {
                Ok(configuration) => return Ok(configuration),
                Err(error) => wrong.push(error.chain().to_string()),
            }
        }
        let at = directory.display();
        let why = match wrong.is_empty() {
            true => format!("no network config found in {at}"),
            false => format!(
                "no network config in {at} can be used: {}",
                wrong.join("; ")
            ),
        };
        let hint = "install a network add-on, or set the embedded network";
        Err(Error::new(ErrorKind::NotFound, why).with_hint(hint))
    }

    fn load(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot use {}", path.display());
        let mut list = Self::parse(&read(path).context(cannot)?).context(cannot)?;
        if list.more {
            let beside = path.with_file_name(&list.name);
            for path in files(&beside, &["conf"])? {
                let cannot = || format!("cannot use {}", path.display());
                let plugin = object(&read(&path).context(cannot)?).context(cannot)?;
                list.plugins.push(checked(plugin).context(cannot)?);
            }
        }
        match list.plugins.len() {
            0 => Err(Error::invalid(format!("{}: it has no plugins", cannot()))),
            1..=PLUGINS_MAX => Ok(list),
            _ => Err(Error::invalid(format!(
                "{}: it has too many plugins",
                cannot()
            ))),
        }
    }

    /// Reads a list, or one plugin that is to be a list.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let mut whole = object(text)?;
        let name = whole
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let name = name.to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
            return Err(Error::invalid(format!("{name:?} is no name of a network")));
        }
        let version = version(&whole)?;
        let flag = |key: &str| match whole.get(key) {
            None | Some(Value::Bool(false)) => Ok(false),
            Some(Value::Bool(true)) => Ok(true),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(other) => Err(Error::invalid(format!(
                "{key} is {other}, not true or false"
            ))),
        };
        let (disable_check, disable_gc) = (flag("disableCheck")?, flag("disableGC")?);
        let only_these = flag("loadOnlyInlinedPlugins")?;
        let (plugins, more) = match whole.remove("plugins") {
            Some(Value::Array(list)) => {
                let plugins = list.into_iter().map(|plugin| match plugin {
                    Value::Object(plugin) => checked(plugin),
                    other => Err(Error::invalid(format!("{other} is no plugin"))),
                });
                (plugins.collect::<Result<_>>()?, !only_these)
            }
            Some(_) => return Err(Error::invalid("plugins is no list")),
            None if whole.contains_key("type") => (vec![checked(whole)?], false),
            None if only_these => {
                let why = "loadOnlyInlinedPlugins is true, and there are no plugins";
                return Err(Error::invalid(why));
            }
            None => (Vec::new(), true),
        };
        Ok(Self {
            name,
            version,
            disable_check,
            disable_gc,
            plugins,
            more,
        })
    }

    /// Whether its version is this one or a later one.
    pub(super) fn speaks(&self, version: &str) -> bool {
        let rank = |version: &str| VERSIONS.iter().position(|known| *known == version);
        rank(&self.version) >= rank(version)
    }

    /// What every call of a plugin is told.
    pub(super) fn told(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
        let mut told = plugin.clone();
        told.retain(|key, _| !key.starts_with("cni.dev/"));
        for reserved in ["runtimeConfig", "capabilities", "prevResult", "cniVersions"] {
            told.remove(reserved);
        }
        told.insert("name".into(), self.name.clone().into());
        told.insert("cniVersion".into(), self.version.clone().into());
        told
    }
}

/// Whether a plugin leads ports of the host to what it connects.
pub(super) fn maps_ports(plugin: &Map<String, Value>) -> bool {
    let has = plugin.get("capabilities").and_then(Value::as_object);
    has.and_then(|has| has.get("portMappings")) == Some(&Value::Bool(true))
}

/// The program of a plugin.
pub(super) fn kind(plugin: &Map<String, Value>) -> &str {
    plugin
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn object(text: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(text)
        .map_err(|error| Error::invalid(format!("it is no JSON object: {error}")))
}

/// A plugin must be a program of the directories of plugins, not of elsewhere.
fn checked(plugin: Map<String, Value>) -> Result<Map<String, Value>> {
    let kind = kind(&plugin);
    let plain = |c: char| !matches!(c, '/' | '\\' | '\0') && !c.is_whitespace();
    if kind.is_empty() || matches!(kind, "." | "..") || !kind.chars().all(plain) {
        return Err(Error::invalid(format!("{kind:?} is no type of a plugin")));
    }
    match plugin.get("capabilities") {
        None | Some(Value::Object(_) | Value::Null) => Ok(plugin),
        Some(other) => Err(Error::invalid(format!("capabilities is {other}"))),
    }
}

/// The highest version that both sides know.
fn version(whole: &Map<String, Value>) -> Result<String> {
    let text = |value: &Value| match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::invalid(format!("{value} is no version"))),
    };
    let mut offered = Vec::new();
    if let Some(one) = whole.get("cniVersion") {
        offered.push(text(one)?);
    }
    match whole.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            offered.extend(list.iter().map(text).collect::<Result<Vec<_>>>()?);
        }
        Some(other) => return Err(Error::invalid(format!("cniVersions is {other}, no list"))),
    }
    let known = |version: &&&str| offered.iter().any(|o| o == **version);
    match VERSIONS.iter().rev().find(known) {
        Some(version) => Ok((*version).to_owned()),
        None => Err(Error::unsupported(format!(
            "it is of CNI version {:?}; known are {}",
            offered.join(", "),
            VERSIONS.join(", ")
        ))),
    }
}

/// The files of a directory with one of these endings, by name; none if there is no directory.
fn files(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let list = match std::fs::read_dir(directory) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| format!("cannot list {}", directory.display())),
    };
    let mut found = Vec::new();
    for entry in list.take(FILES_MAX) {
        let path = entry
            .context(|| format!("cannot list {}", directory.display()))?
            .path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| endings.contains(&ending)) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Configurations are often links to where an add-on keeps them.
fn read(path: &Path) -> Result<Vec<u8>> {
    let path = std::fs::canonicalize(path)?;
    let name = path.to_string_lossy();
    let text = durable::read(CWD, &name, FILE_MAX)?;
    text.ok_or_else(|| Error::new(ErrorKind::NotFound, "it is gone"))
}
