//! Carrying out mount steps: mount_setattr(2), open_tree(2), move_mount(2), mount(2).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::resolve::{Links, Want};
use super::{Detail, During as _, Fail, Root, Text, classic, copy_up, fd_path};
use crate::plan::mounts::{Bind, Filesystem, MountStep};
use crate::sys::mount::{MountAttr, attr, mount_setattr};

/// Room for the data of a mount (the kernel takes one page).
const DATA_MAX: usize = 4096;

/// The type of procfs (statfs(2)).
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// How to get a tree that this process may not open: the parent opens it.
pub(crate) trait Sources {
    /// A detached clone of the source of mount `index`, with its ids mapped as configured.
    fn fetch(&mut self, index: usize) -> Result<OwnedFd, Fail>;
    /// A detached mount of device `index`, made outside of the container's user namespace.
    fn fetch_node(&mut self, index: usize) -> Result<OwnedFd, Fail>;
}

/// Set once it turned out that one of the calls is missing: then none of them is used.
static CLASSIC: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// From here on [`clone_tree`] answers ENOSYS.
pub(crate) fn give_up_new_calls() {
    CLASSIC.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// A detached clone of the tree at `source`.
pub(crate) fn clone_tree(
    dir: BorrowedFd<'_>,
    source: &CStr,
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    if CLASSIC.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Errno::NOSYS);
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, source.is_empty());
    rustix::mount::open_tree(dir, source, flags)
}

/// Attaches a detached tree onto `target`.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", target, c"", flags)
}

/// Changes attributes of a mount, also on kernels without mount_setattr when it is attached.
pub(crate) fn set_attributes(
    mounted: BorrowedFd<'_>,
    change: &MountAttr,
    recursive: bool,
) -> Result<(), Errno> {
    match mount_setattr(mounted, c"", recursive, change) {
        Err(Errno::NOSYS) => classic::set_attributes(mounted, change, recursive),
        answer => answer,
    }
}

/// Binds a tree onto the step's target.
pub(crate) fn bind(
    root: &Root,
    step: &MountStep,
    bind: &Bind,
    sources: &mut dyn Sources,
) -> Result<(), Fail> {
    let opened = if bind.idmap.is_some() {
        sources.fetch(step.index).map(Some)
    } else {
        match clone_tree(rustix::fs::CWD, &bind.source, bind.recursive) {
            // Only root outside the user namespace may pass the directories above the source.
            Err(Errno::ACCESS | Errno::PERM) => sources.fetch(step.index).map(Some),
            Err(Errno::NOSYS) => Ok(None),
            answer => answer.during(Detail::Source).map(Some),
        }
    }?;
    let stat = match &opened {
        Some(tree) => rustix::fs::fstat(tree),
        None => rustix::fs::stat(bind.source.as_c_str()),
    };
    let stat = stat.during(Detail::Source)?;
    let want = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Want::Directory,
        _ => Want::File,
    };
    let (target, _) = root
        .ensure(&step.target, want, Links::Follow)
        .map_err(|errno| target_fail(errno, want))?;
    refuse_proc(target.as_fd(), step)?;
    match opened {
        Some(tree) => attach_configured(tree.as_fd(), target.as_fd(), step),
        None => {
            let mounted = classic::bind(
                root,
                &bind.source,
                bind.recursive,
                target.as_fd(),
                &step.target,
            )?;
            configure(mounted.as_fd(), step)
        }
    }
}

/// Links in the image can lead any destination below /proc.
fn refuse_proc(target: BorrowedFd<'_>, step: &MountStep) -> Result<(), Fail> {
    if !step.inside_proc
        && rustix::fs::fstatfs(target).during(Detail::Target)?.f_type == PROC_SUPER_MAGIC
    {
        return Err(Fail {
            errno: Errno::PERM,
            detail: Detail::InsideProc,
        });
    }
    Ok(())
}

/// Configures while nobody can see the tree; kernels that cannot do that are told afterwards.
fn attach_configured(
    tree: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    step: &MountStep,
) -> Result<(), Fail> {
    let early = !step.attr.is_empty()
        || step.unnamed != 0
        || !step.recursive.is_empty()
        || !step.propagation.is_empty();
    let probe = || mount_setattr(tree, c"", false, &MountAttr::default());
    let late = early && probe() == Err(Errno::NOSYS);
    if early && !late {
        configure(tree, step)?;
    }
    attach(tree, target).during(Detail::Attach)?;
    if late { configure(tree, step) } else { Ok(()) }
}

fn configure(mounted: BorrowedFd<'_>, step: &MountStep) -> Result<(), Fail> {
    let all = MountAttr {
        clear: step.attr.clear | step.unnamed,
        ..step.attr
    };
    if !all.is_empty() {
        match set_attributes(mounted, &all, false) {
            // Some are locked by the host: what was asked for must be had, the others need not.
            Err(Errno::PERM) if step.unnamed != 0 => {
                if !step.attr.is_empty() {
                    set_attributes(mounted, &step.attr, false).during(Detail::Attributes)?;
                }
                for bit in (0..64)
                    .map(|n| 1u64 << n)
                    .filter(|bit| step.unnamed & bit != 0)
                {
                    let _ = set_attributes(
                        mounted,
                        &MountAttr {
                            clear: bit,
                            ..MountAttr::default()
                        },
                        false,
                    );
                }
            }
            answer => answer.during(Detail::Attributes)?,
        }
    }
    configure_rest(mounted, step)
}

fn configure_rest(mounted: BorrowedFd<'_>, step: &MountStep) -> Result<(), Fail> {
    if !step.recursive.is_empty() {
        set_attributes(mounted, &step.recursive, true).during(Detail::Attributes)?;
    }
    for flags in &step.propagation {
        let change = MountAttr {
            propagation: flags & !libc::MS_REC,
            ..MountAttr::default()
        };
        set_attributes(mounted, &change, flags & libc::MS_REC != 0).during(Detail::Propagation)?;
    }
    Ok(())
}

fn target_fail(errno: Errno, want: Want) -> Fail {
    let detail = match errno {
        Errno::LOOP => Detail::TargetIsLink,
        Errno::NOTDIR if want == Want::Directory => Detail::TargetNotDirectory,
        _ => Detail::Target,
    };
    Fail { errno, detail }
}

/// Mounts a new file system on the step's target.
pub(crate) fn filesystem(root: &Root, step: &MountStep, fs: &Filesystem) -> Result<(), Fail> {
    // Writes to /proc and /sys on behalf of the container must not be led elsewhere.
    let kernel_view = matches!(fs.fstype.to_bytes(), b"proc" | b"sysfs");
    let links = if kernel_view {
        Links::Refuse
    } else {
        Links::Follow
    };
    let (target, made) = root
        .ensure(&step.target, Want::Directory, links)
        .map_err(|errno| target_fail(errno, Want::Directory))?;
    if !kernel_view {
        refuse_proc(target.as_fd(), step)?;
    }
    let mut data = Text::<DATA_MAX>::new();
    if fs.inherit_mode && !made {
        let mode = rustix::fs::fstat(&target).during(Detail::Target)?.st_mode & 0o7777;
        data.push(b"mode=")?.push_number(u64::from(mode), 8)?;
        if !fs.data.is_empty() {
            data.push(b",")?;
        }
    }
    data.push(fs.data.as_bytes())?;
    let mounted = nix::mount::mount(
        Some(fs.source.as_c_str()),
        fd_path(target.as_fd()).as_c_str(),
        Some(fs.fstype.as_c_str()),
        MsFlags::from_bits_retain(fs.flags & !libc::MS_REC),
        Some(data.as_c_str()),
    );
    match (mounted, &fs.host_sysfs) {
        (Err(nix::errno::Errno::EPERM), Some(change)) => {
            return bind_host_sysfs(target.as_fd(), step, change);
        }
        (Err(nix::errno::Errno::EBUSY), _) if is_there(target.as_fd(), fs) => {
            return mount_again(root, step, fs);
        }
        (mounted, _) => mounted?,
    }
    let unchanged = step.recursive.is_empty() && step.propagation.is_empty();
    if unchanged && !fs.copy_up && fs.label.is_none() {
        return Ok(());
    }
    let mounted = root.find(&step.target).during(Detail::Target)?;
    if let Some(label) = &fs.label {
        let path = fd_path(mounted.as_fd());
        let (name, none) = (c"security.selinux", rustix::fs::XattrFlags::empty());
        rustix::fs::setxattr(path.as_c_str(), name, label.to_bytes(), none)
            .during(Detail::Attributes)?;
    }
    if fs.copy_up {
        copy_up::copy(target.as_fd(), mounted.as_fd()).during(Detail::Copy)?;
        if fs.late_readonly && step.target.as_c_str() != c"/dev" {
            make_readonly(mounted.as_fd(), false).during(Detail::Attributes)?;
        }
    }
    configure_rest(mounted.as_fd(), step)
}

/// In place of a sysfs that would show a network namespace which belongs to somebody else.
fn bind_host_sysfs(
    target: BorrowedFd<'_>,
    step: &MountStep,
    change: &MountAttr,
) -> Result<(), Fail> {
    // With all that is mounted below: the kernel does not let a user namespace uncover what is.
    let tree = clone_tree(rustix::fs::CWD, c"/sys", true).during(Detail::Source)?;
    if !change.is_empty() {
        set_attributes(tree.as_fd(), change, true).during(Detail::Attributes)?;
    }
    attach(tree.as_fd(), target).during(Detail::Attach)?;
    configure_rest(tree.as_fd(), step)
}

/// Whether the one instance that there is of such a file system is what the target shows.
fn is_there(target: BorrowedFd<'_>, fs: &Filesystem) -> bool {
    let magic = match fs.fstype.to_bytes() {
        b"mqueue" => 0x1980_0202,
        b"proc" => PROC_SUPER_MAGIC,
        b"sysfs" => 0x6265_6572,
        _ => return false,
    };
    rustix::fs::fstatfs(target).is_ok_and(|stat| stat.f_type == magic)
}

/// The kernel refuses to mount the same instance twice at one place: only its flags can be new.
fn mount_again(root: &Root, step: &MountStep, fs: &Filesystem) -> Result<(), Fail> {
    let mounted = root.find(&step.target).during(Detail::Target)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    nix::mount::mount(
        None::<&CStr>,
        fd_path(mounted.as_fd()).as_c_str(),
        None::<&CStr>,
        flags | MsFlags::from_bits_retain(fs.flags & !libc::MS_REC),
        None::<&CStr>,
    )?;
    configure_rest(mounted.as_fd(), step)
}

/// Changes flags and data of the file system that is mounted at the step's target.
pub(crate) fn remount(root: &Root, step: &MountStep, fs: &Filesystem) -> Result<(), Fail> {
    let target = root.find(&step.target).during(Detail::Target)?;
    nix::mount::mount(
        Some(fs.source.as_c_str()),
        fd_path(target.as_fd()).as_c_str(),
        None::<&CStr>,
        MsFlags::from_bits_retain((fs.flags & !libc::MS_REC) | libc::MS_REMOUNT),
        Some(fs.data.as_c_str()),
    )?;
    configure_rest(target.as_fd(), step)
}

/// Makes a mount read-only, with everything below it if `recursive`.
pub(crate) fn make_readonly(mounted: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
    let change = MountAttr {
        set: attr::RDONLY,
        ..MountAttr::default()
    };
    set_attributes(mounted, &change, recursive)
}

/// A directory opened for reading from an `O_PATH` descriptor.
pub(crate) fn readable(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory.as_fd(), c".", flags, Mode::empty())
}
