//! Devices by the Container Device Interface: a vendor's files in /etc/cdi and /var/run/cdi say what a
//! container that wants a device needs (CNCF Container Device Interface, SPEC.md, versions 0 and 1).
//!
//! Only files in JSON are read. What a file says that is not known here is an error: a device that
//! works by half is worse than none. Whoever writes these directories decides over containers' hooks, so
//! they are root's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::devices::{Device, Node, nodes};

/// Where the files are; a device of a later directory takes the place of one of an earlier.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// The longest file.
const LIMIT: u64 = 16 << 20;

/// Whether it is like `vendor.com/class=name`.
pub fn is_name(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else {
        return false;
    };
    let Some((vendor, class)) = kind.split_once('/') else {
        return false;
    };
    let word = |text: &str, more: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let device = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c));
    word(vendor, "_-.") && word(class, "_-.") && device
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "allowed, and means nothing here")]
    annotations: BTreeMap<String, String>,
    devices: Vec<Entry>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "allowed, and means nothing here")]
    annotations: BTreeMap<String, String>,
    container_edits: Edits,
}

/// What is to be changed of a container.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<NodeEdit>,
    mounts: Vec<MountEdit>,
    hooks: Vec<HookEdit>,
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeEdit {
    path: String,
    host_path: Option<PathBuf>,
    r#type: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MountEdit {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    r#type: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HookEdit {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// The same, with the host's facts looked up.
#[derive(Debug, Default, Clone)]
pub struct Applied {
    /// Variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Devices.
    pub nodes: Vec<Node>,
    /// Entries of `mounts`.
    pub mounts: Vec<Value>,
    /// By kind.
    pub hooks: BTreeMap<String, Vec<Value>>,
    /// More groups.
    pub gids: Vec<u32>,
}

/// Everything that the files in some directories say about devices.
#[derive(Debug, Default)]
pub struct Registry {
    devices: BTreeMap<String, (PathBuf, Edits, Edits)>,
    /// Files that are not JSON.
    unread: Vec<PathBuf>,
}

impl Registry {
    /// Reads them.
    pub fn read<P: AsRef<Path>>(directories: &[P]) -> Result<Self> {
        let mut all = Self::default();
        for directory in directories {
            let directory = directory.as_ref();
            let mut here: BTreeMap<String, (PathBuf, Edits, Edits)> = BTreeMap::new();
            let entries = match std::fs::read_dir(directory) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.context(|| format!("cannot list {}", directory.display()))?,
            };
            let mut paths = Vec::new();
            for entry in entries {
                paths.push(entry?.path());
            }
            paths.sort();
            for path in paths {
                let extension = path.extension().and_then(|extension| extension.to_str());
                match extension {
                    Some("json") => {}
                    Some("yaml" | "yml") => {
                        all.unread.push(path);
                        continue;
                    }
                    _ => continue,
                }
                let file = read(&path).context(|| format!("cannot read {}", path.display()))?;
                for device in file.devices {
                    let name = format!("{}={}", file.kind, device.name);
                    let value = (
                        path.clone(),
                        file.container_edits.clone(),
                        device.container_edits,
                    );
                    if let Some((other, ..)) = here.insert(name.clone(), value) {
                        return Err(Error::invalid(format!(
                            "{name} is in both {} and {}",
                            other.display(),
                            path.display()
                        )));
                    }
                }
            }
            all.devices.extend(here);
        }
        Ok(all)
    }

    /// What the devices of these names need. Of a file that has several of them, its own part once.
    pub fn apply(&self, names: &[String]) -> Result<Applied> {
        let mut applied = Applied::default();
        let mut files: Vec<&Path> = Vec::new();
        for name in names {
            let (path, common, own) = self.devices.get(name).ok_or_else(|| self.missing(name))?;
            let failed = || format!("cannot use {name} of {}", path.display());
            if !files.contains(&path.as_path()) {
                files.push(path);
                applied.add(common).context(failed)?;
            }
            applied.add(own).context(failed)?;
        }
        Ok(applied)
    }

    fn missing(&self, name: &str) -> Error {
        let mut text = format!("no device {name}");
        if let Some(file) = self.unread.first() {
            text = format!(
                "{text} in JSON; files in YAML, such as {}, are not read: write them as JSON (nvidia-ctk \
                 cdi generate --format=json)",
                file.display()
            );
        } else if self.devices.is_empty() {
            text = format!(
                "{text}: there are no files in {}",
                DIRECTORIES.join(" and ")
            );
        } else {
            let known: Vec<_> = self.devices.keys().take(16).map(String::as_str).collect();
            text = format!("{text}: there are {}", known.join(", "));
        }
        Error::new(ErrorKind::NotFound, text)
    }
}

fn read(path: &Path) -> Result<File> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(LIMIT)
        .read_to_string(&mut text)?;
    let file: File = serde_json::from_str(&text).map_err(|e| Error::invalid(e.to_string()))?;
    let known = ["0.", "1."]
        .iter()
        .any(|major| file.cdi_version.starts_with(major));
    match known {
        true => Ok(file),
        false => Err(Error::unsupported(format!(
            "version {} of the Container Device Interface is not known",
            file.cdi_version
        ))),
    }
}

impl Applied {
    fn add(&mut self, edits: &Edits) -> Result<()> {
        self.env.extend(edits.env.iter().cloned());
        self.gids
            .extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        for node in &edits.device_nodes {
            self.nodes.push(node.look_up()?);
        }
        for mount in &edits.mounts {
            let mut options = mount.options.clone();
            if !options
                .iter()
                .any(|option| option == "bind" || option == "rbind")
                && mount.r#type.is_none()
            {
                options.push("rbind".into());
            }
            let kind = mount.r#type.as_deref().unwrap_or("bind");
            self.mounts
                .push(json!({"destination": mount.container_path, "type": kind,
                                    "source": mount.host_path, "options": options}));
        }
        for hook in &edits.hooks {
            let kinds = [
                "prestart",
                "createRuntime",
                "createContainer",
                "startContainer",
                "poststart",
                "poststop",
            ];
            if !kinds.contains(&hook.hook_name.as_str()) {
                return Err(Error::invalid(format!(
                    "{:?} is no kind of hook",
                    hook.hook_name
                )));
            }
            let mut value = json!({"path": hook.path, "args": hook.args, "env": hook.env});
            if let Some(timeout) = hook.timeout {
                value["timeout"] = json!(timeout);
            }
            self.hooks
                .entry(hook.hook_name.clone())
                .or_default()
                .push(value);
        }
        Ok(())
    }
}

impl NodeEdit {
    /// What the file leaves open is as on the host.
    fn look_up(&self) -> Result<Node> {
        let host = self
            .host_path
            .clone()
            .unwrap_or_else(|| PathBuf::from(&self.path));
        let access = self.permissions.clone().unwrap_or_else(|| "rwm".into());
        let known = match (self.r#type.as_deref(), self.major, self.minor) {
            (Some(kind @ ("b" | "c")), Some(major), Some(minor)) => Some(Node {
                path: self.path.clone(),
                kind: if kind == "b" { 'b' } else { 'c' },
                major,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
                access: access.clone(),
            }),
            _ => None,
        };
        let inner = self.path.clone();
        let found = match known {
            Some(node) => node,
            None => nodes(&Device {
                host: host.clone(),
                inner,
                access,
            })?
            .into_iter()
            .next()
            .ok_or_else(|| Error::invalid(format!("{} is not a device", host.display())))?,
        };
        Ok(Node {
            path: self.path.clone(),
            mode: self.file_mode.map_or(found.mode, |mode| mode & 0o7777),
            uid: self.uid.unwrap_or(found.uid),
            gid: self.gid.unwrap_or(found.gid),
            ..found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for text in ["nvidia.com/gpu=0", "vendor.com/class=GPU-1234:0", "a/b=all"] {
            assert!(is_name(text), "{text}");
        }
        for text in [
            "/dev/null",
            "gpu=0",
            "a/b",
            "a/b=",
            "a/b/c=1",
            "a/b=c/d",
            "1a/b=c",
            "/dev/a=b",
        ] {
            assert!(!is_name(text), "{text}");
        }
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    const FILE: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/net",
        "containerEdits": {"env": ["COMMON=1"]},
        "devices": [
            {"name": "a", "containerEdits": {"env": ["A=1"], "deviceNodes": [{"path": "/dev/vendor", "hostPath": "/dev/null", "permissions": "rw"}],
             "mounts": [{"hostPath": "/etc", "containerPath": "/vendor", "options": ["ro", "nosuid"]}],
             "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true", "x"]}], "additionalGids": [5, 0]}},
            {"name": "b", "containerEdits": {"deviceNodes": [{"path": "/dev/b", "type": "b", "major": 7, "minor": 9, "fileMode": 384, "uid": 3}]}}]}"#;

    #[test]
    fn edits_are_collected() {
        let directory = directory(&[("v.json", FILE), ("x.txt", "{")]);
        let registry = Registry::read(&[directory.path()]).unwrap();
        let all = registry
            .apply(&["vendor.com/net=a".into(), "vendor.com/net=b".into()])
            .unwrap();
        assert_eq!(all.env, ["COMMON=1", "A=1"]);
        assert_eq!(all.gids, [5]);
        let [one, other] = &all.nodes[..] else {
            panic!("{all:?}")
        };
        assert_eq!(
            (one.path.as_str(), one.major, one.minor, one.access.as_str()),
            ("/dev/vendor", 1, 3, "rw")
        );
        assert_eq!(
            (other.kind, other.major, other.minor, other.mode, other.uid),
            ('b', 7, 9, 0o600, 3)
        );
        assert_eq!(all.mounts[0]["options"], json!(["ro", "nosuid", "rbind"]));
        assert_eq!(
            all.hooks["createContainer"][0]["args"],
            json!(["true", "x"])
        );
        let message = registry
            .apply(&["vendor.com/net=c".into()])
            .unwrap_err()
            .to_string();
        assert!(message.contains("vendor.com/net=a"), "{message}");
    }

    #[test]
    fn later_directories_win_and_doubles_in_one_are_refused() {
        let early = directory(&[("a.json", FILE)]);
        let other = r#"{"cdiVersion": "1.0.0", "kind": "vendor.com/net", "devices": [{"name": "a", "containerEdits": {"env": ["LATE=1"]}}]}"#;
        let late = directory(&[("b.json", other)]);
        let registry =
            Registry::read(&[early.path(), late.path(), Path::new("/nonexistent")]).unwrap();
        assert_eq!(
            registry.apply(&["vendor.com/net=a".into()]).unwrap().env,
            ["LATE=1"]
        );
        let both = directory(&[("a.json", FILE), ("b.json", other)]);
        Registry::read(&[both.path()]).unwrap_err();
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            r#"{"cdiVersion": "2.0.0", "kind": "a/b", "devices": []}"#,
            r#"{"cdiVersion": "0.6.0", "kind": "a/b", "devices": [{"name": "a", "containerEdits": {"shiny": []}}]}"#,
        ] {
            let directory = directory(&[("a.json", text)]);
            let message = Registry::read(&[directory.path()])
                .unwrap_err()
                .chain()
                .to_string();
            assert!(message.contains("a.json"), "{message}");
        }
        let yaml = directory(&[("a.yaml", "kind: x")]);
        let registry = Registry::read(&[yaml.path()]).unwrap();
        let message = registry.apply(&["a/b=c".into()]).unwrap_err().to_string();
        assert!(message.contains("a.yaml"), "{message}");
    }
}
