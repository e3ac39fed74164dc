//! The user namespace that all verbs of one user share while anything lives in it.
//!
//! Who is root of one namespace has no rights over a sibling with the same maps, so verbs that stop or
//! enter a container have to be in the namespace it was made in. Nobody keeps that open for its own
//! sake: the namespace lives as long as a monitor, a container or a verb is in it. The user's runtime
//! directory says which one it is ([`Register`]); who needs it looks for a process that is in it,
//! enters through that one, and makes a new one only if there is none. All of that happens under a
//! lock, which is held until the caller is inside: so there is never a second one.
//!
//! What the register says is only where to look. A namespace is entered if the kernel says that it was
//! made by this user in the namespace that this process is in (ioctl_ns(2)).

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rcrun_runtime::error::{Context, Error, Result};
use rcrun_runtime::sys::namespace;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// How deep user namespaces can be (user_namespaces(7)).
const DEPTH: usize = 32;
/// The longest register that is read.
const LIMIT: u64 = 4096;
const VERSION: u32 = 1;

/// What is remembered of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    version: u32,
    /// Its number (inode of /proc/PID/ns/user).
    namespace: u64,
    /// A process that was in it.
    pid: i32,
}

/// The file that says which namespace it is, locked.
#[derive(Debug)]
pub(super) struct Register {
    file: File,
    /// The namespace of this process.
    own: u64,
}

impl Register {
    /// Opens the register of the user namespace and the processes that this one sees, below a directory
    /// that is the user's own, and waits until nobody else uses it.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let own = own("user")?;
        let path = directory.join(name()?);
        let context = || format!("cannot open {}", path.display());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::from(0o600)).context(context)?;
        let stat = rustix::fs::fstat(&fd).context(context)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular || stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Error::invalid("it is no file of this user")).context(context);
        }
        rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive))
            .context(|| format!("cannot lock {}", path.display()))?;
        let file = File::from(fd);
        Ok(Self { file, own })
    }

    /// The namespace, if any process is left in it or below it.
    pub(super) fn living(&mut self) -> Result<Option<OwnedFd>> {
        let Some(known) = self.read() else {
            return Ok(None);
        };
        if let Some(found) = self.of(known.pid, known.namespace) {
            return Ok(Some(found));
        }
        let Some((pid, found)) = self.search(known.namespace)? else {
            return Ok(None);
        };
        // Whoever comes next need not search.
        self.write(Known { pid, ..known })?;
        Ok(Some(found))
    }

    /// Remembers a new one, in which this process is going to be.
    pub(super) fn remember(&mut self, made: BorrowedFd<'_>) -> Result<()> {
        let stat = rustix::fs::fstat(made).context(|| "cannot examine a user namespace")?;
        self.write(Known {
            version: VERSION,
            namespace: stat.st_ino,
            pid: rustix::process::getpid().as_raw_nonzero().get(),
        })
    }

    /// None if it was never written, or by another version: then nothing of that can be found.
    fn read(&mut self) -> Option<Known> {
        let mut text = Vec::new();
        self.file.rewind().ok()?;
        (&self.file).take(LIMIT).read_to_end(&mut text).ok()?;
        let known: Known = serde_json::from_slice(&text).ok()?;
        (known.version == VERSION).then_some(known)
    }

    fn write(&mut self, known: Known) -> Result<()> {
        let mut write = || -> std::io::Result<()> {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&serde_json::to_vec(&known)?)
        };
        write().context(|| "cannot write down which user namespace is used")
    }

    /// Looks at all processes; the pid of the one that was found.
    fn search(&self, wanted: u64) -> Result<Option<(i32, OwnedFd)>> {
        let mut seen = HashSet::from([self.own]);
        let mut others = Vec::new();
        for entry in std::fs::read_dir("/proc").context(|| "cannot list processes")? {
            let Ok(entry) = entry else { continue };
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok());
            let Some((pid, number)) = pid.and_then(|pid| Some((pid, number_of(pid)?))) else {
                continue;
            };
            if number == wanted {
                if let Some(found) = self.of(pid, wanted) {
                    return Ok(Some((pid, found)));
                }
            } else if seen.insert(number) {
                others.push(pid);
            }
        }
        // A container with a user namespace of its own, whose monitor was killed.
        let below = |pid: &i32| Some((*pid, self.above(*pid, wanted)?));
        Ok(others.iter().find_map(below))
    }

    /// The namespace of a process, if it is the one that is wanted and may be entered.
    fn of(&self, pid: i32, wanted: u64) -> Option<OwnedFd> {
        let found = open(pid)?;
        self.is_ours(&found, wanted).then_some(found)
    }

    /// The same of those around the namespace of a process.
    fn above(&self, pid: i32, wanted: u64) -> Option<OwnedFd> {
        let mut at = open(pid)?;
        for _ in 0..DEPTH {
            at = namespace::parent(at.as_fd()).ok()?;
            if self.is_ours(&at, wanted) {
                return Some(at);
            }
        }
        None
    }

    /// Numbers are used again: what counts is who made it, and where.
    fn is_ours(&self, found: &OwnedFd, wanted: u64) -> bool {
        let number = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_ino);
        number(found) == Ok(wanted)
            && namespace::owner(found.as_fd()) == Ok(rustix::process::geteuid().as_raw())
            && namespace::parent(found.as_fd()).and_then(|around| number(&around)) == Ok(self.own)
    }
}

/// The name of the register.
fn name() -> Result<String> {
    Ok(format!(".user-namespace-{}-{}", own("user")?, own("pid")?))
}

/// The number of this process's namespace.
fn own(kind: &str) -> Result<u64> {
    let link = rustix::fs::stat(format!("/proc/self/ns/{kind}"));
    Ok(link
        .context(|| format!("cannot tell the {kind} namespace: is /proc mounted?"))?
        .st_ino)
}

/// The number of a process's namespace, if we may know.
fn number_of(pid: i32) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
    let text = link.to_str()?.strip_prefix("user:[")?.strip_suffix(']')?;
    text.parse().ok()
}

fn open(pid: i32) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened: Result<OwnedFd, Errno> = rustix::fs::open(path, flags, Mode::empty());
    opened.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_looked_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut register = Register::open(directory.path()).unwrap();
        assert!(register.read().is_none());
        assert!(register.living().unwrap().is_none());
        // Our own namespace is not below ourselves, and nobody's whom we may enter.
        let own = open(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        register.remember(own.as_fd()).unwrap();
        let known = register.read().unwrap();
        assert_eq!(known.namespace, register.own);
        assert!(register.living().unwrap().is_none());
        drop(register);
        // Garbage, and what others write.
        for text in [
            "",
            "{",
            "\0\0\0",
            "{\"version\":2,\"namespace\":1,\"pid\":1}",
        ] {
            let path = directory.path().join(name().unwrap());
            std::fs::write(&path, text).unwrap();
            let mut register = Register::open(directory.path()).unwrap();
            assert!(register.living().unwrap().is_none(), "{text}");
        }
    }

    #[test]
    fn a_register_that_is_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name().unwrap());
        let target = directory.path().join("target");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        Register::open(directory.path()).unwrap_err();
        assert!(!target.exists());
    }
}
