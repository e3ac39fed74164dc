//! Devices of the host, looked up for a container.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};

/// How many nodes a directory may have.
const NODES: usize = 4096;
/// How deep directories are looked into.
const DEPTH: usize = 8;

/// Directories and names below /dev that a privileged container does not get: they are its own.
const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".udev"];

/// A device that is wanted, or a directory of some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Path on the host.
    pub host: PathBuf,
    /// Path in the container.
    pub inner: String,
    /// What may be done with it: some of `rwm`.
    pub access: String,
}

/// A node of the host, for the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Path in the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    /// Number of the driver.
    pub major: u32,
    /// Number of the device.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What may be done with it: some of `rwm`.
    pub access: String,
}

impl Node {
    /// For `linux.devices`.
    pub fn node(&self) -> Value {
        json!({"path": self.path, "type": self.kind.to_string(), "major": self.major,
               "minor": self.minor, "fileMode": self.mode, "uid": self.uid, "gid": self.gid})
    }

    /// For `linux.resources.devices`.
    pub fn rule(&self) -> Value {
        json!({"allow": true, "type": self.kind.to_string(), "major": self.major,
               "minor": self.minor, "access": self.access})
    }
}

/// Whether it is some of `r`, `w` and `m`, each once.
pub fn is_access(text: &str) -> bool {
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    letters.dedup();
    !text.is_empty() && letters.len() == text.len() && text.chars().all(|c| "rwm".contains(c))
}

/// The nodes that are meant: the device itself, or all in a directory.
pub fn nodes(device: &Device) -> Result<Vec<Node>> {
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
pub fn everything() -> Result<Vec<Node>> {
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
