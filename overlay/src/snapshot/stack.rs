//! The layers of an image, as they are mounted.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

use super::mount::{Overlay, Upper};
use super::owner::Owner;
use super::private::Way;
use super::store::{WORK, was_volatile};
use super::{mount, private};
use crate::durable::open_directory;
use crate::layer::Overlay as Marks;
use crate::layer::store::{Layer, Layers};
use crate::lease::LayerId;
use crate::store::Store;
use crate::{Context, Error, ErrorKind, Result};

/// Gives a mount that is not attached yet the maps of a user namespace (mount_setattr(2),
/// `MOUNT_ATTR_IDMAP`).
pub type MapIds<'a> = dyn Fn(BorrowedFd<'_>) -> Result<()> + 'a;

/// How layers are mounted.
#[derive(Clone, Copy)]
pub struct Mounting<'a> {
    /// What the table of mounts says it is made of: `overlay`, unless people are to know better.
    pub source: &'a str,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Nothing is synced: for changes that are worthless unless their maker finishes.
    pub volatile: bool,
    /// Shows the ids of all layers, and stores those of changes, through these maps. It is called
    /// once for each layer. Needs Linux 5.19 and file systems that take part.
    pub idmap: Option<&'a MapIds<'a>>,
}

impl Default for Mounting<'_> {
    fn default() -> Self {
        Self {
            source: "overlay",
            read_only: false,
            volatile: false,
            idmap: None,
        }
    }
}

impl fmt::Debug for Mounting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounting")
            .field("source", &self.source)
            .field("read_only", &self.read_only)
            .field("volatile", &self.volatile)
            .field("idmap", &self.idmap.is_some())
            .finish()
    }
}

/// Open layers: those that are to be seen. What is below an opaque one is left out.
#[derive(Debug)]
pub struct Stack {
    /// Top first.
    layers: Vec<Layer>,
    marks: Marks,
    /// An empty directory.
    empty: OwnedFd,
}

impl Stack {
    /// Opens layers, given lowest first. That they stay is the caller's business (`Lease::hold`).
    pub fn open(store: &Store, chain: &[LayerId], marks: Marks) -> Result<Self> {
        let all = Layers::new(store)?;
        let mut layers = Vec::new();
        let mut covered = false;
        for id in chain.iter().rev() {
            let layer = all.get(id)?.ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("layer {id} is not in the store"),
                )
            })?;
            if marks_of(id) != marks {
                return Err(Error::invalid(format!(
                    "layer {id} was not made for {marks:?} marks"
                )));
            }
            let opaque = layer.record.opaque;
            if !covered {
                layers.push(layer);
            }
            covered |= opaque;
        }
        if layers.len() > mount::LAYERS_MAX {
            return Err(mount::too_many(layers.len()));
        }
        Ok(Self {
            layers,
            marks,
            empty: store.directory("layers/empty")?,
        })
    }

    /// The directories that are mounted, top first.
    pub fn lowers(&self) -> Vec<BorrowedFd<'_>> {
        self.layers.iter().map(Layer::diff).collect()
    }

    /// Mounts them without a place in the tree of mounts, read-only in any case.
    pub fn detached(&self, how: &Mounting<'_>) -> Result<OwnedFd> {
        match self.layers.len() {
            // Nothing is below, so nothing has to be mapped.
            0 => nothing(how.source),
            1 => self.mount(&[self.layers[0].diff(), self.empty.as_fd()], None, how),
            _ => self.mount(&self.lowers(), None, how),
        }
    }

    /// Mounts them with a directory above them in which changes are in `changes`.
    pub(crate) fn detached_above(
        &self,
        directory: &OwnedFd,
        changes: &'static str,
        how: &Mounting<'_>,
    ) -> Result<OwnedFd> {
        let mut lowers = self.lowers();
        if how.read_only {
            let upper = open_directory(directory, changes)?;
            lowers.insert(0, upper.as_fd());
            if lowers.len() == 1 {
                lowers.push(self.empty.as_fd());
            }
            return self.mount(&lowers, None, how);
        }
        if was_volatile(open_directory(directory, WORK)?) {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "it was mounted as volatile before, so its files may be incomplete",
            ));
        }
        if lowers.is_empty() {
            lowers.push(self.empty.as_fd());
        }
        self.mount(&lowers, Some((directory, changes)), how)
    }

    /// Mounts them with changes in a directory of the caller's that has the empty directories `changes`
    /// and `work`.
    pub fn detached_over(&self, directory: &OwnedFd, how: &Mounting<'_>) -> Result<OwnedFd> {
        self.detached_above(directory, "changes", how)
    }

    /// By the ways of older kernels.
    #[cfg(test)]
    pub(super) fn apart(
        &self,
        snapshot: &OwnedFd,
        way: Way,
        idmap: Option<&MapIds<'_>>,
    ) -> Result<OwnedFd> {
        let parts = Parts {
            lowers: &self.lowers(),
            above: Some((snapshot, super::store::UPPER)),
            user_attributes: false,
            volatile: false,
            source: "overlay",
            mapped: false,
        };
        private::detached(&parts.cloned(idmap)?, way)
    }

    fn mount(
        &self,
        lowers: &[BorrowedFd<'_>],
        above: Option<(&OwnedFd, &'static str)>,
        how: &Mounting<'_>,
    ) -> Result<OwnedFd> {
        if how.idmap.is_some() && self.marks == Marks::User {
            return Err(Error::unsupported(
                "ids of layers that were made without privilege cannot be mapped",
            ));
        }
        if self.layers.iter().any(|layer| layer.record.stand_ins) {
            return Err(Error::unsupported(
                "its layers are on a file system without whiteouts, which overlayfs needs",
            ));
        }
        let parts = Parts {
            lowers,
            above,
            user_attributes: self.marks == Marks::User,
            volatile: how.volatile,
            source: how.source,
            mapped: false,
        };
        let Some(idmap) = how.idmap else {
            return match parts.overlay() {
                // Before 6.5 there is no such mount unless one is attached somewhere.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    private::detached(&parts.cloned(None)?, Way::Modern)
                }
                mounted => mounted,
            };
        };
        let clones = parts.cloned(Some(idmap))?;
        match clones.parts(&clones.borrowed()).overlay() {
            Ok(mounted) => Ok(mounted),
            // Before 6.15 layers have to be attached somewhere.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::Unsupported
                ) =>
            {
                private::detached(&clones, Way::Modern)
            }
            Err(error) => Err(error),
        }
    }
}

/// What an overlay is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) lowers: &'a [BorrowedFd<'a>],
    /// With `upper` and `work`, which have to be seen through the same mount.
    /// The directory for changes and the kernel's work, and the name of the former.
    pub(super) above: Option<(&'a OwnedFd, &'static str)>,
    pub(super) user_attributes: bool,
    pub(super) volatile: bool,
    pub(super) source: &'a str,
    /// Seen through mounts that map ids.
    pub(super) mapped: bool,
}

impl Parts<'_> {
    /// Calls with the overlay of these.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&Overlay<'_>) -> Result<T>) -> Result<T> {
        let above = match self.above {
            Some((at, changes)) => Some((open_path(at, changes)?, open_path(at, WORK)?)),
            None => None,
        };
        // What was mapped belongs to another user.
        let _owner = match &above {
            Some((_, work)) if self.mapped => {
                let stat = rustix::fs::fstat(work).context(|| "cannot examine work")?;
                Some(Owner::of(&stat)?)
            }
            _ => None,
        };
        use_it(&Overlay {
            source: self.source,
            lowers: self.lowers.to_vec(),
            upper: above.as_ref().map(|(changes, work)| Upper {
                changes: changes.as_fd(),
                work: work.as_fd(),
            }),
            user_attributes: self.user_attributes,
            volatile: self.volatile,
        })
    }

    fn overlay(&self) -> Result<OwnedFd> {
        fn detached(overlay: &Overlay<'_>) -> Result<OwnedFd> {
            overlay.detached()
        }
        self.with(detached)
    }

    /// The same through mounts of their own.
    pub(super) fn cloned(&self, idmap: Option<&MapIds<'_>>) -> Result<Clones> {
        let clone = |directory: BorrowedFd<'_>| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let tree =
                open_tree(directory, c"", flags).context(|| "cannot clone the mount of a layer")?;
            if let Some(idmap) = idmap {
                idmap(tree.as_fd()).context(|| "cannot map the ids of a layer")?;
            }
            Ok(tree)
        };
        let lowers: Result<_> = self.lowers.iter().map(|lower| clone(*lower)).collect();
        Ok(Clones {
            lowers: lowers?,
            above: match self.above {
                Some((at, changes)) => Some((clone(at.as_fd())?, changes)),
                None => None,
            },
            user_attributes: self.user_attributes,
            volatile: self.volatile,
            source: self.source.to_owned(),
            mapped: idmap.is_some(),
        })
    }
}

/// Parts with mounts of their own.
#[derive(Debug)]
pub(super) struct Clones {
    pub(super) lowers: Vec<OwnedFd>,
    pub(super) above: Option<(OwnedFd, &'static str)>,
    user_attributes: bool,
    volatile: bool,
    source: String,
    mapped: bool,
}

impl Clones {
    /// All that has to be attached.
    pub(super) fn trees(&self) -> impl Iterator<Item = &OwnedFd> {
        let above = self.above.iter().map(|(at, _)| at);
        self.lowers.iter().chain(above)
    }

    pub(super) fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.lowers.iter().map(AsFd::as_fd).collect()
    }

    /// With what [`borrowed`](Self::borrowed) says.
    pub(super) fn parts<'a>(&'a self, lowers: &'a [BorrowedFd<'a>]) -> Parts<'a> {
        Parts {
            lowers,
            above: self.above.as_ref().map(|(at, changes)| (at, *changes)),
            user_attributes: self.user_attributes,
            volatile: self.volatile,
            source: &self.source,
            mapped: self.mapped,
        }
    }
}

/// Whether a layer was unpacked where nobody else has an id.
pub(super) fn has_one_owner(id: &LayerId) -> bool {
    id.as_str().ends_with("-single")
}

/// Layers say in their names which marks they have.
fn marks_of(id: &LayerId) -> Marks {
    match id.as_str().split_once('-') {
        Some((_, "user" | "single" | "builduser")) => Marks::User,
        _ => Marks::Trusted,
    }
}

fn open_path(at: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
        .context(|| format!("cannot open directory {name}"))
}

/// An image without layers: an empty directory that nobody can write to.
fn nothing(source: &str) -> Result<OwnedFd> {
    let make = || -> Result<OwnedFd, Errno> {
        let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, "source", source)?;
        fsconfig_set_string(&fs, "mode", "0755")?;
        fsconfig_create(&fs)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        fsmount(&fs, flags, MountAttrFlags::MOUNT_ATTR_RDONLY)
    };
    make().context(|| "cannot mount an empty file system")
}
