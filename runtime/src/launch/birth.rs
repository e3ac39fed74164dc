//! How the processes that enter containers come into being, for `create` and `exec` alike: cloned by
//! this process or by an intermediate one, into their cgroup2 cgroup or, where that cannot be, outside
//! of it.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::wire::{Message, Wire};
use super::{intermediate, parent};
use crate::error::{Error, Result};
use crate::state::Record;
use crate::sys::process::{CloneArgs, Cloned, SingleThreaded, clone};

/// A process to be.
#[derive(Debug)]
pub(crate) struct Birth<'a> {
    /// It is a copy of this process.
    pub proof: SingleThreaded,
    /// Its new namespaces, and its cgroup.
    pub args: CloneArgs<'a>,
    /// Namespaces that an intermediate process enters before it clones the one that is meant; none:
    /// there is no intermediate process.
    pub through: Option<&'a [(u64, OwnedFd)]>,
    /// What an intermediate process clones is undumpable from birth.
    pub hide: bool,
}

/// A process that was made.
#[derive(Debug)]
pub(crate) struct Child {
    /// In this pid namespace.
    pub pid: i32,
    /// It.
    pub pidfd: OwnedFd,
    /// It was not born in its cgroup, and has to be moved there.
    pub outside: bool,
}

/// Which side of [`Birth::clone`] one is on.
#[derive(Debug)]
pub(crate) enum Side {
    /// The caller, with what it cloned: for [`Birth::adopt`].
    Parent(Child),
    /// The new process, with its end of the wire, and whether it was seen to be outside.
    Child(Wire, bool),
}

impl Birth<'_> {
    /// Clones; `ours` is the parent's end of the wire, `theirs` the child's.
    pub(crate) fn clone(&self, ours: &Wire, theirs: Wire) -> Result<Side, Errno> {
        let first = match self.through {
            // Not in the cgroup: a limit of one process is for the one that is meant.
            Some(_) => CloneArgs::default(),
            None => self.args,
        };
        let (cloned, outside) = clone_somewhere(self.proof, &first)?;
        if let Cloned::Parent(pid, pidfd) = cloned {
            return Ok(Side::Parent(Child {
                pid,
                pidfd,
                outside,
            }));
        }
        // The parent's end must not live on here: its closing is how the child learns of the parent's
        // death.
        ours.close_in_child();
        if let Some(joins) = self.through {
            intermediate::run(self.proof, joins, &self.args, self.hide, &theirs);
        }
        Ok(Side::Child(theirs, outside))
    }

    /// The process that is meant: what was cloned, or what that one cloned. `explain` words what an
    /// intermediate process could not do.
    pub(crate) fn adopt(
        &self,
        cloned: Child,
        wire: &Wire,
        explain: impl Fn(&Message) -> Error,
    ) -> Result<Child> {
        match self.through {
            None => Ok(cloned),
            Some(_) => parent::adopt(wire, &cloned.pidfd, explain),
        }
    }
}

/// Clones into the cgroup; or, before 5.7, behind a filter that hides clone3, or when the cgroup takes
/// no process or is not to be seen from here, outside of it: then the second part of the answer is
/// true, and the child is moved afterwards, or that says why not.
pub(super) fn clone_somewhere(
    proof: SingleThreaded,
    args: &CloneArgs<'_>,
) -> Result<(Cloned, bool), Errno> {
    match clone(proof, args) {
        Err(_) if args.cgroup.is_some() => {
            let args = CloneArgs {
                cgroup: None,
                ..*args
            };
            Ok((clone(proof, &args)?, true))
        }
        other => Ok((other?, false)),
    }
}

/// The name of the container's session keyring, unless its processes keep the caller's.
pub(crate) fn keyring(record: &Record) -> Result<Option<CString>> {
    (!record.no_new_keyring)
        .then(|| crate::plan::c_string(&format!("_ses.{}", record.id)))
        .transpose()
}
