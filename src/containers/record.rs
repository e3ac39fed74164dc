//! `container.json`: what a container is, as it was asked for. Written once, last of its files.
//!
//! Of a container that is removed at its end (`--rm`) nothing is synced, since after a power cut nobody
//! wants it. Its record has the machine's boot in its name instead: `container.BOOT.json`. While that is the
//! present one, what is in the file is what was written; of another boot it is no record, whatever it
//! has become, and its container is swept like any that was never completed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use rcrun_overlay::layer::lifetime::boot;
use rcrun_overlay::{durable, record};
use rcrun_runtime::container::{CgroupDriver, Runtime};
use rcrun_runtime::error::Result;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use super::spec::{Extent, Publish};

/// The file.
const FILE: &str = "container.json";
/// The version that is written and read.
const VERSION: u32 = 1;
/// The longest record that is read: labels and arguments are up to who made it.
const LIMIT: u64 = 16 << 20;

/// The record. Unknown fields are ignored: a later version that means something else by it has
/// another number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// 1.
    pub(crate) version: u32,
    /// The container's ID.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// What it was made from.
    pub(crate) image: ImageFacts,
    /// The snapshot's ID in the store.
    pub(crate) snapshot: String,
    /// RFC 3339, UTC, nanoseconds.
    pub(crate) created: String,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Of the image and of the person.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Removed when it ends (`--rm`).
    pub(crate) auto_remove: bool,
    /// Has a terminal (`-t`).
    pub(crate) terminal: bool,
    /// What its standard input is.
    pub(crate) stdin: Stdin,
    /// What asks it to end: a signal's number.
    pub(crate) stop_signal: i32,
    /// Seconds until it is killed instead; absent: for ever.
    pub(crate) stop_timeout: Option<u64>,
    /// Its output; absent: kept nowhere.
    pub(crate) log: Option<Log>,
    /// Keys that end an attachment.
    pub(crate) detach_keys: String,
    /// User ids of the host that its own ones are; empty: the same.
    #[serde(default)]
    pub(crate) map: Vec<Extent>,
    /// Volumes that it uses.
    #[serde(default)]
    pub(crate) volumes: Vec<VolumeUse>,
    /// Its place on the bridge; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<NetworkUse>,
    /// Where its runtime's and monitor's state are.
    pub(crate) runtime: RuntimeFacts,
}

/// What a container asks of the bridge, each time it is started. What it got is in the bridge's records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkUse {
    /// Ports that are published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<Publish>,
    /// Addresses that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<IpAddr>,
    /// The hardware address that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    /// What stands in /etc/hosts behind its addresses.
    pub(crate) names: String,
    /// The lines of /etc/hosts before that one.
    pub(crate) hosts: String,
}

/// A volume of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeUse {
    /// Its name.
    pub(crate) name: String,
    /// Where it is mounted.
    pub(crate) destination: String,
    /// It was made for this container, without a name.
    pub(crate) anonymous: bool,
}

/// The image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageFacts {
    /// As the person wrote it.
    pub(crate) name: String,
    /// The same in full.
    pub(crate) reference: String,
    /// The manifest's digest, which also is in the way of its removal by a sweep.
    pub(crate) manifest: String,
    /// The configuration's digest: the image's ID.
    pub(crate) config: String,
}

/// Standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stdin {
    /// `/dev/null`.
    None,
    /// Stays open when who is attached ends.
    Open,
    /// Ends with the input of the first who is attached.
    Once,
}

/// `STORE/containers/ID/log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Log {
    /// A file is followed by a new one at this size.
    pub(crate) max_size: Option<u64>,
    /// So many files are kept.
    pub(crate) max_files: u32,
    /// What `logs --details` shows.
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// The global flags that the container was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuntimeFacts {
    /// `--root`.
    pub(crate) root: PathBuf,
    /// `--systemd-cgroup`.
    pub(crate) systemd_cgroup: bool,
    /// `--rootless`.
    pub(crate) rootless: Option<bool>,
}

impl RuntimeFacts {
    /// Of the runtime that makes a container.
    pub(crate) fn of(runtime: &Runtime) -> Self {
        Self {
            root: runtime.root.clone(),
            systemd_cgroup: runtime.cgroup_driver == CgroupDriver::Systemd,
            rootless: runtime.rootless,
        }
    }

    /// The runtime that made it.
    pub(crate) fn runtime(&self) -> Runtime {
        Runtime {
            root: self.root.clone(),
            cgroup_driver: match self.systemd_cgroup {
                true => CgroupDriver::Systemd,
                false => CgroupDriver::Files,
            },
            rootless: self.rootless,
        }
    }
}

impl Record {
    /// The version of records that are made.
    pub(crate) const VERSION: u32 = VERSION;

    /// The runtime that holds it: of `--root` as it was when it was made.
    pub(crate) fn runtime(&self) -> Runtime {
        self.runtime.runtime()
    }
}

/// The file of a container that ends with this boot; none where that cannot be told.
fn passing() -> Option<&'static str> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        let boot = boot().ok()?;
        let plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        (!boot.is_empty() && boot.bytes().all(plain)).then(|| format!("container.{boot}.json"))
    });
    name.as_deref()
}

/// The names that a record can have at present.
pub(super) fn files() -> impl Iterator<Item = &'static str> {
    std::iter::once(FILE).chain(passing())
}

/// The record as it is on the disk, whoever reads it; none if there is none.
pub(crate) fn bytes(directory: BorrowedFd<'_>) -> Result<Option<Vec<u8>>> {
    for name in files() {
        if let Some(bytes) = durable::read(directory, name, LIMIT)? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Reads the record; none if there is none.
pub(super) fn read(directory: BorrowedFd<'_>) -> Result<Option<Record>> {
    bytes(directory)?.map(|bytes| parse(&bytes)).transpose()
}

fn parse(bytes: &[u8]) -> Result<Record> {
    record::decode(bytes, FILE, VERSION)
}

/// Writes the record, whole, and durable unless the container is not to outlive this boot.
pub(super) fn write(directory: BorrowedFd<'_>, record: &Record) -> Result<()> {
    let text = record::encode(record)?;
    let mode = Mode::from(0o600);
    match passing().filter(|_| record.auto_remove) {
        Some(name) => durable::replace_unsynced(directory, name, &text, mode),
        None => durable::replace(directory, FILE, &text, mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcrun_runtime::error::ErrorKind;

    #[test]
    fn another_version_is_refused_before_anything_else_is_read() {
        let error = parse(br#"{"version":2,"id":7}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for bytes in [&b"{"[..], b"[]", br#"{"version":1}"#, br#"{"id":"x"}"#] {
            assert_eq!(parse(bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
