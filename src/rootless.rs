//! Ordinary users: before a verb for people touches store or containers, it becomes root of a user
//! namespace with the user's subordinate ids (user_namespaces(7), newuidmap(1)).
//!
//! Owns [`enter`], which is the whole story; which ids there are is decided in `maps`, which namespace
//! it is in `namespace`. Everything else of rcrun only knows "root of a user namespace", the same as
//! below `unshare -r` or in a container, and finds that out from the kernel: no variable and no flag
//! says so, and nothing trusts one. The process itself enters, by setns(2); a child that ends at once
//! makes the namespace, so that newuidmap finds it from outside. So there is no process in between to
//! pass signals, terminals or exit codes through.

mod maps;
mod namespace;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sched::CloneFlags;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::sys::namespace::user_namespace;
use rcrun_runtime::sys::process::{CloneArgs, Cloned, SingleThreaded, clone, exit_now};
use rustix::process::{DumpableBehavior, WaitIdOptions};

use crate::containers::spec::Rootless;
use crate::settings::in_user_namespace;
use maps::{Extent, Maps, User};
use namespace::Register;

/// Where newuidmap and newgidmap are looked for: `$PATH` is whoever's.
const PROGRAMS: [&str; 5] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/run/wrappers/bin",
];
/// The longest of what they say that is told on.
const SAID: u64 = 4096;

static ENTERED: AtomicBool = AtomicBool::new(false);
static OUTSIDE: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Whether a verb for people has to [`enter`] first.
pub(crate) fn is_needed() -> bool {
    is_ordinary() || (in_user_namespace() && !may_mount())
}

fn is_ordinary() -> bool {
    !rustix::process::geteuid().is_root()
}

/// Whether this process's mount namespace belongs to its user namespace: not below a plain `unshare -r`.
fn may_mount() -> bool {
    let number = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_ino);
    let open = |path: &str| File::open(path).map(OwnedFd::from);
    let (Ok(own), Ok(mounts)) = (open("/proc/self/ns/user"), open("/proc/self/ns/mnt")) else {
        return true;
    };
    user_namespace(mounts.as_fd()).is_ok_and(|of| number(&of) == number(&own))
}

/// Whether this process has: its mounts are seen by nobody else.
pub(crate) fn has_entered() -> bool {
    ENTERED.load(Ordering::Relaxed)
}

/// Makes this process root of the user's namespace, in a mount namespace of its own. Nothing happens if
/// it is root already, of whatever namespace.
pub(crate) fn enter() -> Result<()> {
    if !is_needed() {
        return Ok(());
    }
    if is_ordinary() {
        enter_user_namespace()?;
    }
    let root = File::open("/").context(|| "cannot open /")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| forbidden(Error::from(errno).context("cannot make a mount namespace")))?;
    ENTERED.store(true, Ordering::Relaxed);
    *OUTSIDE.lock().unwrap_or_else(PoisonError::into_inner) = Some(root.into());
    Ok(())
}

/// The root directory in the mount namespace that this process came from, if it has entered one: for the first
/// who asks, so that it is not open for longer than somebody needs it.
pub(crate) fn outside() -> Option<OwnedFd> {
    OUTSIDE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
}

fn enter_user_namespace() -> Result<()> {
    let failed = || "cannot become root of a user namespace";
    let mut register = Register::open(&runtime_directory()?).context(failed)?;
    let namespace = match register.living().context(failed)? {
        Some(living) => living,
        None => {
            let made = make().context(failed)?;
            register.remember(made.as_fd()).context(failed)?;
            made
        }
    };
    nix::sched::setns(namespace, CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| forbidden(Error::from(errno).context("cannot enter it")))
        .context(failed)?;
    // Only now may another one look for who is in it.
    drop(register);
    if is_ordinary() {
        let text = "its maps do not have this user";
        return Err(Error::new(ErrorKind::Internal, text)).context(failed);
    }
    Ok(())
}

/// `$XDG_RUNTIME_DIR/rcrun`, or what takes its place where that is not set: below /run/user if the
/// machine has that, else below /tmp. Made if it is missing.
pub(crate) fn runtime_directory() -> Result<PathBuf> {
    let given = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let uid = owner();
    let path = match given {
        Some(given) => Path::new(&given).join("rcrun"),
        None => match PathBuf::from(format!("/run/user/{uid}")) {
            of_user if is_of(&of_user, me()) => of_user.join("rcrun"),
            _ => PathBuf::from(format!("/tmp/rcrun-{uid}")),
        },
    };
    let failed = || {
        let path = path.display();
        format!("cannot use {path} for what lasts as long as the machine runs")
    };
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            let error = Err(error).context(failed);
            return error.map_err(|error: Error| {
                error.with_hint("set $XDG_RUNTIME_DIR to a directory of your own")
            });
        }
        _ => {}
    }
    match is_of(&path, me()) {
        true => Ok(path),
        false => {
            let text = "it is no directory of this user that others cannot write to";
            Err(Error::new(ErrorKind::PermissionDenied, text)
                .with_hint("set $XDG_RUNTIME_DIR to a directory of your own"))
            .context(failed)
        }
    }
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A directory, no link, that belongs to somebody and that nobody else can write to.
fn is_of(path: &Path, uid: u32) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0)
}

/// The user behind this process: who made the user namespace whose root it is.
pub(crate) fn owner() -> u32 {
    match is_ordinary() {
        true => me(),
        false => outer_root().unwrap_or(0),
    }
}

/// That user's group.
pub(crate) fn owner_group() -> u32 {
    match is_ordinary() {
        true => rustix::process::getegid().as_raw(),
        false => outer("/proc/self/gid_map").unwrap_or(0),
    }
}

/// Which id root of this namespace is outside of it.
pub(crate) fn outer_root() -> Option<u32> {
    outer("/proc/self/uid_map")
}

fn outer(map: &str) -> Option<u32> {
    let map = std::fs::read_to_string(map).ok()?;
    map.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()? == "0").then(|| fields.next()?.parse().ok())?
    })
}

/// How many ids this namespace has: users, groups.
pub(crate) fn counts() -> (u64, u64) {
    let count = |path| {
        let map = std::fs::read_to_string(path).unwrap_or_default();
        let last = |line: &str| line.split_whitespace().next_back()?.parse::<u64>().ok();
        map.lines().filter_map(last).sum()
    };
    (count("/proc/self/uid_map"), count("/proc/self/gid_map"))
}

/// What containers of this process cannot have; none if it is root of the machine.
pub(crate) fn facts() -> Result<Option<Rootless>> {
    if !in_user_namespace() {
        return Ok(None);
    }
    let read = |path: &str| std::fs::read_to_string(path).context(|| format!("cannot read {path}"));
    let ranges = |map: &str| {
        let range = |line: &str| {
            let mut fields = line.split_whitespace().map(str::parse::<u32>);
            Some((fields.next()?.ok()?, fields.nth(1)?.ok()?))
        };
        map.lines().filter_map(range).collect()
    };
    Ok(Some(Rootless {
        uids: ranges(&read("/proc/self/uid_map")?),
        gids: ranges(&read("/proc/self/gid_map")?),
        groups: read("/proc/self/setgroups")?.trim() != "deny",
        oom_score: read("/proc/self/oom_score_adj")?
            .trim()
            .parse()
            .unwrap_or(0),
    }))
}

/// A new user namespace with the maps of this user, and nobody in it.
fn make() -> Result<OwnedFd> {
    let user = user()?;
    let (subuid, subgid) = (text("/etc/subuid")?, text("/etc/subgid")?);
    let maps = maps::decide(&user, &subuid, &subgid)?;
    let holder = Holder::new()?;
    match maps.is_single() {
        true => holder.map_itself(&maps)?,
        false => holder.map_by_programs(&maps)?,
    }
    let namespace = holder.namespace.try_clone();
    namespace.context(|| "cannot keep a user namespace")
}

fn user() -> Result<User> {
    let (uid, gid) = (me(), rustix::process::getegid().as_raw());
    let real = (rustix::process::getuid(), rustix::process::getgid());
    if (real.0.as_raw(), real.1.as_raw()) != (uid, gid) {
        return Err(Error::unsupported(
            "real and effective user differ: rcrun is not to be installed set-user-id",
        ));
    }
    let name = maps::name_of(uid, &text("/etc/passwd")?);
    Ok(User { name, uid, gid })
}

/// A file of the machine; a missing one is empty.
fn text(path: &str) -> Result<String> {
    let failed = || format!("cannot read {path}");
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(maps::FILE_LIMIT + 1).read_to_end(&mut bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
    .context(failed)?;
    if bytes.len() as u64 > maps::FILE_LIMIT {
        return Err(Error::invalid("it is too long")).context(failed);
    }
    // Names of others may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A child in a new user namespace, which it holds open until this is dropped.
struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    namespace: OwnedFd,
    /// The child ends when it reads the end of this.
    _life: OwnedFd,
}

impl Holder {
    fn new() -> Result<Self> {
        let threads = || Error::new(ErrorKind::Internal, "there is more than one thread");
        let proof = SingleThreaded::prove().ok_or_else(threads)?;
        // Files below /proc are the user's own only then; a program that may not be read is not.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
            .context(|| "cannot become dumpable")?;
        let (read, life) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context(|| "cannot make a pipe")?;
        let args = CloneArgs {
            flags: CloneFlags::CLONE_NEWUSER.bits() as u64,
            ..CloneArgs::default()
        };
        let (pid, pidfd) = match clone(proof, &args) {
            Ok(Cloned::Child) => {
                drop(life);
                let _ = rustix::io::read(&read, &mut [0; 1]);
                exit_now(0)
            }
            Ok(Cloned::Parent(pid, pidfd)) => (pid, pidfd),
            Err(errno) => {
                let error = Error::from(errno).context("cannot make a user namespace");
                return Err(forbidden(error));
            }
        };
        let opened = File::open(format!("/proc/{pid}/ns/user"));
        let namespace = opened
            .context(|| "cannot open a user namespace")
            .map(OwnedFd::from);
        match namespace {
            Ok(namespace) => Ok(Self {
                pid,
                pidfd,
                namespace,
                _life: life,
            }),
            Err(error) => {
                drop(life);
                reap(&pidfd);
                Err(error)
            }
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = format!("/proc/{}/{file}", self.pid);
        std::fs::write(&path, text).context(|| format!("cannot write {text:?} to {path}"))
    }

    /// Nothing but the user's own id: that needs nobody's help, but takes the right to change groups
    /// away, since a group may be what a file is kept from.
    fn map_itself(&self, maps: &Maps) -> Result<()> {
        self.write("uid_map", &line(maps.uids[0]))?;
        self.write("setgroups", "deny")?;
        self.write("gid_map", &line(maps.gids[0]))
    }

    /// Both at once: each is a process, and neither knows the other.
    fn map_by_programs(&self, maps: &Maps) -> Result<()> {
        let uids = Program::start("newuidmap", self.pid, &maps.uids)?;
        let gids = Program::start("newgidmap", self.pid, &maps.gids)?;
        uids.end().and(gids.end())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The pipe is closed after this; a signal is sooner.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        reap(&self.pidfd);
    }
}

fn reap(pidfd: &OwnedFd) {
    let id = rustix::process::WaitId::PidFd(pidfd.as_fd());
    let _ =
        rustix::io::retry_on_intr(|| rustix::process::waitid(id.clone(), WaitIdOptions::EXITED));
}

fn line(extent: Extent) -> String {
    format!("{} {} {}\n", extent.inside, extent.outside, extent.count)
}

/// newuidmap(1) or newgidmap(1), at work.
struct Program {
    path: PathBuf,
    child: std::process::Child,
}

impl Program {
    fn start(name: &str, pid: i32, map: &[Extent]) -> Result<Self> {
        let missing = || {
            let file = if name == "newuidmap" {
                "/etc/subuid"
            } else {
                "/etc/subgid"
            };
            let text = format!(
                "{file} gives you ids, and {name}, which makes them yours, is in none of {}",
                PROGRAMS.join(", ")
            );
            Error::new(ErrorKind::NotFound, text)
                .with_hint("install package uidmap (Debian, Ubuntu) or shadow-utils (Fedora), or have your lines taken out of /etc/subuid and /etc/subgid")
        };
        let places = PROGRAMS.iter().map(|at| Path::new(at).join(name));
        let path = places.into_iter().find(|path| path.is_file());
        let path = path.ok_or_else(missing)?;
        check(&path)?;
        let numbers = map
            .iter()
            .flat_map(|one| [one.inside, one.outside, one.count])
            .map(|number| number.to_string());
        let child = Command::new(&path)
            .arg(pid.to_string())
            .args(numbers)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| format!("cannot execute {}", path.display()))?;
        Ok(Self { path, child })
    }

    fn end(mut self) -> Result<()> {
        let failed = || format!("cannot tell what {} does", self.path.display());
        let mut said = Vec::new();
        if let Some(stream) = self.child.stderr.take() {
            stream.take(SAID).read_to_end(&mut said).context(failed)?;
        }
        if self.child.wait().context(failed)?.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let said = crate::format::printable(said.trim());
        let text = format!("{} failed: {said}", self.path.display());
        let hint = "it has to be set-user-id root or have file capabilities, on a file system and in a process \
                    that allow that (no nosuid, no no_new_privs), and the user an account";
        Err(Error::new(ErrorKind::PermissionDenied, text).with_hint(hint))
    }
}

/// A program that others than root can write to is nobody's to trust with ids.
fn check(path: &Path) -> Result<()> {
    let refuse = |what: &str| {
        let text = format!("cannot use {}: {what}", path.display());
        Err(Error::new(ErrorKind::PermissionDenied, text))
    };
    let found = std::fs::metadata(path).context(|| format!("cannot examine {}", path.display()))?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return refuse("others than root can write to it");
    }
    Ok(())
}

/// An error of a kernel that keeps user namespaces from ordinary users.
fn forbidden(error: Error) -> Error {
    let kinds = [ErrorKind::PermissionDenied, ErrorKind::Exhausted];
    match kinds.contains(&error.kind()) {
        true => error.with_hint(
            "ordinary users need user namespaces: see the sysctls user.max_user_namespaces, \
             kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns; in a container, \
             its seccomp profile",
        ),
        false => error,
    }
}
