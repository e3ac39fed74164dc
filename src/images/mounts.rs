//! Images and containers that people mount to look at them (`mount`).
//!
//! An image that is mounted has a snapshot of its own, `mount-*`, of which nothing but the record
//! matters: it holds the layers, and its labels the image. The mount's source has the snapshot's
//! name, so the kernel's tables of mounts say whether one is still used ([`living`]): nothing has to
//! be written when a mount goes, by whatever way. The mount exists before its maker's lease ends, and
//! the sweep reads leases before it looks for mounts.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rcrun_image::Digest;
use rcrun_image::catalog::{Image, Meant, no_such_image};
use rcrun_image::pull::Way;
use rcrun_image::registry::Cancel;
use rcrun_overlay::layer::lifetime::boot;
use rcrun_overlay::lease::{Lease, Root, SnapshotId};
use rcrun_overlay::snapshot::{
    Mounted, Options, Snapshot, Snapshots, mount_namespace, mounts_everywhere,
};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::{User, catalog, way};
use crate::containers::Record;

/// How the names of such snapshots begin, which no container's ID does.
const PREFIX: &str = "mount-";
/// The manifest.
const MANIFEST: &str = "mount.manifest";
/// The image's identifier.
const IMAGE: &str = "mount.image";
/// The image as the person called it.
const NAME: &str = "mount.name";
/// Until when the machine ran: mounts end with that.
const BOOT: &str = "mount.boot";
/// The mount namespace of whoever mounted it.
const NAMESPACE: &str = "mount.namespace";
/// The pid namespace, in which that one has its processes.
const PIDS: &str = "mount.pids";
/// The first pid namespace (`PROC_PID_INIT_INO`), from which all others are seen.
const FIRST_PIDS: u64 = 0xEFFF_FFFC;
/// How often an image is looked up that changes all the time.
const TRIES: usize = 8;

/// Whether a snapshot is that of a mounted image.
pub(crate) fn is_image(id: &SnapshotId) -> bool {
    id.as_str().starts_with(PREFIX)
}

/// Identifier and name of the image that such a snapshot is of.
pub(crate) fn image_of(snapshot: &Snapshot) -> (String, String) {
    let label = |name| snapshot.record().labels.get(name).cloned();
    (
        label(IMAGE).unwrap_or_default(),
        label(NAME).unwrap_or_default(),
    )
}

/// The identifier of what a person means now, if anything.
pub(crate) fn image_named(store: &Store, name: &str) -> Option<Digest> {
    let users = super::users(store).ok()?;
    let catalog = catalog(store, &users).ok()?;
    match catalog.find(name).ok()? {
        Meant::Name(_, Some(listed)) | Meant::Image(listed) => Some(listed.image.id.clone()),
        Meant::Name(_, None) => None,
    }
}

/// Whether it is of the image that a person calls so, which by now may have another name or none.
pub(crate) fn is_of(snapshot: &Snapshot, name: &str, image: Option<&Digest>) -> bool {
    let (id, called) = image_of(snapshot);
    called == name || image.is_some_and(|image| image.to_string() == id)
}

/// Mounts an image, read-only, and holds it as long as it is mounted.
pub(crate) fn mount_image(store: &Store, name: &str, at: &Path) -> Result<()> {
    let way = way();
    let lease = store.lease()?;
    let image = held(store, &lease, name, way)?;
    super::unpacked(store, &lease, &image, way, &Cancel::new())?;
    let labels = [
        (MANIFEST, image.manifest.digest.to_string()),
        (IMAGE, image.id.to_string()),
        (NAME, name.to_owned()),
        (BOOT, boot()?),
        (NAMESPACE, mount_namespace()?.to_string()),
        (PIDS, pids()?.to_string()),
    ];
    let options = Options {
        marks: way.overlay(),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        ..Options::default()
    };
    let snapshots = Snapshots::new(store)?;
    let id: SnapshotId = format!("{PREFIX}{}", crate::containers::random_id()?).parse()?;
    let snapshot = snapshots
        .create(&lease, &id, &image.layers(way)?, options)
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_hint(format!("`rcrun pull {name}` unpacks it")),
            _ => error,
        })?;
    snapshot.mount_at(at, true).inspect_err(|_| {
        // The first error matters more; what remains is swept.
        let _ = snapshots.remove(&id);
    })
}

/// The image that is meant, held with its layers.
pub(crate) fn held(store: &Store, lease: &Lease, name: &str, way: Way) -> Result<Image> {
    let find = || -> Result<Image> {
        let catalog = catalog(store, &super::users(store)?)?;
        match catalog.find(name)? {
            Meant::Name(_, Some(listed)) | Meant::Image(listed) => Ok(listed.image.clone()),
            Meant::Name(..) => Err(no_such_image(name)),
        }
    };
    for _ in 0..TRIES {
        let image = find()?;
        let mut roots = vec![Root::Image(image.manifest.digest.clone())];
        roots.extend(image.layers(way)?.into_iter().map(Root::Layer));
        lease.hold(&roots)?;
        // Only what refers to it still vouches for what is held now.
        if find()?.manifest.digest == image.manifest.digest {
            return Ok(image);
        }
    }
    Err(Error::new(ErrorKind::Busy, "others change it all the time"))
}

/// The snapshot of a container.
pub(crate) fn of_container(store: &Store, record: &Record) -> Result<Snapshot> {
    let id = record.snapshot.parse()?;
    let missing = || {
        Error::new(
            ErrorKind::NotFound,
            format!("no snapshot {id} in the store"),
        )
    };
    super::restored(store, record)?;
    Snapshots::new(store)?.open(&id)?.ok_or_else(missing)
}

/// An error if it is mounted for writing by a person.
pub(crate) fn refuse_writable(id: &SnapshotId) -> Result<()> {
    refuse(id, |one| !one.read_only)
}

/// An error if it is mounted by a person.
pub(crate) fn refuse_mounted(id: &SnapshotId) -> Result<()> {
    refuse(id, |_| true)
}

fn refuse(id: &SnapshotId, which: fn(&Mounted) -> bool) -> Result<()> {
    let all = mounts_everywhere()?;
    let Some(one) = all.find(id, which) else {
        return Ok(());
    };
    let path = one.path.display();
    let how = if one.read_only { "" } else { " for writing" };
    let text = format!("it is mounted{how} at {path}");
    Err(Error::new(ErrorKind::FailedPrecondition, text)
        .with_hint(format!("`rcrun unmount {path}` comes first")))
}

/// After an unmount: what held the image goes with its last mount.
pub(crate) fn release(store: &Store, id: &SnapshotId) -> Result<()> {
    if !is_image(id) || mounts_everywhere()?.find(id, |_| true).is_some() {
        return Ok(());
    }
    // Of another store, it is none here; that one's sweep finds it.
    Snapshots::new(store)?.remove(id).map(drop)
}

/// A snapshot of an image that is mounted.
#[derive(Debug)]
pub(crate) struct Living {
    /// Its name.
    pub(crate) id: SnapshotId,
    /// The image's manifest.
    pub(crate) manifest: Option<Digest>,
    /// What the person called the image.
    name: String,
}

impl Living {
    /// As something that uses an image.
    pub(crate) fn user(self) -> User {
        User {
            id: self.id.as_str().to_owned(),
            name: self.name,
            manifest: self.manifest,
            is_mount: true,
        }
    }
}

/// Which of these snapshots are those of images that are mounted.
pub(crate) fn living(snapshots: &Snapshots, ids: &[SnapshotId]) -> Result<Vec<Living>> {
    let mut mounts = ids.iter().filter(|id| is_image(id)).peekable();
    if mounts.peek().is_none() {
        return Ok(Vec::new());
    }
    let (boot, pids) = (boot()?, pids()?);
    let everywhere = mounts_everywhere()?;
    let mut found = Vec::new();
    for id in mounts {
        let Some(snapshot) = snapshots.open(id)? else {
            continue;
        };
        let labels = &snapshot.record().labels;
        let looked = Looked {
            found: everywhere.find(id, |_| true).is_some(),
            namespaces: &everywhere.namespaces,
            partial: everywhere.partial,
        };
        if is_living(labels, &boot, pids, &looked) {
            found.push(Living {
                id: id.clone(),
                manifest: labels.get(MANIFEST).and_then(|text| text.parse().ok()),
                name: image_of(&snapshot).1,
            });
        }
    }
    Ok(found)
}

/// A look at mount namespaces for the mount of one snapshot.
struct Looked<'a> {
    found: bool,
    namespaces: &'a HashSet<u64>,
    partial: bool,
}

/// Whether a snapshot is still mounted. Where its mount namespace cannot be seen, it counts as
/// mounted until the machine is started anew.
fn is_living(
    labels: &BTreeMap<String, String>,
    boot: &str,
    pids: u64,
    looked: &Looked<'_>,
) -> bool {
    let number = |name| labels.get(name).and_then(|text| text.parse::<u64>().ok());
    let there = number(NAMESPACE).is_some_and(|one| looked.namespaces.contains(&one));
    let all = !looked.partial && (pids == FIRST_PIDS || number(PIDS) == Some(pids));
    labels.get(BOOT).map(String::as_str) == Some(boot) && (looked.found || !(there || all))
}

fn pids() -> Result<u64> {
    let path = "/proc/self/ns/pid";
    let found = std::fs::metadata(path).context(|| format!("cannot examine {path}"))?;
    Ok(found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_mounted() {
        let namespaces = HashSet::from([1, 2]);
        // Made in a boot, mount and pid namespace; ours; found, partial.
        for (made, ours, found, partial, expected) in [
            (("now", 1, 7), 7, true, false, true),
            (("now", 1, 7), 7, false, false, false),
            (("now", 1, 7), 8, false, true, false),
            // The last process of the mount namespace has ended, or nobody here can see it.
            (("now", 3, 7), 7, false, false, false),
            (("now", 3, 7), FIRST_PIDS, false, false, false),
            (("now", 3, 7), 7, false, true, true),
            (("now", 3, 7), FIRST_PIDS, false, true, true),
            (("now", 3, 7), 8, false, false, true),
            (("now", 3, FIRST_PIDS), 8, false, false, true),
            (("before", 3, 7), 8, false, true, false),
            (("before", 1, 7), 7, true, false, false),
        ] {
            let (boot, namespace, pids) = made;
            let labels = [
                (BOOT, boot.to_owned()),
                (NAMESPACE, namespace.to_string()),
                (PIDS, pids.to_string()),
            ];
            let labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
            let looked = Looked {
                found,
                namespaces: &namespaces,
                partial,
            };
            let is = is_living(&labels, "now", ours, &looked);
            assert_eq!(is, expected, "{made:?} {ours} {found} {partial}");
        }
    }
}
