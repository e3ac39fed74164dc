//! Mounting layers over each other: overlayfs (Documentation/filesystems/overlayfs.rst).
//!
//! Layers are given as descriptors, so no path is looked up again and no length limit of mount
//! options is met; they have to come from the caller's mount namespace. Three ways, the first that the kernel knows: layers by descriptor (6.13), layers
//! one by one by `/proc/self/fd` (6.5), all in one option of mount(2) (before; one page, about 200
//! layers).
//!
//! Renamed directories and metadata-only copies are switched off whatever the module's defaults
//! are: an upper directory must mean the same without its lowers, or it could not become a layer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::{Context, Error, ErrorKind, Result};

/// The kernel's limit of lower layers (`OVL_MAX_STACK`).
pub const LAYERS_MAX: usize = 500;

/// Where changes go.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    /// Directory that receives them.
    pub changes: BorrowedFd<'a>,
    /// Empty directory on the same file system, for the kernel.
    pub work: BorrowedFd<'a>,
}

/// What is mounted.
#[derive(Debug, Clone)]
pub struct Overlay<'a> {
    /// What the table of mounts says it is made of.
    pub source: &'a str,
    /// Lower layers, the top one first.
    pub lowers: Vec<BorrowedFd<'a>>,
    /// Without one the mount is read-only.
    pub upper: Option<Upper<'a>>,
    /// Marks are `user.overlay.*` attributes, not `trusted.overlay.*`: without privilege.
    pub user_attributes: bool,
    /// Nothing is synced: for changes that are worthless unless their maker finishes.
    pub volatile: bool,
}

impl Overlay<'_> {
    /// Mounts onto a directory.
    pub fn attach(&self, target: impl AsFd) -> Result<()> {
        let target = target.as_fd();
        match self.detached() {
            Ok(mounted) => {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
                    | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                move_mount(&mounted, c"", target, c"", flags).context(|| "cannot attach an overlay")
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => self.classic(target),
            Err(error) => Err(error),
        }
    }

    /// Mounts without a place in the tree of mounts. `Unsupported` before Linux 6.5.
    pub fn detached(&self) -> Result<OwnedFd> {
        self.check()?;
        let fs =
            fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).context(|| "cannot open overlayfs")?;
        for lower in &self.lowers {
            set_layer(&fs, "lowerdir+", *lower)?;
        }
        if let Some(upper) = &self.upper {
            set_layer(&fs, "upperdir", upper.changes)?;
            set_layer(&fs, "workdir", upper.work)?;
        }
        fsconfig_set_string(&fs, "source", self.source)
            .context(|| "cannot name the source of an overlay")?;
        for (key, value) in self.options() {
            match value {
                Some(value) => fsconfig_set_string(&fs, key, value),
                None => fsconfig_set_flag(&fs, key),
            }
            .context(|| format!("cannot set overlayfs option {key}"))?;
        }
        fsconfig_create(&fs).map_err(|errno| self.failed(errno))?;
        let attributes = match self.upper {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        };
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context(|| "cannot mount overlayfs")
    }

    fn check(&self) -> Result<()> {
        let needed = if self.upper.is_some() { 1 } else { 2 };
        if self.lowers.len() < needed {
            let message = "an overlay without upper directory needs two lower ones, any other one";
            return Err(Error::invalid(message));
        }
        if self.lowers.len() > LAYERS_MAX {
            return Err(too_many(self.lowers.len()));
        }
        Ok(())
    }

    fn options(&self) -> Vec<(&'static str, Option<&'static str>)> {
        let mut options = vec![("redirect_dir", Some("off")), ("metacopy", Some("off"))];
        if self.upper.is_some() {
            options.push(("index", Some("off")));
        }
        if self.user_attributes {
            // This one excludes the two above, which are then off in any case.
            options.retain(|(key, _)| *key == "index");
            options.push(("userxattr", None));
        }
        if self.volatile && self.upper.is_some() {
            options.push(("volatile", None));
        }
        options
    }

    fn failed(&self, errno: Errno) -> Error {
        let hint = match errno {
            Errno::INVAL => " (is the upper directory itself on an overlayfs?)",
            Errno::STALE => " (the upper directory belongs to other layers)",
            _ => "",
        };
        let layers = self.lowers.len();
        Error::from(errno).context(format!("cannot mount an overlay of {layers} layers{hint}"))
    }

    /// By mount(2), for kernels that do not know the option for single layers.
    pub(super) fn classic(&self, target: BorrowedFd<'_>) -> Result<()> {
        self.check()?;
        let path = |fd: BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let lowers: Vec<String> = self.lowers.iter().map(|lower| path(*lower)).collect();
        let mut data = format!("lowerdir={}", lowers.join(":"));
        if let Some(upper) = &self.upper {
            data += &format!(
                ",upperdir={},workdir={}",
                path(upper.changes),
                path(upper.work)
            );
        }
        for (key, value) in self.options() {
            data += &value.map_or(format!(",{key}"), |value| format!(",{key}={value}"));
        }
        let flags = if self.upper.is_some() {
            MsFlags::empty()
        } else {
            MsFlags::MS_RDONLY
        };
        let target = path(target);
        nix::mount::mount(
            Some(self.source),
            target.as_str(),
            Some("overlay"),
            flags,
            Some(data.as_str()),
        )
        .map_err(|errno| self.failed(Errno::from_raw_os_error(errno as i32)))
    }
}

pub(super) fn too_many(count: usize) -> Error {
    Error::unsupported(format!(
        "{count} layers are more than the {LAYERS_MAX} that overlayfs can stack"
    ))
}

/// Names a layer by descriptor, or by the path of the descriptor where the kernel wants a path.
fn set_layer(fs: &OwnedFd, key: &str, layer: BorrowedFd<'_>) -> Result<()> {
    let by_path = || fsconfig_set_string(fs, key, format!("/proc/self/fd/{}", layer.as_raw_fd()));
    match fsconfig_set_fd(fs, key, layer) {
        Err(Errno::INVAL | Errno::BADF) => by_path(),
        answer => answer,
    }
    .map_err(|errno| match errno {
        Errno::INVAL if key == "lowerdir+" => {
            Error::unsupported("this kernel cannot be given overlay layers one by one")
        }
        Errno::INVAL if key == "upperdir" => Error::invalid(
            "the file system of the upper directory cannot have one (is it an overlayfs itself?)",
        ),
        errno => Error::from(errno).context(format!("cannot set overlayfs option {key}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, openat};
    use std::fs;
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(rustix::fs::CWD, path, flags, Mode::empty()).unwrap()
    }

    /// Overlays need an upper directory that is not on an overlay, and the right to mount.
    fn can_mount() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            println!("skipped: mounting needs root");
        }
        root
    }

    fn layers(at: &Path, count: usize) -> Vec<OwnedFd> {
        let make = |n: usize| {
            let layer = at.join(n.to_string());
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("only-{n}")), n.to_string()).unwrap();
            fs::write(layer.join("top"), n.to_string()).unwrap();
            open(&layer)
        };
        (0..count).map(make).collect()
    }

    fn read(mounted: &OwnedFd, name: &str) -> String {
        let file = openat(
            mounted,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        std::io::read_to_string(fs::File::from(file)).unwrap()
    }

    #[test]
    fn as_many_layers_as_the_kernel_takes() {
        if !can_mount() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let lowers = layers(directory.path(), 200);
        let (upper, work) = (
            directory.path().join("upper"),
            directory.path().join("work"),
        );
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let (upper_fd, work_fd) = (open(&upper), open(&work));
        let mut overlay = Overlay {
            source: "overlay",
            lowers: lowers.iter().map(AsFd::as_fd).collect(),
            upper: Some(Upper {
                changes: upper_fd.as_fd(),
                work: work_fd.as_fd(),
            }),
            user_attributes: false,
            volatile: true,
        };
        let mounted = overlay.detached().unwrap();
        assert_eq!(
            (read(&mounted, "top"), read(&mounted, "only-199")),
            ("0".into(), "199".into())
        );
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        openat(&mounted, "new", flags, Mode::from(0o600)).unwrap();
        assert!(upper.join("new").exists());
        drop(mounted);
        overlay.upper = None;
        let mounted = overlay.detached().unwrap();
        assert_eq!(
            openat(&mounted, "new", flags, Mode::from(0o600)).unwrap_err(),
            Errno::ROFS
        );
    }

    #[test]
    fn the_old_way_shows_the_same() {
        if !can_mount() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        fs::create_dir(&target).unwrap();
        // In a mount namespace of this thread, which ends with it.
        let inside = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let lowers = layers(directory.path(), 130);
            let overlay = Overlay {
                source: "overlay",
                lowers: lowers.iter().map(AsFd::as_fd).collect(),
                upper: None,
                user_attributes: false,
                volatile: false,
            };
            overlay.classic(open(&target).as_fd()).unwrap();
            assert_eq!(fs::read_to_string(target.join("only-129")).unwrap(), "129");
            assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0");
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
        assert!(!target.join("top").exists());
    }

    #[test]
    fn wrong_numbers_of_layers() {
        let root = open(Path::new("/"));
        let overlay = |count| Overlay {
            source: "overlay",
            lowers: vec![root.as_fd(); count],
            upper: None,
            user_attributes: false,
            volatile: false,
        };
        assert_eq!(
            overlay(1).detached().unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        let many = overlay(LAYERS_MAX + 1).detached().unwrap_err();
        assert!(many.to_string().contains("501 layers"), "{many}");
    }
}
