//! The mounts of a step: what each is made of, mounted below the step's directory in its own mount
//! namespace, and the line of the container's configuration that binds it from there.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::mount::MsFlags;
use rcrun_builder::runner::{RunStep, StepMount};
use rcrun_overlay::snapshot::{Mounting, Stack};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use serde_json::{Value, json};

use super::Worker;

impl Worker<'_> {
    /// The mounts of the configuration; their sources are mounted below our directory.
    pub(super) fn mounts(&self, store: &Store, step: &RunStep) -> Result<Vec<Value>> {
        let base = self.make("mounts")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(
            Some("tmpfs"),
            &base,
            Some("tmpfs"),
            flags,
            Some("mode=0700"),
        )
        .context(|| "cannot mount a place for mounts")?;
        let mut all = Vec::with_capacity(step.mounts.len());
        for (index, mount) in step.mounts.iter().enumerate() {
            let source = base.join(index.to_string());
            let value = self.mount(store, step, mount, index, &source);
            all.push(value.context(|| format!("cannot prepare the mount at {}", mount.target()))?);
        }
        Ok(all)
    }

    fn mount(
        &self,
        store: &Store,
        step: &RunStep,
        mount: &StepMount,
        index: usize,
        at: &Path,
    ) -> Result<Value> {
        let bind = |read_only: bool, more: &[&str]| {
            let mut options = vec!["rbind", "rprivate"];
            options.push(if read_only { "ro" } else { "rw" });
            options.extend(more);
            json!({"destination": mount.target(), "type": "bind", "source": at, "options": options})
        };
        match mount {
            StepMount::Layers {
                layers,
                source,
                read_only,
                ..
            } => {
                let stack = Stack::open(store, layers, step.marks())?;
                let tree = match read_only {
                    true => stack.detached(&Mounting::default())?,
                    false => self.writable(&stack, index)?,
                };
                let whole = at.with_extension("all");
                std::fs::create_dir(&whole).context(|| "cannot make a place for a mount")?;
                attach(&tree, &whole)?;
                let root = directory(&whole)?;
                bind_part(root.as_fd(), source, at)?;
                Ok(bind(*read_only, &["nosuid", "nodev"]))
            }
            StepMount::Directory {
                path,
                source,
                read_only,
                ..
            } => {
                let mut at_root = rcrun_overlay::durable::open_directory(store.root(), ".")?;
                for part in path.split('/') {
                    at_root = rcrun_overlay::durable::open_directory(&at_root, part)?;
                }
                bind_part(at_root.as_fd(), source, at)?;
                Ok(bind(*read_only, &["nosuid", "nodev"]))
            }
            StepMount::Tmpfs {
                target,
                size,
                read_only,
            } => {
                let mut options = vec!["nosuid".to_owned(), "nodev".to_owned()];
                if *size > 0 {
                    options.push(format!("size={size}"));
                }
                if *read_only {
                    options.push("ro".to_owned());
                }
                Ok(
                    json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}),
                )
            }
            StepMount::File {
                contents,
                attributes,
                ..
            } => {
                file(at, contents, *attributes)?;
                let program = attributes.0 & 0o111 != 0;
                let more: &[&str] = match program {
                    true => &["nosuid", "nodev"],
                    false => &["nosuid", "nodev", "noexec"],
                };
                Ok(bind(true, more))
            }
            StepMount::Socket { path, .. } => {
                let socket = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .context(|| format!("cannot open {}", path.display()))?;
                bind_fd(&socket, at)?;
                Ok(bind(false, &["nosuid", "nodev", "noexec"]))
            }
        }
    }

    /// Layers that can be changed; what is changed is thrown away.
    fn writable(&self, stack: &Stack, index: usize) -> Result<OwnedFd> {
        let above = self.make(&format!("above-{index}"))?;
        for name in ["changes", "work"] {
            let path = above.join(name);
            std::fs::create_dir(&path).context(|| format!("cannot make {}", path.display()))?;
        }
        std::fs::set_permissions(
            above.join("changes"),
            std::fs::Permissions::from_mode(0o755),
        )
        .context(|| "cannot set a mode")?;
        let how = Mounting {
            volatile: true,
            ..Mounting::default()
        };
        stack.detached_over(&directory(&above)?, &how)
    }
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .context(|| format!("cannot open {}", path.display()))
}

/// Attaches a mount to a place of ours.
fn attach(tree: &OwnedFd, at: &Path) -> Result<()> {
    move_mount(tree, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context(|| "cannot attach a mount")
}

/// Binds a part of a tree, looked up within that tree, to a place of ours.
fn bind_part(root: BorrowedFd<'_>, source: &str, at: &Path) -> Result<()> {
    let path = source.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let part = rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
    .context(|| format!("cannot find its source /{}", source.trim_start_matches('/')))?;
    bind_fd(&part, at)
}

/// Binds what a descriptor stands for to a place of ours.
fn bind_fd(part: &OwnedFd, at: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(part).context(|| "cannot examine its source")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => std::fs::create_dir(at),
        _ => File::create(at).map(drop),
    }
    .context(|| "cannot make a place for a mount")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    match open_tree(part, c"", flags) {
        Ok(tree) => attach(&tree, at),
        // Before Linux 5.2.
        Err(rustix::io::Errno::NOSYS) => {
            let source = format!("/proc/self/fd/{}", part.as_raw_fd());
            nix::mount::mount(
                Some(source.as_str()),
                at,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .context(|| "cannot bind its source")
        }
        Err(errno) => Err(errno).context(|| "cannot clone its source"),
    }
}

/// A file in memory.
fn file(at: &Path, contents: &[u8], (mode, uid, gid): (u32, u32, u32)) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(at)?;
        file.write_all(contents)?;
        fchown(&file, Some(uid), Some(gid))?;
        file.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))
    };
    write().context(|| "cannot write a file in memory")
}
