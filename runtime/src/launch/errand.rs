//! Mounts that only a process of its own can get: what enters a mount namespace, or makes one, loses
//! its root and working directory for good.

use std::os::fd::{AsFd as _, OwnedFd};

use super::child::Progress;
use super::parent::reap;
use super::steps::Step;
use super::wire::{Message, Tag, Wire};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::rootfs::Fail;
use crate::sys::process::{CloneArgs, Cloned, SingleThreaded, clone, exit_now};

/// Has a process of its own get a tree, and takes that. `explain` words what it says when it fails.
pub(crate) fn fetch(
    proof: SingleThreaded,
    step: Step,
    get: impl FnOnce() -> Result<OwnedFd, Fail>,
    explain: impl FnOnce(&Message) -> Error,
) -> Result<OwnedFd> {
    let (ours, theirs) = Wire::pair()?;
    match clone(proof, &CloneArgs::default()).context(|| "cannot fork")? {
        Cloned::Child => {
            drop(ours);
            match get() {
                Ok(tree) => {
                    let _ = theirs.send_with(&Message::new(Tag::Go), tree.as_fd());
                    exit_now(0)
                }
                Err(fail) => Progress {
                    wire: theirs,
                    index: 0,
                }
                .fail(step, fail, b""),
            }
        }
        Cloned::Parent(_, pidfd) => {
            drop(theirs);
            let answer = ours.receive();
            let _ = reap(pidfd.as_fd());
            match answer? {
                Some((_, Some(tree))) => Ok(tree),
                Some((message, None)) => Err(explain(&message)),
                None => Err(Error::new(ErrorKind::Internal, "no answer")),
            }
        }
    }
}
