//! Whether configurations may have changed: a descriptor to poll.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::{Context, Result};

/// Watches a directory; while there is none, the nearest one above it.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
    directory: PathBuf,
    whole: bool,
}

impl Watch {
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let mut watch = Self {
            socket: inotify::init(flags).context(|| "cannot watch files")?,
            directory: directory.to_owned(),
            whole: false,
        };
        watch.arm()?;
        Ok(watch)
    }

    /// Whether anything happened since the last call; never waits.
    pub fn changed(&mut self) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.socket, &mut buffer);
        let mut any = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    any = true;
                    let gone = ReadFlags::IGNORED | ReadFlags::MOVE_SELF;
                    if event.events().intersects(gone) {
                        self.whole = false;
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(|| "cannot read events of files"),
            }
        }
        if any && !self.whole {
            self.arm()?;
        }
        Ok(any)
    }

    fn arm(&mut self) -> Result<()> {
        let what = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        for path in self.directory.ancestors() {
            match inotify::add_watch(&self.socket, path, what) {
                Ok(_) => {
                    self.whole = path == self.directory;
                    return Ok(());
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => {
                    return Err(errno).context(|| format!("cannot watch {}", path.display()));
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
