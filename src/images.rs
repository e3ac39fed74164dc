//! What the verbs on images share: the store with what uses its images, the registry's client, and the
//! sweep.

pub(crate) mod compare;
mod containers;
pub(crate) mod mounts;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rcrun_builder::cache::Cache;
use rcrun_image::Digest;
use rcrun_image::catalog::{Catalog, Image};
use rcrun_image::platform::Platform;
use rcrun_image::pull::{Way, unpack_stored};
use rcrun_image::registry::{Cancel, Client, Notice, Options};
use rcrun_image::roots::Marker;
use rcrun_overlay::gc::{self, Collected};
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::lease::{Lease, Root, SnapshotId};
use rcrun_overlay::snapshot::{Form, Snapshots};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::Result;

pub(crate) use containers::{User, users};

use crate::containers::volumes::Volumes;
use crate::containers::{Containers, Record, is_id};
use crate::progress::Progress;
use crate::settings::{Settings, in_user_namespace};
use crate::{report, rootless};

/// After this long the kernel has written out most of a layer by itself (`dirty_expire_centisecs`, 30 s).
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// All images of the store, with those that only containers still use.
pub(crate) fn catalog(store: &Store, users: &[User]) -> Result<Catalog> {
    let used: Vec<_> = users
        .iter()
        .filter_map(|user| user.manifest.clone())
        .collect();
    Catalog::read(store, &used, &Platform::host())
}

/// Tells of names whose images cannot be read.
pub(crate) fn warn_of_broken(catalog: &Catalog) {
    for (record, error) in &catalog.broken {
        let name = &record.name;
        report::warn(&format!("image {name} cannot be read: {}", error.chain()));
    }
}

/// How registries are talked to, as settings and environment say; credentials are in `authfile` if it
/// is given.
pub(crate) fn options(settings: &Settings, authfile: Option<&str>) -> Result<Options> {
    let variable = |name: &str| match (name, authfile) {
        ("REGISTRY_AUTH_FILE", Some(file)) => Some(file.to_owned()),
        _ => std::env::var(name).ok(),
    };
    Ok(Options::new(settings.file()?.registries, variable))
}

/// A client that is called off with `cancel`, and tells people what it waits for.
pub(crate) fn client(
    settings: &Settings,
    authfile: Option<&str>,
    cancel: &Cancel,
    progress: Option<&Arc<Progress>>,
) -> Result<Client> {
    let notice = match progress.cloned() {
        Some(progress) => told(move |line| progress.line(line)),
        None => Notice::default(),
    };
    telling_client(settings, authfile, cancel, notice)
}

/// The same for who shows things otherwise.
pub(crate) fn telling_client(
    settings: &Settings,
    authfile: Option<&str>,
    cancel: &Cancel,
    notice: Notice,
) -> Result<Client> {
    let mut options = options(settings, authfile)?;
    options.cancel = cancel.clone();
    options.notice = notice;
    Ok(Client::new(options))
}

/// Tells in a line what is waited for before it is tried again.
pub(crate) fn told(line: impl Fn(&str) + Send + Sync + 'static) -> Notice {
    Notice::new(move |wait, cause| {
        line(&match wait.is_zero() {
            true => format!("trying another way: {cause}"),
            false => format!("retrying in {} s: {cause}", wait.as_secs_f64().round()),
        });
    })
}

/// Whether an image's layers are all there; they are unpacked anew if only their archives are. The lease
/// holds the image and, from here on, its layers.
pub(crate) fn unpacked(
    store: &Store,
    lease: &Lease,
    image: &Image,
    way: Way,
    cancel: &Cancel,
) -> Result<bool> {
    let layers = Layers::new(store)?;
    let mut whole = true;
    for id in image.layers(way)? {
        lease.hold(&[Root::Layer(id.clone())])?;
        whole &= layers.get(&id)?.is_some();
    }
    if whole {
        return Ok(true);
    }
    let blobs = &image.document.layers;
    let content = store.content();
    for blob in blobs {
        if !content.contains(&blob.digest)? {
            return Ok(false);
        }
    }
    let ids = &image.config.rootfs.diff_ids;
    unpack_stored(store, lease, blobs, ids, way, &|_| {}, cancel)?;
    Ok(true)
}

/// Sees that the layers of a container are there: after a power cut before they were on the disk they are
/// unpacked again, from archives that stay as long as the container does. What is missing nevertheless is
/// told by who mounts them.
pub(crate) fn restored(store: &Store, record: &Record) -> Result<()> {
    let id: SnapshotId = record.snapshot.parse()?;
    let Some(snapshot) = Snapshots::new(store)?.open(&id)? else {
        return Ok(());
    };
    let layers = Layers::new(store)?;
    let mut whole = true;
    for id in &snapshot.record().layers {
        whole &= layers.get(id)?.is_some();
    }
    // A copy has all of its files.
    if whole || snapshot.record().form == Form::Copy {
        return Ok(());
    }
    let manifest: Digest = record.image.manifest.parse()?;
    let lease = store.lease()?;
    lease.hold(&[Root::Image(manifest.clone())])?;
    if let Some(image) = Image::read(&store.content(), &manifest)? {
        unpacked(store, &lease, &image, way(), &Cancel::new())?;
    }
    Ok(())
}

/// Settles layers that have been in the page cache only for a while. What is in the way of that is a
/// disk's trouble, not that of what was asked for.
pub(crate) fn settle(store: &Store) {
    let settled = Layers::new(store).and_then(|layers| layers.settle_older(SETTLED_AFTER));
    if let Err(error) = settled {
        report::warn(&format!("{}", error.chain()));
    }
}

/// How this caller unpacks layers.
pub(crate) fn way() -> Way {
    if !in_user_namespace() {
        return Way::Privileged;
    }
    match rootless::counts() {
        (0 | 1, _) | (_, 0 | 1) => Way::Single,
        _ => Way::Rootless,
    }
}

/// Removes what no name, container or process refers to. Needs no space on the disk.
pub(crate) fn sweep(store: &Store, policy: &gc::Policy) -> Result<Collected> {
    let mut marker = Marker::default();
    let made = Containers::existing(store.path())?;
    if let Some(containers) = made.as_ref().filter(|_| !policy.dry_run) {
        containers.sweep()?;
        if let Some(volumes) = Volumes::existing(store)? {
            volumes.sweep()?;
        }
    }
    let cache = Cache::existing(store)?;
    let mark = &mut |held: &HashSet<Root>| {
        // Snapshots of others than containers, which have names of another form, are theirs.
        let snapshots = Snapshots::new(store)?;
        let all = snapshots.list()?;
        let mut roots = held.clone();
        let mounts = mounts::living(&snapshots, &all)?;
        let mut stay: HashSet<SnapshotId> = all.into_iter().collect();
        stay.retain(|id| !is_id(id.as_str()) && !mounts::is_image(id));
        for mount in mounts {
            roots.extend(mount.manifest.map(Root::Image));
            stay.insert(mount.id);
        }
        // Whatever a container was made from stays as long as the container does.
        for root in made.as_ref().map_or(Ok(Vec::new()), Containers::roots)? {
            match root {
                Root::Snapshot(id) => drop(stay.insert(id)),
                root => drop(roots.insert(root)),
            }
        }
        for root in rcrun_cri::roots(store)? {
            match root {
                Root::Snapshot(id) => drop(stay.insert(id)),
                root => drop(roots.insert(root)),
            }
        }
        let mut reachable = marker.reachable(store, &roots)?;
        if let Some(cache) = &cache {
            reachable.layers.extend(cache.layers()?);
        }
        reachable.snapshots = Some(stay);
        Ok(reachable)
    };
    gc::collect(store, policy, mark)
}
