//! Being the owner of mapped directories while they are mounted.
//!
//! What overlayfs does below its own name (work directories, copies, deletions) it does with the
//! credentials of who mounted it. Through a mount that maps ids, the host's root is nobody and cannot
//! own a file (EOVERFLOW): the kernel then mounts read-only without a word. So the mount is made with
//! the file system ids (setfsuid(2)) of what the disk calls 0, and all capabilities as before.
//!
//! These ids are the thread's own, whatever other threads do. Changing them makes the process
//! undumpable and forgets its death signal; both are put back.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::Stat;
use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use crate::{Context, Error, Result};

/// What nobody's files look like (/proc/sys/fs/overflowuid, which nobody changes).
pub(super) const NOBODY: u32 = 65534;

/// While it exists, this thread makes files as somebody else.
#[derive(Debug)]
pub(super) struct Owner {
    uid: Uid,
    gid: Gid,
    capabilities: CapabilitySets,
    dumpable: DumpableBehavior,
    death: Option<Signal>,
}

impl Owner {
    /// Becomes the owner of a directory that this program made, seen through its mapped mount.
    pub(super) fn of(directory: &Stat) -> Result<Self> {
        if directory.st_uid == NOBODY || directory.st_gid == NOBODY {
            return Err(Error::unsupported(
                "ids cannot be mapped without user 0 and group 0",
            ));
        }
        let context = || "cannot tell the credentials of this thread";
        let capabilities = capabilities(None).context(context)?;
        let dumpable = rustix::process::dumpable_behavior().context(context)?;
        let death = rustix::process::parent_process_death_signal().context(context)?;
        let gid = setfsgid(Gid::from_raw(directory.st_gid));
        let uid = setfsuid(Uid::from_raw(directory.st_uid));
        let owner = Self {
            uid,
            gid,
            capabilities,
            dumpable,
            death,
        };
        // Another user's ids take those capabilities away that concern files.
        set_capabilities(None, capabilities).context(|| "cannot keep capabilities")?;
        // The calls tell no error, but what was before.
        let now = setfsuid(Uid::from_raw(directory.st_uid));
        match now.as_raw() == directory.st_uid {
            true => Ok(owner),
            false => Err(Error::from(rustix::io::Errno::PERM))
                .context(|| format!("cannot make files as user {}", directory.st_uid)),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
        // Who could take them away can put them back; and one that was undumpable is so now.
        let _ = set_capabilities(None, self.capabilities);
        let _ = rustix::process::set_dumpable_behavior(self.dumpable);
        if self.death.is_some() {
            let _ = rustix::process::set_parent_process_death_signal(self.death);
        }
    }
}
