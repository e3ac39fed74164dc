//! Which images containers were made from: what their records say, without anything else of them; and
//! which are mounted.

use std::os::fd::{AsFd, OwnedFd};

use rcrun_image::Digest;
use rcrun_overlay::snapshot::Snapshots;
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::mounts;
use crate::containers::record_bytes;

/// The directory of containers below the store.
const CONTAINERS: &str = "containers";
/// A container's record.
const RECORD: &str = "container.json";

/// A container, as far as images are concerned, or a mount of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Its identifier.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// The manifest of its image.
    pub(crate) manifest: Option<Digest>,
    /// It is a mount, called like the image.
    pub(crate) is_mount: bool,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    name: String,
    #[serde(default)]
    image: Option<Image>,
}

#[derive(Deserialize)]
struct Image {
    #[serde(default, alias = "digest")]
    manifest: Option<Digest>,
}

/// All containers that have a record; one that is being made is held by its maker's lease. A record
/// that cannot be read is an error: nothing may be removed that it could need.
pub(crate) fn users(store: &Store) -> Result<Vec<User>> {
    let mut users = of_containers(store)?;
    let snapshots = Snapshots::new(store)?;
    let mounts = mounts::living(&snapshots, &snapshots.list()?)?;
    users.extend(mounts.into_iter().map(mounts::Living::user));
    Ok(users)
}

fn of_containers(store: &Store) -> Result<Vec<User>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let all = match rustix::fs::openat(store.root(), CONTAINERS, flags, Mode::empty()) {
        Ok(all) => all,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(errno).context(|| "cannot list containers"),
    };
    let mut users = Vec::new();
    for entry in rustix::fs::Dir::read_from(&all).context(|| "cannot list containers")? {
        let entry = entry.context(|| "cannot list containers")?;
        let id = entry.file_name().to_string_lossy();
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id {
            users.extend(user(&all, &id)?);
        }
    }
    users.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(users)
}

fn user(all: &OwnedFd, id: &str) -> Result<Option<User>> {
    let words = || format!("cannot tell which image container {id} uses");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let directory = match rustix::fs::openat(all, id, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).context(words),
    };
    let Some(bytes) = record_bytes(directory.as_fd()).context(words)? else {
        return Ok(None);
    };
    rcrun_overlay::record::check(&bytes).context(words)?;
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("{RECORD}: {error}")))
        .context(words)?;
    Ok(Some(User {
        id: id.to_owned(),
        name: record.name,
        manifest: record.image.and_then(|image| image.manifest),
        is_mount: false,
    }))
}
