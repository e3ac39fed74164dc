//! The socket: made by us, or handed over by the service manager (sd_listen_fds(3)).
//!
//! One server at a time: a lock on a file beside the socket is held as long as the server lives, and the
//! kernel releases it however that ends. So who has the lock may replace whatever socket is there. The lock
//! file stays: to remove it would let two servers hold locks of files with one name.

use std::fs::File;
use std::io::ErrorKind::NotFound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::{Context, Error, ErrorKind, Result};

/// The first descriptor of sd_listen_fds(3).
const FIRST_HANDED: i32 = 3;
/// Connections that the kernel keeps while we are busy.
const BACKLOG: i32 = 1024;

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
    path: PathBuf,
    identity: (u64, u64),
    /// Held until the end.
    _lock: File,
}

impl Socket {
    /// The one that was handed over, else one at this path.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let socket = match handed(|name| std::env::var(name).ok(), std::process::id())? {
            true => Self::take().context(|| "cannot use the socket of the service manager"),
            false => Self::make(path).context(|| format!("cannot listen on {}", path.display())),
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

    fn make(path: &Path) -> Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        if let Some(parent) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)?;
        }
        let lock = lock(path)?;
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket: OwnedFd = rustix::net::socket_with(family, kind, flags, None)?;
        // The file that `bind` makes has the mode that the socket has before: at no time a wider one.
        rustix::fs::fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let made = std::fs::symlink_metadata(path)?;
        Ok(Self {
            listener: UnixListener::from(socket),
            own: Some(Own {
                path: path.to_owned(),
                identity: (made.dev(), made.ino()),
                _lock: lock,
            }),
        })
    }

    /// Removes the socket, if it is still ours.
    pub(crate) fn remove(&self) {
        let Some(own) = &self.own else { return };
        let now = std::fs::symlink_metadata(&own.path);
        if now.is_ok_and(|now| (now.dev(), now.ino()) == own.identity) {
            let _ = std::fs::remove_file(&own.path);
        }
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

fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let mut options = File::options();
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    options
        .write(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed());
    let file = options
        .open(&name)
        .context(|| format!("cannot open {}", name.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Busy, "another server listens there")
                .with_hint("stop it first, or give this one another place with --listen"))
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).context(|| format!("cannot lock {}", name.display()))
        }
    }
}

/// Whose socket it was is dead, for the lock is ours; or it listens without our lock and is no rcrun.
fn remove_stale(path: &Path) -> Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !there.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::Exists,
            "a file that is no socket is there",
        ));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Error::new(ErrorKind::Busy, "another program listens there"));
    }
    Ok(std::fs::remove_file(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

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

    #[test]
    fn one_server_at_a_time_and_stale_sockets_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/cri.sock");
        let first = Socket::make(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let busy = Socket::make(&path).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        UnixStream::connect(&path).unwrap();
        // As after a kill: the file stays.
        drop(first);
        assert!(path.exists());
        let second = Socket::make(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        second.remove();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::make(&path).unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let other = directory.path().join("other.sock");
        let _foreign = UnixListener::bind(&other).unwrap();
        assert_eq!(Socket::make(&other).unwrap_err().kind(), ErrorKind::Busy);
        let mine = directory.path().join("mine.sock");
        let socket = Socket::make(&mine).unwrap();
        std::fs::remove_file(&mine).unwrap();
        let _theirs = UnixListener::bind(&mine).unwrap();
        socket.remove();
        assert!(mine.exists(), "somebody else's socket was removed");
        assert!(Socket::make(&directory.path().join("x".repeat(120))).is_err());
    }
}
