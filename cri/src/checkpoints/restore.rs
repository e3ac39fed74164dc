//! CreateContainer of a checkpoint, and its start.
//!
//! The container is made as any other: from the request, the pod, and the image below the checkpoint. Then what
//! it had changed gets into its snapshot, and criu's images into its directory; its monitor begins with
//! its start only, and has criu make it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;

use prost::Message;
use rcrun_image::catalog::Image;
use rcrun_overlay::archive::name::{join, split};
use rcrun_overlay::archive::{Entry, Kind as EntryKind, Time, Writer};
use rcrun_overlay::durable::open_directory;
use rcrun_overlay::lease::SnapshotId;
use rcrun_overlay::snapshot::{Mounting, Snapshots, Stack};
use rcrun_runtime::monitor::{self, Launch, Restore, When};
use rustix::fs::Mode;
use serde_json::Value;
use tonic::Status;

use super::arrive::Origin;
use super::{IMAGES, LOG, RESTORING};
use crate::core::{Container, Core, precondition};
use crate::images::Held;
use crate::records::{Kind, now};
use crate::status::status;
use crate::{Context, Error, ErrorKind, Result};

/// What an image that has a checkpoint says in its manifest: for containerd, and for CRI-O before.
const ANNOTATIONS: [&str; 2] = [
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
];
/// What the monitor is to be told, once the container starts.
const LAUNCH: &str = "launch.json";
/// Where criu logs.
const WORK: &str = "work";
/// What the image of the host's names begins with.
const NAMES: &str = "utsns-";
/// What images begin with: two numbers.
const MAGIC: usize = 8;
/// What was deleted, as an archive.
const MARKS: &str = "marks.tar";

/// The checkpoint that a container is made from.
#[derive(Debug)]
pub(crate) struct Source {
    origin: Origin,
    /// The image that it is in.
    _held: Option<Box<Held>>,
}

fn is_checkpoint(image: &Image) -> bool {
    let notes = &image.document.annotations;
    ANNOTATIONS.iter().any(|name| notes.contains_key(*name))
}

impl Core {
    /// The image that a container is made of, by what the request calls it: the path of an archive too.
    pub(crate) async fn hold_image(self: &Arc<Self>, wanted: &str) -> Result<Held, Status> {
        let (path, held) = match wanted.starts_with('/') {
            true => (wanted.to_owned(), None),
            false => {
                let held = self.images.hold(wanted).await?;
                if !is_checkpoint(&held.image) {
                    return Ok(held);
                }
                (wanted.to_owned(), Some(held))
            }
        };
        self.may_restore().map_err(|error| status(&error))?;
        let core = Arc::clone(self);
        let told = path.clone();
        // Those that a kubelet knows.
        let names = held
            .as_ref()
            .map(|held| held.names.clone())
            .unwrap_or_default();
        let opened = self.light.run(move || {
            let open = || -> Result<_> {
                let origin = match &held {
                    None => Origin::open(&path)?,
                    Some(held) => Origin::Tree(core.tree(held)?),
                };
                let base = origin.base()?;
                Ok((origin, base, held.map(Box::new)))
            };
            open().context(|| format!("cannot restore from {told}"))
        });
        let (origin, base, _held) = opened.await?;
        let failed = |found: Status| {
            let text = format!("the image below checkpoint {wanted}: {}", found.message());
            Status::new(found.code(), text)
        };
        let mut below = self.images.hold(&base.image).await.map_err(failed)?;
        if is_checkpoint(&below.image) {
            let text = format!("the image below checkpoint {wanted} is a checkpoint itself");
            return Err(Status::invalid_argument(text));
        }
        below.names = names;
        below.checkpoint = Some(Source { origin, _held });
        Ok(below)
    }

    fn may_restore(&self) -> Result<()> {
        let settings = self.images.settings();
        let failed = || "cannot restore a container";
        if !settings.restore {
            let error = precondition("checkpoints are not trusted here").with_hint(
                "where everybody who names images may be trusted with that: the setting cri.restore",
            );
            return Err(error).context(failed);
        }
        super::criu(&settings)
            .map(drop)
            .map_err(|error| precondition(error.chain().to_string()))
            .context(failed)
    }

    /// All that an image has, to be read.
    fn tree(&self, held: &Held) -> Result<OwnedFd> {
        let way = self.host.way;
        let layers = held.image.layers(way)?;
        let stack = Stack::open(&self.host.store, &layers, way.overlay())?;
        stack.detached(&Mounting {
            read_only: true,
            ..Mounting::default()
        })
    }
}

impl Source {
    /// Has everything in place that criu needs.
    pub(crate) fn prepare(&self, core: &Core, container: &Container, spec: &Value) -> Result<()> {
        let failed = || "cannot restore the container";
        check_namespaces(spec).context(failed)?;
        let directory = core.places.path(Kind::Container, &container.id);
        let place = directory.join(RESTORING);
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.mode(0o700).create(&place);
        made.context(|| format!("cannot make {}", place.display()))?;
        let into = open_directory(rustix::fs::CWD, &place.display().to_string())?;
        let arrived = self.origin.unpack(&into).context(failed)?;
        name_host(core, container, &into).context(failed)?;
        let mut archives = Vec::new();
        if !arrived.deleted.is_empty() {
            archives.push(marks(&place.join(MARKS), &arrived.deleted).context(failed)?);
        }
        archives.extend(arrived.changes);
        if archives.is_empty() {
            return Ok(());
        }
        let id: SnapshotId = container.state().record.snapshot.parse()?;
        let gone = || Error::new(ErrorKind::NotFound, format!("there is no snapshot {id}"));
        let snapshot = Snapshots::new(&core.host.store)?
            .open(&id)?
            .ok_or_else(gone)?;
        snapshot
            .fill(archives, &core.host.way.options())
            .context(failed)
    }
}

/// criu names the host of the namespace that it enters, which is the pod's, as the image says: that gets the
/// pod's name (criu, images/utsns.proto).
fn name_host(core: &Core, container: &Container, into: &OwnedFd) -> Result<()> {
    let images = open_directory(into, IMAGES)?;
    let host = crate::spec::pod::hostname(&container.pod.config(), &core.node)?;
    let machine = rustix::system::uname();
    let domain = machine.domainname().to_string_lossy();
    for entry in rustix::fs::Dir::read_from(&images)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(NAMES) {
            continue;
        }
        let file = rcrun_overlay::durable::open_file(&images, &name)?;
        let mut magic = [0; MAGIC];
        if let Some(mut file) = file {
            file.read_exact(&mut magic)
                .map_err(|_| Error::invalid(format!("{name} of the checkpoint is too short")))?;
        }
        let image = named(magic, &host, &domain);
        let mode = Mode::from_raw_mode(0o600);
        rcrun_overlay::durable::replace_unsynced(&images, &name, &image, mode)?;
    }
    Ok(())
}

/// An image of names. Pure.
fn named(magic: [u8; MAGIC], host: &str, domain: &str) -> Vec<u8> {
    let message = Names {
        host: host.to_owned(),
        domain: domain.to_owned(),
    };
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&magic[..], &length.to_le_bytes(), &message].concat()
}

/// `utsns_entry`.
#[derive(Clone, PartialEq, Message)]
struct Names {
    #[prost(string, required, tag = "1")]
    host: String,
    #[prost(string, required, tag = "2")]
    domain: String,
}

/// criu makes processes with the numbers that they had, and the ids; a namespace of processes has to be the
/// container's own for that, and users' none.
fn check_namespaces(spec: &Value) -> Result<()> {
    let none = Vec::new();
    let all = spec["linux"]["namespaces"].as_array().unwrap_or(&none);
    let own = |kind: &str| {
        all.iter()
            .any(|one| one["type"] == kind && one["path"].as_str().unwrap_or_default().is_empty())
    };
    if all.iter().any(|one| one["type"] == "user") {
        return Err(Error::unsupported("its pod has a user namespace"));
    }
    match own("pid") && own("mount") {
        true => Ok(()),
        false => Err(Error::unsupported(
            "it shares its processes with others: criu has to give them the numbers they had",
        )),
    }
}

/// An archive that marks these paths as deleted.
fn marks(path: &Path, deleted: &[Vec<u8>]) -> Result<File> {
    let file = File::create_new(path)?;
    let mut writer = Writer::new(std::io::BufWriter::new(file));
    for path in deleted {
        let (parent, name) = split(path);
        let entry = Entry {
            path: join(parent, &[b".wh.", name].concat()),
            kind: EntryKind::Regular,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: Time {
                seconds: now() / 1_000_000_000,
                nanoseconds: 0,
            },
            size: 0,
            map: None,
            attributes: Vec::new(),
        };
        writer.append(&entry, &mut std::io::empty())?;
    }
    let buffered = writer.finish()?;
    let file = buffered
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}

/// Keeps what the monitor is to be told for the start.
pub(crate) fn keep(core: &Core, id: &str, mut launch: Launch, spec: &Value) -> Result<()> {
    let place = core.places.path(Kind::Container, id).join(RESTORING);
    let text = |value: &Value| {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let node = &core.node;
    let apparmor = text(&spec["process"]["apparmorProfile"]).filter(|_| node.apparmor.is_some());
    let selinux = text(&spec["process"]["selinuxLabel"]).filter(|_| node.selinux);
    launch.start = When::Now;
    launch.restore = Some(Restore {
        images: place.join(IMAGES),
        work: place.join(WORK),
        criu: super::criu(&core.images.settings())?,
        mount_context: text(&spec["linux"]["mountLabel"]).filter(|_| node.selinux),
        profile: match (apparmor, selinux) {
            (Some(name), _) => Some(format!("apparmor:{name}")),
            (None, Some(label)) => Some(format!("selinux:{label}")),
            (None, None) => None,
        },
    });
    let path = place.join(LAUNCH);
    let failed = || format!("cannot write {}", path.display());
    let text = serde_json::to_vec(&launch)
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
        .context(failed)?;
    std::fs::write(&path, text).context(failed)
}

/// Starts the monitor, which restores the container; its process.
pub(crate) fn start(core: &Core, id: &str) -> Result<Child> {
    let place = core.places.path(Kind::Container, id).join(RESTORING);
    let path = place.join(LAUNCH);
    let failed = || format!("cannot read {}", path.display());
    let text = std::fs::read(&path).context(failed)?;
    let launch: Launch = serde_json::from_slice(&text)
        .map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))
        .context(failed)?;
    if let Some(log) = &launch.log {
        continue_log(&place.join(LOG), &log.path)?;
    }
    let started = launch.start(&[], None);
    clear(core, id);
    Ok(started?.monitor)
}

/// The log begins with what it was, unless there is one.
fn continue_log(from: &Path, log: &Path) -> Result<()> {
    let mut from = match File::open(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.context(|| format!("cannot open {}", from.display()))?,
    };
    let failed = || format!("cannot write log {}", log.display());
    let mut options = std::fs::OpenOptions::new();
    // With that a link of this name is not followed.
    options.write(true).create_new(true).mode(0o640);
    let mut file = match options.open(log) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.context(failed)?,
    };
    std::io::copy(&mut from, &mut file)
        .context(failed)
        .map(drop)
}

/// Whether its monitor restores a container at this moment.
pub(crate) fn is_restoring(core: &Core, id: &str) -> Result<bool> {
    let place = core.places.path(Kind::Container, id).join(RESTORING);
    Ok(place.join(IMAGES).exists() && monitor::lives(&core.runtime.root, id)?)
}

/// Removes what a container was to go on from, unless its monitor does that at this moment.
pub(crate) fn clear(core: &Core, id: &str) {
    let place = core.places.path(Kind::Container, id).join(RESTORING);
    if is_restoring(core, id).unwrap_or(true) {
        return;
    }
    match std::fs::remove_dir_all(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            // It goes with the container.
            tracing::warn!("cannot remove {}: {error}", place.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn namespaces_of_processes_are_the_containers_own() {
        for (all, good) in [
            (json!([{"type": "mount"}, {"type": "pid"}]), true),
            (
                json!([{"type": "mount"}, {"type": "pid", "path": "/proc/1/ns/pid"}]),
                false,
            ),
            (json!([{"type": "mount"}]), false),
            (json!([{"type": "pid"}]), false),
            (
                json!([{"type": "mount"}, {"type": "pid"}, {"type": "user", "path": "/u"}]),
                false,
            ),
        ] {
            let spec = json!({"linux": {"namespaces": all}});
            assert_eq!(check_namespaces(&spec).is_ok(), good, "{all}");
        }
        assert!(check_namespaces(&json!({})).is_err());
    }

    #[test]
    fn names_of_the_host_are_written_as_criu_reads_them() {
        let image = named([7; MAGIC], "pod", "");
        let expected = [&[7; MAGIC][..], &[7, 0, 0, 0], b"\x0a\x03pod\x12\x00"].concat();
        assert_eq!(image, expected);
    }

    #[test]
    fn a_log_goes_on_where_there_is_none_and_follows_no_link() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("from"), "old").unwrap();
        continue_log(&path("from"), &path("log")).unwrap();
        assert_eq!(std::fs::read(path("log")).unwrap(), b"old");
        std::fs::write(path("there"), "new").unwrap();
        continue_log(&path("from"), &path("there")).unwrap();
        assert_eq!(std::fs::read(path("there")).unwrap(), b"new");
        std::os::unix::fs::symlink(path("victim"), path("link")).unwrap();
        continue_log(&path("from"), &path("link")).unwrap();
        assert!(!path("victim").exists());
        continue_log(&path("none"), &path("other")).unwrap();
        assert!(!path("other").exists());
    }
}
