//! `--device` and `--device-cgroup-rule`, and the nodes of the host that are meant.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rcrun_runtime::error::{Context, Error, Result};
use serde_json::{Value, json};

/// How many nodes a directory may have.
const NODES: usize = 4096;
/// How deep directories are looked into.
const DEPTH: usize = 8;

/// Directories and names below /dev that a privileged container does not get: they are its own.
const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".udev"];

/// One `--device` that names a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) host: PathBuf,
    pub(crate) inner: String,
    pub(crate) access: String,
}

/// What `--device` can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Path(Device),
    /// By the Container Device Interface: `vendor.com/class=name`.
    Cdi(String),
}

/// A node of the host, for the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) kind: char,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) access: String,
}

impl Node {
    /// For `linux.devices`.
    pub(crate) fn node(&self) -> Value {
        json!({"path": self.path, "type": self.kind.to_string(), "major": self.major,
               "minor": self.minor, "fileMode": self.mode, "uid": self.uid, "gid": self.gid})
    }

    /// For `linux.resources.devices`.
    pub(crate) fn rule(&self) -> Value {
        json!({"allow": true, "type": self.kind.to_string(), "major": self.major,
               "minor": self.minor, "access": self.access})
    }
}

/// `HOST[:CONTAINER][:rwm]` or `VENDOR/CLASS=NAME`.
pub(crate) fn device(text: &str) -> Result<Wanted> {
    if super::cdi::is_name(text) {
        return Ok(Wanted::Cdi(text.to_owned()));
    }
    let wrong = || {
        Error::invalid(format!(
            "{text:?} is neither HOST[:CONTAINER][:rwm] nor VENDOR/CLASS=NAME"
        ))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inner, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if is_access(access) => (host, host, access),
        [host, inner] => (host, inner, "rwm"),
        [host, inner, access] if is_access(access) => (host, inner, access),
        _ => return Err(wrong()),
    };
    if !host.starts_with('/') {
        return Err(wrong());
    }
    Ok(Wanted::Path(Device {
        host: crate::settings::clean(host.as_ref()),
        inner: super::words::inside(inner)?,
        access: access.to_owned(),
    }))
}

fn is_access(text: &str) -> bool {
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    letters.dedup();
    !text.is_empty() && letters.len() == text.len() && text.chars().all(|c| "rwm".contains(c))
}

/// `TYPE MAJOR:MINOR ACCESS`, as devices.allow of cgroup v1 has it.
pub(crate) fn rule(text: &str) -> Result<Value> {
    let wrong = || Error::invalid(format!("{text:?} is not like 'c 10:229 rwm'"));
    let [kind, numbers, access] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(wrong());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| match text {
        "*" => Ok(-1),
        _ => text.parse::<u32>().map(i64::from).map_err(|_| wrong()),
    };
    if !["a", "b", "c"].contains(&kind) || !is_access(access) {
        return Err(wrong());
    }
    Ok(
        json!({"allow": true, "type": kind, "major": number(major)?, "minor": number(minor)?,
              "access": access}),
    )
}

/// The nodes that a `--device` means: the device itself, or all in a directory.
pub(crate) fn nodes(device: &Device) -> Result<Vec<Node>> {
    let failed = || format!("cannot look at {}", device.host.display());
    let metadata = std::fs::metadata(&device.host).context(failed)?;
    if !metadata.is_dir() {
        let node = node(&metadata, &device.inner, &device.access);
        let text = || Error::invalid(format!("{} is not a device", device.host.display()));
        return node.map(|node| vec![node]).ok_or_else(text);
    }
    let mut found = Vec::new();
    walk(
        &device.host,
        &device.inner,
        &device.access,
        DEPTH,
        &mut found,
    )
    .context(failed)?;
    Ok(found)
}

/// All devices of the host.
pub(crate) fn everything() -> Result<Vec<Node>> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), "/dev", "rwm", DEPTH, &mut found).context(|| "cannot list /dev")?;
    Ok(found)
}

fn walk(host: &Path, inner: &str, access: &str, depth: usize, found: &mut Vec<Node>) -> Result<()> {
    for entry in std::fs::read_dir(host)? {
        let entry = entry?;
        let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else {
            continue;
        };
        let path = format!("{inner}/{name}");
        if host == Path::new("/dev") && OWN.contains(&name.as_str()) {
            continue;
        }
        if metadata.is_dir() && depth > 0 {
            walk(&entry.path(), &path, access, depth - 1, found)?;
        } else if let Some(node) = node(&metadata, &path, access) {
            found.push(node);
        }
        if found.len() > NODES {
            return Err(Error::invalid(format!(
                "there are more than {NODES} devices"
            )));
        }
    }
    Ok(())
}

fn node(metadata: &std::fs::Metadata, path: &str, access: &str) -> Option<Node> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(Node {
        path: path.to_owned(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        for (text, expected) in [
            ("/dev/a", Some("/dev/a /dev/a rwm")),
            ("/dev/a:/dev/b", Some("/dev/a /dev/b rwm")),
            ("/dev/a:r", Some("/dev/a /dev/a r")),
            ("/dev/a:/dev/b:mw", Some("/dev/a /dev/b mw")),
            ("vendor.com/gpu=0", Some("cdi vendor.com/gpu=0")),
            ("/dev/a:/dev/b:x", None),
            ("/dev/a:rr", None),
            ("dev/a", None),
            ("/dev/a:b", None),
            ("/dev/a:", None),
            ("", None),
        ] {
            let found = device(text).ok().map(|wanted| match wanted {
                Wanted::Path(one) => format!("{} {} {}", one.host.display(), one.inner, one.access),
                Wanted::Cdi(name) => format!("cdi {name}"),
            });
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn rules() {
        assert_eq!(
            rule("c 10:* rw").unwrap(),
            json!({"allow": true, "type": "c", "major": 10, "minor": -1, "access": "rw"})
        );
        for text in ["", "c 10 rw", "x 1:1 r", "c 1:1 z", "c 1:1 r w", "c -1:1 r"] {
            rule(text).unwrap_err();
        }
    }

    #[test]
    fn nodes_of_the_host() {
        let null = Device {
            host: "/dev/null".into(),
            inner: "/dev/x".into(),
            access: "r".into(),
        };
        let found = nodes(&null).unwrap();
        assert_eq!((found[0].kind, found[0].major, found[0].minor), ('c', 1, 3));
        assert_eq!(found[0].path, "/dev/x");
        let all = everything().unwrap();
        assert!(all.iter().any(|node| node.path == "/dev/null"));
        assert!(!all.iter().any(|node| node.path.starts_with("/dev/pts/")));
        for path in ["/etc/passwd", "/nonexistent"] {
            nodes(&Device {
                host: path.into(),
                ..null.clone()
            })
            .unwrap_err();
        }
    }
}
