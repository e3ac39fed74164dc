//! A container's mounts: those of every container, the pod's files, the image's volumes, and what is asked for,
//! which takes the place of what would be there.

mod base;

use std::collections::{BTreeSet, HashSet};
use std::path::{Component, Path, PathBuf};

use rcrun_image::document::Config;
use rcrun_runtime::template::clean;
use serde_json::{Value, json};

use super::container::{Place, Propagation, Source};
use super::{IdMap, Node};
use crate::proto::v1;
use crate::{Error, ErrorKind, Result};

pub(super) use base::Base;

/// Most mounts of a container; the kernel has 100,000 for a namespace.
const MOST: usize = 10_000;
/// The longest path.
const LONGEST: usize = 4096;
/// Ranges of ids that the kernel takes (user_namespaces(7)).
const RANGES: usize = 340;
/// What `mount_options` may hold: everything else has a field of its own.
const OPTIONS: [&str; 16] = [
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "nodiratime",
    "diratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "nosymfollow",
    "symfollow",
];
/// Directories of the host that are never labelled anew (CVE-2021-43816).
const NOT_LABELLED: [&str; 20] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt",
    "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
];

/// A mount that is asked for, understood.
pub(super) struct Wanted<'a> {
    index: usize,
    destination: String,
    from: Origin<'a>,
    options: Vec<String>,
    propagation: v1::MountPropagation,
    relabel: bool,
    mappings: Option<(Vec<Value>, Vec<Value>)>,
}

/// What is mounted.
pub(super) enum Origin<'a> {
    /// A path of the host.
    Host(PathBuf),
    /// What is at a path in an image.
    Image(&'a v1::ImageSpec, PathBuf),
}

impl Wanted<'_> {
    /// Whether what is mounted there in the container is mounted on the host, too.
    fn shares(&self, destination: &str) -> bool {
        self.propagation == v1::MountPropagation::PropagationBidirectional
            && Path::new(destination).starts_with(&self.destination)
    }

    /// Its place in the request, and what is mounted.
    pub(super) fn what(&self) -> (usize, &Origin<'_>) {
        (self.index, &self.from)
    }
}

/// What is asked for, in the request's order.
pub(super) fn wanted(config: &v1::ContainerConfig) -> Result<Vec<Wanted<'_>>> {
    if config.mounts.len() > MOST {
        return Err(Error::invalid(format!("more than {MOST} mounts")));
    }
    let one = |(index, mount)| {
        understood(index, mount).map_err(|e| e.context(format!("mounts[{index}]")))
    };
    config.mounts.iter().enumerate().map(one).collect()
}

fn understood(index: usize, mount: &v1::Mount) -> Result<Wanted<'_>> {
    let destination = inside(&mount.container_path)?;
    let propagation = v1::MountPropagation::try_from(mount.propagation)
        .map_err(|_| Error::invalid(format!("propagation {} is not known", mount.propagation)))?;
    let private = propagation == v1::MountPropagation::PropagationPrivate;
    if mount.recursive_read_only && !(mount.readonly && private) {
        return Err(Error::invalid(
            "recursive_read_only goes with readonly and private propagation only",
        ));
    }
    let from = from(mount, private)?;
    let mut options = vec!["rbind".to_owned()];
    if mount.mount_options.len() > OPTIONS.len() {
        return Err(Error::invalid("mount_options: some are given twice"));
    }
    for word in &mount.mount_options {
        if !OPTIONS.contains(&word.as_str()) {
            return Err(Error::invalid(format!(
                "mount_options: {word:?} is none of {}",
                OPTIONS.join(", ")
            )));
        }
        options.push(word.clone());
    }
    let image = matches!(from, Origin::Image(..));
    options.push(
        match propagation {
            v1::MountPropagation::PropagationPrivate => "rprivate",
            v1::MountPropagation::PropagationHostToContainer => "rslave",
            v1::MountPropagation::PropagationBidirectional => "rshared",
        }
        .to_owned(),
    );
    match (mount.recursive_read_only, mount.readonly) {
        (true, _) => options.push("rro".into()),
        (false, true) => options.push("ro".into()),
        // Options of the host's mount, such as noexec, do not count, as for other runtimes of pods.
        (false, false) => options.push("rw".into()),
    }
    Ok(Wanted {
        index,
        destination,
        from,
        options,
        propagation,
        relabel: mount.selinux_relabel && !image,
        // The image's files are mapped where it is mounted.
        mappings: if image { None } else { mappings(mount)? },
    })
}

fn from(mount: &v1::Mount, private: bool) -> Result<Origin<'_>> {
    let Some(image) = &mount.image else {
        if !mount.image_sub_path.is_empty() {
            return Err(Error::invalid("image_sub_path is given without an image"));
        }
        return match mount.host_path.as_str() {
            "" => Err(Error::invalid("host_path is missing")),
            path if !path.starts_with('/') => Err(Error::invalid(format!(
                "host_path {path:?} is no absolute path"
            ))),
            path if path.len() > LONGEST || path.contains('\0') => {
                Err(Error::invalid(format!("host_path {path:?} is no path")))
            }
            path => Ok(Origin::Host(path.into())),
        };
    };
    if !mount.host_path.is_empty() {
        return Err(Error::invalid("host_path and image are both given"));
    }
    super::pod::handler(&image.runtime_handler)?;
    if image.image.is_empty() {
        return Err(Error::invalid("image.image is missing"));
    }
    if !mount.readonly || !private {
        return Err(Error::invalid(
            "an image can be mounted only with readonly and private propagation",
        ));
    }
    Ok(Origin::Image(image, below(&mount.image_sub_path)?))
}

/// A path below an image's root; links in it are the caller's to resolve there.
fn below(text: &str) -> Result<PathBuf> {
    let refused = || Error::invalid(format!("image_sub_path {text:?} leads out of the image"));
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            _ => return Err(refused()),
        }
    }
    match text.contains('\0') || text.len() > LONGEST {
        true => Err(refused()),
        false => Ok(path),
    }
}

/// An absolute path in the container, and not its root.
fn inside(text: &str) -> Result<String> {
    let refused = |why| Error::invalid(format!("container_path {text:?} {why}"));
    if !text.starts_with('/') || text.contains('\0') || text.len() > LONGEST {
        return Err(refused("is no absolute path"));
    }
    match clean(text.as_ref()).to_string_lossy().into_owned() {
        root if root == "/" => Err(refused("is the container's root")),
        path => Ok(path),
    }
}

fn mappings(mount: &v1::Mount) -> Result<Option<(Vec<Value>, Vec<Value>)>> {
    let list = |what: &str, list: &[v1::IdMapping]| -> Result<Vec<Value>> {
        if list.len() > RANGES {
            return Err(Error::invalid(format!("{what}: more than {RANGES} ranges")));
        }
        let one = |map: &v1::IdMapping| {
            let fits = |first: u32| u64::from(first) + u64::from(map.length) <= u32::MAX.into();
            match map.length > 0 && fits(map.host_id) && fits(map.container_id) {
                true => Ok(extent(map.container_id, map.host_id, map.length)),
                false => Err(Error::invalid(format!("{what}: {map:?} is no range"))),
            }
        };
        list.iter().map(one).collect()
    };
    let uids = list("uidMappings", &mount.uid_mappings)?;
    let gids = list("gidMappings", &mount.gid_mappings)?;
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some((uids, gids))),
        _ => Err(Error::invalid(
            "uidMappings and gidMappings have to be given together",
        )),
    }
}

fn extent(inner: u32, outer: u32, size: u32) -> Value {
    json!({"containerID": inner, "hostID": outer, "size": size})
}

/// Ids as `linux.uidMappings` has them.
pub(super) fn extents(map: IdMap) -> Vec<Value> {
    vec![extent(0, map.host, map.size)]
}

/// Directories that the image declares as volumes, and that no mount covers. What leads out of the container
/// leads to its root (CVE-2022-23648).
pub(super) fn volumes(image: &Config, wanted: &[Wanted<'_>]) -> Vec<String> {
    let taken: HashSet<&str> = wanted.iter().map(|one| one.destination.as_str()).collect();
    let declared = image.volumes.iter().filter(|path| !path.contains('\0'));
    let declared = declared.map(|path| clean(&Path::new("/").join(path)));
    let declared = declared.map(|path| path.to_string_lossy().into_owned());
    let all: BTreeSet<String> = declared.collect();
    all.into_iter()
        .filter(|path| path != "/" && !taken.contains(path.as_str()))
        .collect()
}

/// The mounts of a configuration, and what else they need.
#[derive(Default)]
pub(super) struct Mounts {
    /// In the order in which they are made.
    pub(super) list: Vec<Value>,
    /// `linux.rootfsPropagation`.
    pub(super) propagation: Option<&'static str>,
    /// Directories of the host to make.
    pub(super) make: Vec<PathBuf>,
    /// Files of the host to label.
    pub(super) relabel: Vec<PathBuf>,
}

/// All mounts: those of every container first, then by depth, so that a directory comes before what is below it.
pub(super) fn all(
    base: &Base<'_>,
    wanted: &[Wanted<'_>],
    place: &Place<'_>,
    node: &Node,
) -> Result<Mounts> {
    let mut mounts = Mounts::default();
    let taken: HashSet<&str> = wanted.iter().map(|one| one.destination.as_str()).collect();
    mounts.list = base.file_systems();
    mounts.list.retain(|mount| {
        let path = mount["destination"].as_str().unwrap_or_default();
        let own_dev = taken.contains("/dev") && path.starts_with("/dev/");
        !taken.contains(path) && !own_dev
    });
    let mut more: Vec<(usize, Value)> = Vec::new();
    for one in wanted {
        let value = mounts
            .asked(one, place, node)
            .map_err(|e| e.context(format!("mounts[{}]", one.index)))?;
        more.push((depth(&one.destination), value));
    }
    for file in base.files(&place.volumes) {
        let reaches_host = wanted.iter().any(|one| one.shares(&file.destination));
        if taken.contains(file.destination.as_str()) || reaches_host {
            continue;
        }
        if file.relabel {
            mounts.relabel.push(file.source.clone());
        }
        more.push((depth(&file.destination), file.value()));
    }
    for mount in &place.cdi.mounts {
        let destination = mount["destination"].as_str().unwrap_or_default();
        more.push((depth(destination), mount.clone()));
    }
    more.sort_by_key(|(depth, _)| *depth);
    mounts.list.extend(more.into_iter().map(|(_, mount)| mount));
    Ok(mounts)
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

impl Mounts {
    fn asked(&mut self, one: &Wanted<'_>, place: &Place<'_>, node: &Node) -> Result<Value> {
        let source = match &one.from {
            Origin::Image(image, _) => place.images.get(&one.index).cloned().ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("no image {}", image.image))
            })?,
            Origin::Host(path) => self.host(one, path, place)?,
        };
        if one.options.iter().any(|word| word == "rro") && !node.deep_read_only {
            return Err(Error::unsupported(
                "recursive_read_only: this kernel cannot make a mount read-only with what is below it",
            ));
        }
        let mut value = json!({"destination": one.destination, "type": "bind", "source": source,
                               "options": one.options});
        if let Some((uids, gids)) = &one.mappings {
            if !node.mapped_mounts {
                return Err(Error::unsupported(
                    "uidMappings: this kernel cannot map the ids of mounts",
                ));
            }
            value["uidMappings"] = json!(uids);
            value["gidMappings"] = json!(gids);
        }
        Ok(value)
    }

    fn host(&mut self, one: &Wanted<'_>, path: &Path, place: &Place<'_>) -> Result<PathBuf> {
        let source = place.sources.get(&one.index).ok_or_else(|| {
            let text = format!("{} was not looked up", path.display());
            Error::new(ErrorKind::Internal, text)
        })?;
        self.propagates(one.propagation, source)?;
        if !source.exists {
            self.make.push(source.path.clone());
        }
        if one.relabel {
            if NOT_LABELLED
                .iter()
                .any(|path| source.path == Path::new(path))
            {
                return Err(Error::invalid(format!(
                    "selinux_relabel: {} is the system's and keeps its labels",
                    source.path.display()
                )));
            }
            self.relabel.push(source.path.clone());
        }
        Ok(source.path.clone())
    }

    /// What is to be seen elsewhere has to be shared by the host in the first place.
    fn propagates(&mut self, asked: v1::MountPropagation, source: &Source) -> Result<()> {
        use v1::MountPropagation::{PropagationBidirectional, PropagationHostToContainer};
        let refused = |what: &str| {
            Error::invalid(format!(
                "propagation: {} is on a mount that is not {what} (mount --make-rshared)",
                source.path.display()
            ))
        };
        match (asked, source.propagation) {
            (PropagationBidirectional, Propagation::Shared) => self.propagation = Some("rshared"),
            (PropagationBidirectional, _) => return Err(refused("shared")),
            (PropagationHostToContainer, Propagation::Private) => {
                return Err(refused("shared or a slave"));
            }
            (PropagationHostToContainer, _) => _ = self.propagation.get_or_insert("rslave"),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
