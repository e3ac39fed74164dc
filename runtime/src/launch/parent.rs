//! What the parent does to the process it cloned: id maps, limits that only it may set, sources of
//! mounts that only it may open, and the conversation until the child is ready.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus};

use super::birth::Child;
use super::errand;
use super::intermediate;
use super::steps::Step;
use super::wire::{Message, Tag, Wire};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::idmap;
use crate::mountinfo::unescaped;
use crate::plan::Plan;
use crate::plan::mounts::{Idmap, MountKind};
use crate::plan::namespaces::{IdMaps, map_text};
use crate::plan::process::Process;
use crate::rootfs::mount::clone_tree;
use crate::rootfs::{Detail, During as _, Fail, pivot};
use crate::state::signal_name;
use crate::sys::process::{CloneArgs, Cloned, SingleThreaded, clone, exit_now};

/// File system magic of procfs (linux/magic.h).
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// The host's /proc, checked to be procfs: all writes below it on behalf of containers start here.
pub(crate) fn open_proc() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags, Mode::empty()).context(|| "cannot open /proc")?;
    let magic = rustix::fs::fstatfs(&proc)
        .context(|| "cannot stat /proc")?
        .f_type;
    if magic != PROC_SUPER_MAGIC {
        return Err(Error::unsupported(
            "/proc is not a proc file system: mount it",
        ));
    }
    Ok(proc)
}

/// Writes `/proc/PID/NAME`.
pub(crate) fn write_of(proc: &OwnedFd, pid: i32, name: &str, text: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(proc, format!("{pid}/{name}"), flags, Mode::empty())?;
    match rustix::io::retry_on_intr(|| rustix::io::write(&file, text))? {
        length if length == text.len() => Ok(()),
        _ => Err(Errno::INVAL),
    }
}

/// Writes the maps of a new user namespace: directly where the caller may, else through newuidmap(1)
/// and newgidmap(1).
pub(crate) fn write_maps(proc: &OwnedFd, pid: i32, maps: &IdMaps) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    write_map(proc, pid, "uid_map", &maps.uids, root, "newuidmap")?;
    if !root && maps.gid_list.len() == 1 && maps.gid_list[0].size() == 1 {
        // The price of mapping one's own group without a helper (user_namespaces(7)).
        match write_of(proc, pid, "setgroups", b"deny") {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                return Err(errno).context(|| format!("cannot write /proc/{pid}/setgroups"));
            }
        }
    }
    write_map(proc, pid, "gid_map", &maps.gids, root, "newgidmap")
}

fn write_map(
    proc: &OwnedFd,
    pid: i32,
    name: &str,
    text: &str,
    root: bool,
    helper: &str,
) -> Result<()> {
    let single = text.lines().count() == 1;
    match write_of(proc, pid, name, text.as_bytes()) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) if !root || !single => {
            run_helper(helper, pid, text).context(|| format!("cannot write {name}"))
        }
        Err(errno) => Err(errno).context(|| {
            format!(
                "cannot write /proc/{pid}/{name} ({} mappings)",
                text.lines().count()
            )
        }),
    }
}

fn run_helper(helper: &str, pid: i32, text: &str) -> Result<()> {
    let output = std::process::Command::new(helper)
        .arg(pid.to_string())
        .args(text.split_whitespace())
        .output()
        .context(|| format!("cannot run {helper}: install the package uidmap"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(
        ErrorKind::PermissionDenied,
        format!("{helper}: {}", said.trim()),
    ))
}

/// Sets a limit that the child has no right to raise.
pub(crate) fn raise_limit(pid: i32, process: &Process, index: usize) -> Result<()> {
    let limit = process.rlimits.get(index);
    let (resource, soft, hard) =
        limit.ok_or_else(|| Error::new(ErrorKind::Internal, "there is no such limit"))?;
    crate::sys::sched::set_rlimit(pid, *resource, *soft, *hard).map(drop).context(|| {
        format!("error setting rlimit type {resource} to {soft}:{hard} (raising it takes CAP_SYS_RESOURCE)")
    })
}

/// The out-of-memory killer's preference, of a child of root: see [`lend_oom_score`].
pub(crate) fn set_oom_score(proc: &OwnedFd, pid: i32, process: &Process) -> Result<()> {
    match process.oom_score_adj {
        Some(score) if rustix::process::geteuid().is_root() => write_oom_score(proc, pid, score),
        _ => Ok(()),
    }
}

/// The same for the child of an ordinary user, to whom the files of an undumpable process do not
/// belong (proc_pid(5)): the child is to be born with it. Returns the caller's own score, to be given
/// to [`restore_oom_score`] after the clone.
pub(crate) fn lend_oom_score(proc: &OwnedFd, process: &Process) -> Result<Option<i64>> {
    let Some(score) = process.oom_score_adj else {
        return Ok(None);
    };
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj")
        .context(|| "cannot read /proc/self/oom_score_adj")?;
    write_oom_score(
        proc,
        rustix::process::getpid().as_raw_nonzero().get(),
        score,
    )?;
    Ok(own.trim().parse().ok())
}

/// Undoes [`lend_oom_score`].
pub(crate) fn restore_oom_score(proc: &OwnedFd, own: Option<i64>) -> Result<()> {
    match own {
        Some(own) => write_oom_score(proc, rustix::process::getpid().as_raw_nonzero().get(), own),
        None => Ok(()),
    }
}

fn write_oom_score(proc: &OwnedFd, pid: i32, score: impl Into<i64>) -> Result<()> {
    let score = score.into();
    write_of(proc, pid, "oom_score_adj", score.to_string().as_bytes()).context(|| {
        format!("cannot set process.oomScoreAdj to {score} (lowering it takes CAP_SYS_RESOURCE)")
    })
}

/// Takes the process that an intermediate one made as this process's child.
pub(crate) fn adopt(
    wire: &Wire,
    intermediate: &OwnedFd,
    explain: impl Fn(&Message) -> Error,
) -> Result<Child> {
    let answer = wire
        .receive()
        .context(|| "cannot hear from the container's init")?;
    let _ = reap(intermediate.as_fd());
    match answer {
        Some((message, Some(pidfd))) if message.tag == Tag::Init => Ok(Child {
            pid: i32::try_from(message.value).unwrap_or(0),
            pidfd,
            outside: message.index == intermediate::OUTSIDE,
        }),
        Some((message, _)) if message.tag == Tag::Failed => Err(explain(&message)),
        _ => Err(Error::new(
            ErrorKind::Internal,
            "the intermediate process is gone",
        )),
    }
}

/// Waits for a process that was cloned.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Result<WaitIdStatus, Errno> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Exit code as a shell has it: 128 and the signal for a killed process.
pub(crate) fn exit_code(status: &WaitIdStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

/// The error of a child that vanished without a word.
pub(crate) fn vanished(pidfd: BorrowedFd<'_>, limited: bool) -> Error {
    let how = match reap(pidfd) {
        Ok(status) => match status.terminating_signal() {
            Some(libc::SIGKILL) if limited => "was killed (memory limit too low?)".to_owned(),
            Some(signal) => format!("was killed by {}", signal_name(signal)),
            None => format!("exited with code {}", exit_code(&status)),
        },
        Err(_) => "is gone".to_owned(),
    };
    Error::new(
        ErrorKind::FailedPrecondition,
        format!("the container's init {how}"),
    )
}

/// Fetches the source of a mount that the init may not open: clones the tree in the init's own mount
/// namespace, with the caller's rights, and maps its ids.
pub(crate) fn fetch_source(
    proof: SingleThreaded,
    plan: &Plan,
    init: i32,
    index: usize,
) -> Result<OwnedFd> {
    let step = plan.mounts.iter().find(|m| m.index == index);
    let Some(MountKind::Bind(bind)) = step.map(|s| &s.kind) else {
        return Err(Error::new(ErrorKind::Internal, "not a bind mount"));
    };
    let open = |name: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = format!("/proc/{init}/ns/{name}");
        rustix::fs::open(&path, flags, Mode::empty()).context(|| format!("cannot open {path}"))
    };
    let mounts = open("mnt")?;
    let users = match &bind.idmap {
        None => None,
        Some(Idmap {
            mappings: None,
            recursive,
        }) => Some((open("user")?, *recursive)),
        Some(Idmap {
            mappings: Some((uids, gids)),
            recursive,
        }) => {
            let maps = IdMaps {
                uids: map_text(uids),
                gids: map_text(gids),
                uid_list: uids.clone(),
                gid_list: gids.clone(),
            };
            Some((user_namespace(proof, &maps)?, *recursive))
        }
    };
    let get = || {
        nix::sched::setns(&mounts, CloneFlags::CLONE_NEWNS).during(Detail::Open)?;
        let tree = clone_tree(rustix::fs::CWD, &bind.source, bind.recursive);
        map_ids(tree.during(Detail::Source)?, users.as_ref())
    };
    errand::fetch(proof, Step::Mounts, get, source_error)
}

/// Opens the directory onto which the root is attached, in the init's own mount namespace, with the
/// caller's rights.
pub(crate) fn fetch_place(proof: SingleThreaded, plan: &Plan, init: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{init}/ns/mnt");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mounts =
        rustix::fs::open(&path, flags, Mode::empty()).context(|| format!("cannot open {path}"))?;
    let get = || {
        nix::sched::setns(&mounts, CloneFlags::CLONE_NEWNS).during(Detail::Open)?;
        pivot::open_place(&plan.rootfs).during(Detail::Target)
    };
    errand::fetch(proof, Step::Root, get, |message| {
        let path = plan.rootfs.path.to_string_lossy();
        source_error(message).context(format!("cannot prepare root file system {path}"))
    })
}

fn source_error(message: &Message) -> Error {
    let errno = Errno::from_raw_os_error(message.errno);
    let doing = match message.detail {
        Detail::Attributes => "cannot map the ids of the mount",
        Detail::Target => "cannot open it",
        Detail::Open => "cannot enter the container's mount namespace",
        _ => "cannot open its source",
    };
    Error::from(errno).context(doing)
}

fn map_ids(tree: OwnedFd, users: Option<&(OwnedFd, bool)>) -> Result<OwnedFd, Fail> {
    if let Some((namespace, recursive)) = users {
        idmap::apply(tree.as_fd(), namespace.as_fd(), *recursive).during(Detail::Attributes)?;
    }
    Ok(tree)
}

/// A user namespace with these maps and nobody in it.
pub(crate) fn user_namespace(proof: SingleThreaded, maps: &IdMaps) -> Result<OwnedFd> {
    let (ours, theirs) = Wire::pair()?;
    let args = CloneArgs {
        flags: libc::CLONE_NEWUSER as u64,
        cgroup: None,
    };
    match clone(proof, &args).context(|| "cannot create a user namespace for idmapped mounts")? {
        Cloned::Child => {
            drop(ours);
            let _ = theirs.receive();
            exit_now(0)
        }
        Cloned::Parent(pid, pidfd) => {
            drop(theirs);
            let proc = open_proc()?;
            let namespace = write_maps(&proc, pid, maps).and_then(|()| {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&proc, format!("{pid}/ns/user"), flags, Mode::empty())
                    .context(|| "cannot open the user namespace")
            });
            drop(ours);
            let _ = reap(pidfd.as_fd());
            namespace
        }
    }
}

/// The mount that holds `path`, from /proc/self/mountinfo: the longest mount point above it.
pub(crate) fn mount_holding(path: &std::path::Path) -> Result<CString> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .context(|| "cannot read /proc/self/mountinfo")?;
    let path =
        std::fs::canonicalize(path).context(|| format!("cannot resolve {}", path.display()))?;
    let holding = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescaped)
        .filter(|point| path.starts_with(point))
        .max_by_key(|point| point.as_os_str().len());
    crate::plan::c_path(&holding.unwrap_or_else(|| "/".into()))
}

/// Mount points of proc and sysfs outside of `root`, outermost first.
pub(crate) fn kernel_views(root: &std::path::Path) -> Result<Vec<CString>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .context(|| "cannot read /proc/self/mountinfo")?;
    let view = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let kind = filesystem.split(' ').next()?;
        let point = unescaped(mount.split(' ').nth(4)?);
        (matches!(kind, "proc" | "sysfs") && !point.starts_with(root)).then_some(point)
    };
    table
        .lines()
        .filter_map(view)
        .map(|point| crate::plan::c_path(&point))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_lies_on_its_own_mount() {
        assert_eq!(
            mount_holding(std::path::Path::new("/proc/self"))
                .unwrap()
                .as_c_str(),
            c"/proc"
        );
        assert_eq!(open_proc().map(drop).map_err(|e| e.to_string()), Ok(()));
    }
}
