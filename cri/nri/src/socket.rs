//! The socket at which plugins connect: a file that only root may use.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rcrun_error::{Context, Error, ErrorKind, Result};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that the kernel keeps while we are busy.
const BACKLOG: i32 = 128;

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    /// Listens at a path, unless somebody else does.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::make(path).context(|| format!("cannot listen for NRI plugins on {}", path.display()))
    }

    fn make(path: &Path) -> Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        if let Some(parent) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)?;
        }
        remove_stale(path)?;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = rustix::net::socket_with(family, kind, flags, None)?;
        // The file that `bind` makes has the mode that the socket has before: at no time a wider one.
        rustix::fs::fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let made = std::fs::symlink_metadata(path)?;
        Ok(Self {
            listener: UnixListener::from(socket),
            path: path.to_owned(),
            identity: (made.dev(), made.ino()),
        })
    }

    /// Connections, within a tokio runtime.
    pub(crate) fn listener(&self) -> Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        Ok(tokio::net::UnixListener::from_std(listener)?)
    }
}

/// Removes the file, if it is still ours.
impl Drop for Socket {
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path);
        if now.is_ok_and(|now| (now.dev(), now.ino()) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a server that is gone.
fn remove_stale(path: &Path) -> Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    if !there.file_type().is_socket() {
        return Err(Error::new(ErrorKind::Exists, "something else is there")
            .with_hint("remove it, or give the socket another place"));
    }
    // Whoever listened is gone only if nobody answers.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Ok(std::fs::remove_file(path)?)
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err(Error::new(ErrorKind::Busy, "another runtime listens there")
            .with_hint("stop it first, or give the socket another place")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_serves_is_replaced_and_one_that_somebody_does_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/nri.sock");
        let first = Socket::open(&path).unwrap();
        let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let error = Socket::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("run/nri.sock"), "{error}");
        drop(first);
        assert!(!path.exists());
        // What a server that was killed leaves.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Socket::open(&path).unwrap());
        assert!(!path.exists());
        // A file that took the place of ours is not ours.
        let third = Socket::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        drop(third);
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nri.sock");
        std::fs::write(&path, "important").unwrap();
        let error = Socket::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"important");
        let long = dir.path().join("x".repeat(200));
        assert!(Socket::open(&long).is_err());
    }
}
