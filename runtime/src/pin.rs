//! Namespaces without processes: those of a pod, which its containers join one after the other.
//!
//! A process of its own (`rcrun pin`) makes them, sets them up and binds them to files; then nobody is in
//! them, and the files keep them. [`Pin`] says what is to be made, [`Pin::spawn`] starts that process from a
//! program with threads, [`Pin::make`] is what it does, [`unpin`] the way back. A pid namespace cannot
//! be kept this way: it ends with its first process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType as Type};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::parent;
use crate::monitor::WireError;
use crate::operations::caller::prove_single_threaded;
use crate::plan::namespaces::{IdMaps, flag_of, map_text};
use crate::rootfs::mount::{attach, clone_tree};
use crate::sys::process::{CloneArgs, Cloned, SingleThreaded, clone, exit_now};

/// Kinds that can be pinned, with the names of their files, which are those of /proc/PID/ns.
const KINDS: [(Type, &str); 4] = [
    (Type::User, "user"),
    (Type::Network, "net"),
    (Type::Ipc, "ipc"),
    (Type::Uts, "uts"),
];
/// The pod's /dev/shm beside them.
pub const SHM: &str = "shm";
/// Longest answer that is read.
const ANSWER_MAX: u64 = 64 << 10;
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// What is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// An existing directory; it gets a file for each namespace, called as in /proc/PID/ns.
    pub directory: PathBuf,
    /// Which ones: `net`, `ipc`, `uts`, `user`; the others then belong to that user namespace.
    pub namespaces: Vec<String>,
    /// Maps of the user namespace, as in `linux.uidMappings`.
    #[serde(default)]
    pub uids: Vec<LinuxIdMapping>,
    /// As in `linux.gidMappings`.
    #[serde(default)]
    pub gids: Vec<LinuxIdMapping>,
    /// The name of the host, in the namespace `uts`.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Settings of the namespaces, by their paths below /proc/sys.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Size in bytes of a tmpfs at `shm` in the directory; absent: there is none.
    #[serde(default)]
    pub shm: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<WireError>,
}

impl Pin {
    /// Has a process of its own do it; `FailedPrecondition` and others are as [`Pin::make`] says.
    pub fn spawn(&self) -> Result<()> {
        let text = serde_json::to_string(self)
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        let mut command = Command::new("/proc/self/exe");
        std::os::unix::process::CommandExt::arg0(&mut command, "rcrun");
        let mut child = command
            .args(["pin", &text])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context(|| "cannot start rcrun pin")?;
        let mut answer = Vec::new();
        let read = match child.stdout.take() {
            Some(output) => output.take(ANSWER_MAX).read_to_end(&mut answer),
            None => Ok(0),
        };
        let ended = child.wait().context(|| "cannot wait for rcrun pin")?;
        read.context(|| "cannot hear from rcrun pin")?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|_| {
            let text = format!("rcrun pin ended without a word ({ended})");
            Error::new(ErrorKind::Unavailable, text)
        })?;
        match answer.error {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    }

    /// What `rcrun pin` writes to its standard output for a result.
    pub fn answer(result: &Result<()>) -> String {
        let error = result.as_ref().err().map(WireError::from);
        serde_json::to_string(&Answer { error }).unwrap_or_default()
    }

    /// Does it, in a process with one thread. What was begun is undone when it fails.
    pub fn make(&self) -> Result<()> {
        let made = self.try_to_make();
        if made.is_err() {
            let _ = unpin(&self.directory);
        }
        made
    }

    fn try_to_make(&self) -> Result<()> {
        let kinds = self.kinds()?;
        let directory = open_directory(&self.directory)?;
        let proof = prove_single_threaded()?;
        let flags = kinds.iter().map(|(kind, _)| flag_of(*kind).0).sum();
        let failed = || "cannot create the pod's namespaces";
        match self.is_mapped() {
            true => {
                let (pidfd, pid, held) = self.clone_mapped(proof, flags).context(failed)?;
                let kept = keep(pid, &directory, &kinds);
                drop(held);
                let _ = parent::reap(pidfd.as_fd());
                kept?;
                // What the host's root may set there, the pod's may not always.
                for (kind, name) in kinds.iter().filter(|(kind, _)| *kind != Type::User) {
                    let flag = CloneFlags::from_bits_retain(flag_of(*kind).0 as libc::c_int);
                    let file = open_at(&directory, name)?;
                    nix::sched::setns(file, flag)
                        .map_err(Error::from)
                        .context(failed)?;
                }
            }
            false => {
                let flags = CloneFlags::from_bits_retain(flags as libc::c_int);
                nix::sched::unshare(flags)
                    .map_err(Error::from)
                    .context(failed)?;
                keep(0, &directory, &kinds)?;
            }
        }
        self.set_up()?;
        match self.shm {
            Some(size) => self.mount_shm(&directory, size),
            None => Ok(()),
        }
    }

    /// A process in a new user namespace with its maps, and in the others; it ends with the pipe.
    fn clone_mapped(&self, proof: SingleThreaded, flags: u64) -> Result<(OwnedFd, i32, File)> {
        let (mut wait, held) = pipe()?;
        let args = CloneArgs {
            flags,
            cgroup: None,
        };
        match clone(proof, &args)? {
            Cloned::Child => {
                drop(held);
                let _ = wait.read_exact(&mut [0]);
                exit_now(0)
            }
            Cloned::Parent(pid, pidfd) => {
                drop(wait);
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let proc = rustix::fs::open(c"/proc", flags, Mode::empty())?;
                match parent::write_maps(&proc, pid, &self.maps()) {
                    Ok(()) => Ok((pidfd, pid, held)),
                    Err(error) => {
                        drop(held);
                        let _ = parent::reap(pidfd.as_fd());
                        Err(error)
                    }
                }
            }
        }
    }

    /// In the new namespaces.
    fn set_up(&self) -> Result<()> {
        let has = |name: &str| self.namespaces.iter().any(|one| one == name);
        if has("net") {
            crate::sys::netlink::lo_up().context(|| "cannot bring up the pod's loopback device")?;
        }
        if let Some(name) = &self.hostname {
            if !has("uts") {
                return Err(Error::invalid(
                    "cannot set a host name: the pod has the host's",
                ));
            }
            rustix::system::sethostname(name.as_bytes())
                .context(|| format!("cannot set host name {name:?}"))?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let all = rustix::fs::open(c"/proc/sys", flags, Mode::empty())
            .context(|| "cannot open /proc/sys")?;
        for (path, value) in &self.sysctls {
            write_sysctl(&all, path, value)
                .context(|| format!("cannot set sysctl {path:?} to {value:?}"))?;
        }
        Ok(())
    }

    fn mount_shm(&self, directory: &OwnedFd, size: u64) -> Result<()> {
        let failed = || "cannot mount the pod's /dev/shm";
        rustix::fs::mkdirat(directory, SHM, Mode::from_raw_mode(0o700)).context(failed)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::openat(directory, SHM, flags, Mode::empty()).context(failed)?;
        let (uid, gid) = (outside(&self.uids), outside(&self.gids));
        let options = format!("mode=1777,size={size},uid={uid},gid={gid}");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let target = crate::rootfs::fd_path(place.as_fd());
        let options = crate::plan::c_path(Path::new(&options))?;
        rustix::mount::mount(
            c"shm",
            target.as_c_str(),
            c"tmpfs",
            flags,
            Some(options.as_c_str()),
        )
        .context(failed)
    }

    fn kinds(&self) -> Result<Vec<(Type, &'static str)>> {
        let mut kinds = Vec::new();
        for name in &self.namespaces {
            let known = KINDS.iter().find(|(_, known)| known == name);
            let kind = known.ok_or_else(|| {
                Error::invalid(format!("cannot pin a namespace {name:?}: there is none"))
            })?;
            if kinds.contains(kind) {
                return Err(Error::invalid(format!("namespace {name} is named twice")));
            }
            kinds.push(*kind);
        }
        let user = kinds.iter().any(|(kind, _)| *kind == Type::User);
        if user != self.is_mapped() || self.uids.is_empty() != self.gids.is_empty() {
            return Err(Error::invalid(
                "a user namespace has maps of users and of groups, and nothing else has",
            ));
        }
        Ok(kinds)
    }

    fn is_mapped(&self) -> bool {
        !self.uids.is_empty()
    }

    fn maps(&self) -> IdMaps {
        IdMaps {
            uids: map_text(&self.uids),
            gids: map_text(&self.gids),
            uid_list: self.uids.clone(),
            gid_list: self.gids.clone(),
        }
    }
}

/// Binds a process's namespaces to files; 0 is this one.
fn keep(pid: i32, directory: &OwnedFd, kinds: &[(Type, &str)]) -> Result<()> {
    for (_, name) in kinds {
        keep_one(pid, directory, name)?;
    }
    Ok(())
}

fn keep_one(pid: i32, directory: &OwnedFd, name: &str) -> Result<()> {
    let failed = || format!("cannot keep the pod's {name} namespace");
    let source = match pid {
        0 => format!("/proc/self/ns/{name}"),
        pid => format!("/proc/{pid}/ns/{name}"),
    };
    let tree = clone_tree(CWD, &crate::plan::c_path(Path::new(&source))?, false).context(failed)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o444));
    attach(tree.as_fd(), file.context(failed)?.as_fd()).context(failed)
}

/// What 0 inside is outside.
fn outside(maps: &[LinuxIdMapping]) -> u32 {
    let root = maps.iter().find(|map| map.container_id() == 0);
    root.map_or(0, LinuxIdMapping::host_id)
}

fn write_sysctl(all: &OwnedFd, path: &str, value: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let file = rustix::fs::openat2(all, path, flags, Mode::empty(), resolve)?;
    match rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes()))? {
        count if count == value.len() => Ok(()),
        _ => Err(Errno::INVAL.into()),
    }
}

fn pipe() -> Result<(File, File)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .context(|| "cannot create a pipe")?;
    Ok((reader.into(), writer.into()))
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .context(|| format!("cannot open {}", path.display()))
}

/// Lets go of all that was pinned in a directory, and removes its files; what is not there is no error.
/// Namespaces that somebody still is in stay until they leave.
pub fn unpin(directory: &Path) -> Result<()> {
    let directory = match open_directory(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for name in KINDS.map(|(_, name)| name).into_iter().chain(["pid", SHM]) {
        remove(&directory, name).context(|| format!("cannot let go of the pod's {name}"))?;
    }
    Ok(())
}

fn remove(directory: &OwnedFd, name: &str) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // More than once only if somebody mounted over it.
    loop {
        let place = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        // By way of the directory: the descriptor names what is mounted, not where.
        let path = format!(
            "/proc/self/fd/{}/{name}",
            std::os::fd::AsRawFd::as_raw_fd(directory)
        );
        drop(place);
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => return Err(errno),
        }
    }
    match rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    match rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Keeps the pid namespace of a process beside the others: its file outlives the pid.
pub fn pin_pid(directory: &Path, pid: i32) -> Result<()> {
    keep_one(pid, &open_directory(directory)?, "pid")
}

/// Opens a pinned namespace; `NotFound` when the file is none (any more): somebody unmounted it.
pub fn open(directory: &Path, name: &str) -> Result<OwnedFd> {
    let failed = || format!("cannot open {}", directory.join(name).display());
    open_at(&open_directory(directory)?, name).context(failed)
}

fn open_at(directory: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    match rustix::fs::fstatfs(&file)?.f_type == NSFS_MAGIC {
        true => Ok(file),
        false => {
            let text = format!("the file of the {name} namespace is none (any more)");
            Err(Error::new(ErrorKind::NotFound, text))
        }
    }
}
