//! Where logs go: never out of the pod's directory (CVE-2025-0750).

use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// The longest path of a log.
const LONGEST: usize = 4096;

/// A log's place. The file is opened below the directory, following no link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The pod's: absolute.
    pub directory: PathBuf,
    /// Below it, without `..`.
    pub path: PathBuf,
}

impl Log {
    /// The whole path, for status.
    pub fn full(&self) -> PathBuf {
        self.directory.join(&self.path)
    }
}

/// Where a pod's logs go.
pub(super) fn log_directory(text: &str) -> Result<Option<PathBuf>> {
    match text {
        "" => Ok(None),
        text if !text.starts_with('/') => Err(Error::invalid(format!(
            "log_directory {text:?} is no absolute path"
        ))),
        text => Ok(Some(Path::new("/").join(parts("log_directory", text)?))),
    }
}

/// Where a container's log goes (CVE-2025-0750: never out of the pod's directory).
pub(super) fn log(directory: &str, path: &str) -> Result<Option<Log>> {
    let (Some(directory), false) = (log_directory(directory)?, path.is_empty()) else {
        return Ok(None);
    };
    if path.starts_with('/') {
        return Err(Error::invalid(format!(
            "log_path {path:?} is not relative to log_directory"
        )));
    }
    match parts("log_path", path)? {
        empty if empty.as_os_str().is_empty() => Ok(None),
        path => Ok(Some(Log { directory, path })),
    }
}

/// The names in a path, of which none leads upwards.
fn parts(what: &str, text: &str) -> Result<PathBuf> {
    let refused = |why: &str| Error::invalid(format!("{what} {text:?} {why}"));
    if text.len() > LONGEST || text.contains(char::is_control) {
        return Err(refused("is no path"));
    }
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refused("holds \"..\""));
            }
        }
    }
    Ok(path)
}
