//! Sockets: the server's, made by us or handed over by the service manager (sd_listen_fds(3)), and that of plugins.
//!
//! One server at a time: a lock on a file beside the socket is held as long as the server lives, and the
//! kernel releases it however that ends. So who has the lock may replace whatever socket is there. The lock
//! file stays: to remove it would let two servers hold locks of files with one name.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::{Context, Error, ErrorKind, Result};

/// The first descriptor of sd_listen_fds(3).
const FIRST_HANDED: i32 = 3;
/// Connections that the kernel keeps while we are busy.
const BACKLOG: i32 = 1024;
/// How long whoever has a socket is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);
/// Where somebody else listens.
const REMEDY: &str = "stop it first, or give this one another place";

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Does not block.
    pub(crate) listener: UnixListener,
    own: Option<Own>,
}

/// A socket that we made, and remove.
#[derive(Debug)]
struct Own {
    directory: OwnedFd,
    name: OsString,
    identity: (u64, u64),
    /// Held until the end.
    _lock: OwnedFd,
}

impl Socket {
    /// The one that was handed over, else one at this path.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let socket = match handed(|name| std::env::var(name).ok(), std::process::id())? {
            true => Self::take().context(|| "cannot use the socket of the service manager"),
            false => Self::make(path),
        }?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    fn take() -> Result<Self> {
        let socket = rcrun_runtime::sys::process::take_inherited(FIRST_HANDED)?;
        let stream = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM);
        let unix =
            sockopt::socket_domain(&socket).is_ok_and(|domain| domain == AddressFamily::UNIX);
        if !stream || !unix || !sockopt::socket_acceptconn(&socket).is_ok_and(|listens| listens) {
            return Err(
                Error::invalid("descriptor 3 is not a listening unix stream socket")
                    .with_hint("the socket unit needs ListenStream=/PATH and Accept=no"),
            );
        }
        Ok(Self {
            listener: UnixListener::from(socket),
            own: None,
        })
    }

    /// One at this path, which nobody else listens at. Blocks while it may be a program's that a killed server was
    /// starting: until that is another program, it has what the server had.
    pub(crate) fn make(path: &Path) -> Result<Self> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Self::made(path) {
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < end => {
                    std::thread::sleep(PAUSE);
                }
                made => return made.context(|| format!("cannot listen on {}", path.display())),
            }
        }
    }

    fn made(path: &Path) -> Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let whole = || Error::invalid("it is no path of a file");
        let (above, name) = (path.parent(), path.file_name());
        let (above, name) = above.zip(name).ok_or_else(whole)?;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(above)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(above, flags, Mode::empty())?;
        let lock = lock(&directory, name)?;
        remove_stale(&directory, name, path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket: OwnedFd = rustix::net::socket_with(family, kind, flags, None)?;
        // The file that `bind` makes has the mode that the socket has before: at no time a wider one.
        rustix::fs::fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let made = look(&directory, name)?;
        let gone = || Error::new(ErrorKind::Busy, "its directory was replaced meanwhile");
        let made = made.filter(|made| made.socket).ok_or_else(gone)?;
        Ok(Self {
            listener: UnixListener::from(socket),
            own: Some(Own {
                directory,
                name: name.to_owned(),
                identity: made.identity,
                _lock: lock,
            }),
        })
    }

    /// Removes the socket, if it is still ours.
    pub(crate) fn remove(&self) {
        let Some(own) = &self.own else { return };
        let now = look(&own.directory, &own.name).ok().flatten();
        if now.is_some_and(|now| now.identity == own.identity) {
            let _ = rustix::fs::unlinkat(&own.directory, &own.name, AtFlags::empty());
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whether a socket was handed to this very process.
fn handed(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Result<bool> {
    let number = |name| variable(name).and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(pid) {
        return Ok(false);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(more) => Err(Error::invalid(format!(
            "the service manager hands over {more} sockets, and one is needed"
        ))),
    }
}

fn lock(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    let mut name = name.to_owned();
    name.push(".lock");
    let failed = |errno: Errno, verb| {
        Error::from(errno).context(format!("cannot {verb} {}", name.display()))
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::openat(directory, &name, flags | OFlags::CLOEXEC, mode)
        .map_err(|errno| failed(errno, "open"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            Err(Error::new(ErrorKind::Busy, "another server listens there").with_hint(REMEDY))
        }
        Err(errno) => Err(failed(errno, "lock")),
    }
}

/// What is at a name.
struct There {
    socket: bool,
    identity: (u64, u64),
}

fn look(directory: &OwnedFd, name: &OsStr) -> Result<Option<There>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(There {
            socket: FileType::from_raw_mode(found.st_mode) == FileType::Socket,
            identity: (found.st_dev, found.st_ino),
        })),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// What to do about a socket that is there.
#[derive(Debug, PartialEq, Eq)]
enum Stale {
    Remove,
    /// It went by itself.
    Gone,
    /// Somebody has it.
    Lives,
    /// It cannot be told.
    Unclear,
}

/// Decides by what connecting to it said. The lock is ours, so it is of a server of ours that is dead, or of another
/// program: only a refused connection says that nobody has it.
fn judge(answer: Result<(), Errno>) -> Stale {
    match answer {
        Err(Errno::CONNREFUSED) => Stale::Remove,
        Err(Errno::NOENT) => Stale::Gone,
        // Too busy for us; a socket of another kind.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Stale::Lives,
        Err(_) => Stale::Unclear,
    }
}

/// Removes the socket of somebody who is dead, and nothing else.
fn remove_stale(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<()> {
    let Some(there) = look(directory, name)? else {
        return Ok(());
    };
    if !there.socket {
        let why = "a file that is no socket is there";
        return Err(Error::new(ErrorKind::Exists, why)
            .with_hint("remove it, or give the socket another place"));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let caller = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let answer = rustix::net::connect(&caller, &SocketAddrUnix::new(path)?);
    match judge(answer) {
        Stale::Gone => Ok(()),
        Stale::Lives => {
            Err(Error::new(ErrorKind::Busy, "another program listens there").with_hint(REMEDY))
        }
        Stale::Unclear => {
            let why = "it cannot be told whether anybody has the socket there";
            let errno = answer.err().unwrap_or(Errno::IO);
            Err(Error::from(errno).context(why)).map_err(|error| error.with_hint(REMEDY))
        }
        Stale::Remove => {
            let now = look(directory, name)?;
            if now.is_some_and(|now| now.identity != there.identity) {
                let why = "another program has just begun to listen there";
                return Err(Error::new(ErrorKind::Busy, why).with_hint(REMEDY));
            }
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn sockets_are_handed_to_one_process() {
        let set = |pid: &'static str, fds: &'static str| {
            move |name: &str| match name {
                "LISTEN_PID" => Some(pid.to_owned()).filter(|text| !text.is_empty()),
                _ => Some(fds.to_owned()).filter(|text| !text.is_empty()),
            }
        };
        for (pid, fds, expected) in [
            ("7", "1", Some(true)),
            ("8", "1", Some(false)),
            ("", "1", Some(false)),
            ("7", "", Some(false)),
            ("7", "0", Some(false)),
            ("7", "2", None),
        ] {
            assert_eq!(handed(set(pid, fds), 7).ok(), expected, "{pid:?} {fds:?}");
        }
    }

    /// What a server that was killed leaves.
    fn dead(path: &Path) {
        drop(UnixListener::bind(path).unwrap());
    }

    #[test]
    fn one_server_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/cri.sock");
        let first = Socket::make(&path).unwrap();
        for (path, mode) in [(&*path, 0o600), (path.parent().unwrap(), 0o700)] {
            let found = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(found & 0o7777, mode, "{}", path.display());
        }
        let busy = Socket::make(&path).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        assert!(busy.to_string().contains("deep/er/cri.sock"), "{busy}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(!path.exists());
        dead(&path);
        let second = Socket::make(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        second.remove();
        assert!(!path.exists());
    }

    #[test]
    fn connecting_tells_who_is_dead() {
        for (answer, expected) in [
            (Ok(()), Stale::Lives),
            (Err(Errno::AGAIN), Stale::Lives),
            (Err(Errno::PROTOTYPE), Stale::Lives),
            (Err(Errno::CONNREFUSED), Stale::Remove),
            (Err(Errno::NOENT), Stale::Gone),
            (Err(Errno::ACCESS), Stale::Unclear),
            (Err(Errno::NOMEM), Stale::Unclear),
            (Err(Errno::IO), Stale::Unclear),
        ] {
            assert_eq!(judge(answer), expected, "{answer:?}");
        }
    }

    /// What may be at the path, and whether it makes place; what stays is what it was.
    #[test]
    fn only_sockets_of_the_dead_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        dead(&at("dead"));
        let _lives = UnixListener::bind(at("lives")).unwrap();
        let full = UnixListener::bind(at("full")).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let _waits = UnixStream::connect(at("full")).unwrap();
        let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
        drop(UnixDatagram::bind(at("dead-datagrams")).unwrap());
        std::fs::write(at("file"), "precious").unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink("dead-behind", at("link")).unwrap();
        dead(&at("dead-behind"));
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        for (name, expected) in [
            ("nothing", None),
            ("dead", None),
            ("dead-datagrams", None),
            ("lives", Some(ErrorKind::Busy)),
            ("full", Some(ErrorKind::Busy)),
            ("datagrams", Some(ErrorKind::Busy)),
            ("file", Some(ErrorKind::Exists)),
            ("directory", Some(ErrorKind::Exists)),
            ("link", Some(ErrorKind::Exists)),
            ("dangling", Some(ErrorKind::Exists)),
        ] {
            let inode = |name: &str| std::fs::symlink_metadata(at(name)).map(|found| found.ino());
            let before = inode(name).ok();
            let made = Socket::make(&at(name));
            let kind = made.as_ref().err().map(Error::kind);
            assert_eq!(kind, expected, "{name}: {made:?}");
            match expected {
                None => {
                    UnixStream::connect(at(name)).unwrap();
                }
                Some(_) => assert_eq!(inode(name).ok(), before, "{name}"),
            }
        }
        assert!(at("dead-behind").exists());
        assert_eq!(std::fs::read(at("file")).unwrap(), b"precious");
        assert!(Socket::make(&at(&"x".repeat(120))).is_err());
        assert!(Socket::make(Path::new("/")).is_err());
    }

    #[test]
    fn attack_lock_that_is_a_link_or_a_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("victim"), "precious").unwrap();
        std::os::unix::fs::symlink(at("victim"), at("a.lock")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, at("b.lock"), FileType::Fifo, mode, 0).unwrap();
        for name in ["a", "b"] {
            assert!(Socket::make(&at(name)).is_err(), "{name}");
            assert!(!at(name).exists());
        }
        assert_eq!(std::fs::read(at("victim")).unwrap(), b"precious");
    }

    #[test]
    fn what_took_our_place_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mine = directory.path().join("mine.sock");
        let socket = Socket::make(&mine).unwrap();
        // The name is kept, so that the other file has another number.
        std::fs::rename(&mine, directory.path().join("old")).unwrap();
        let _theirs = UnixListener::bind(&mine).unwrap();
        drop(socket);
        assert!(mine.exists(), "somebody else's socket was removed");
    }
}
