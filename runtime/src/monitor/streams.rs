//! The container's standard streams: pipes, or a terminal, and this process's ends of them.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::launch::Stdin;
use crate::error::{Context, Result};

/// Ends of pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    /// The container's standard input, output and error.
    pub theirs: [OwnedFd; 3],
    /// What the container reads from; none if there is no input.
    pub input: Option<OwnedFd>,
    /// What it writes to.
    pub output: [OwnedFd; 2],
}

impl Pipes {
    pub(super) fn new(stdin: Stdin) -> Result<Self> {
        let failed = || "cannot make the container's streams";
        let (out, out_theirs) = output().context(failed)?;
        let (err, err_theirs) = output().context(failed)?;
        let (in_theirs, input) = match stdin {
            Stdin::None => (null().context(failed)?, None),
            Stdin::Open | Stdin::Once => {
                let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).context(failed)?;
                rustix::io::ioctl_fionbio(&ours, true).context(failed)?;
                (theirs, Some(ours))
            }
        };
        Ok(Self {
            theirs: [in_theirs, out_theirs, err_theirs],
            input,
            output: [out, err],
        })
    }

    pub(super) fn borrow(&self) -> [BorrowedFd<'_>; 3] {
        let [input, output, error] = &self.theirs;
        [input.as_fd(), output.as_fd(), error.as_fd()]
    }
}

/// A pipe for output. The container's end can be read from too: the pipe keeps a reader when this
/// process is killed, and the container is not ended by SIGPIPE. That all its ends are closed is still
/// seen here as the end of the file.
fn output() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, reopen(theirs.as_fd(), OFlags::RDWR)?))
}

/// Another open file for the same pipe, with flags of its own.
pub(super) fn reopen(pipe: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = crate::rootfs::fd_path(pipe);
    rustix::fs::open(path.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn null() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(c"/dev/null", flags, Mode::empty())
}
