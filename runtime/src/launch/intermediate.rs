//! The process between `rcrun` and the init, where one is needed
//! ([`crate::plan::Namespaces::needs_intermediate`]): it enters existing namespaces and clones the
//! init as its sibling, so that the init is rcrun's own child.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::sched::CloneFlags;
use rustix::process::DumpableBehavior;

use super::birth::clone_somewhere;
use super::child::Progress;
use super::steps::Step;
use super::wire::{Message, Tag, Wire};
use crate::rootfs::{Detail, During as _, Fail};
use crate::sys::process::{CloneArgs, Cloned, SingleThreaded, exit_now};

/// Index of a [`Tag::Init`] message: the init was not born in its cgroup.
pub(crate) const OUTSIDE: u32 = 1;

/// Returns only in the init. With `hide` that is undumpable from birth: processes of a namespace that
/// it enters see it from its first moment.
pub(crate) fn run(
    proof: SingleThreaded,
    joins: &[(u64, OwnedFd)],
    args: &CloneArgs<'_>,
    hide: bool,
    wire: &Wire,
) {
    let mut index = 0;
    let fail = |step, index, fail| -> ! {
        let wire = wire.as_fd().try_clone_to_owned();
        match wire {
            Ok(fd) => Progress {
                wire: Wire::from_fd(fd),
                index,
            }
            .fail(step, fail, b""),
            Err(_) => exit_now(1),
        }
    };
    if let Err(problem) = enter(joins, &mut index) {
        fail(Step::JoinNamespaces, index, problem);
    }
    // After the namespaces were entered, which may undo it.
    let hidden = match hide {
        true => rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable),
        false => Ok(()),
    };
    if let Err(errno) = hidden {
        fail(Step::JoinNamespaces, 0, errno.into());
    }
    let args = CloneArgs {
        flags: args.flags | libc::CLONE_PARENT as u64,
        ..*args
    };
    // Seen from a cgroup namespace that was entered, the cgroup may not exist.
    match clone_somewhere(proof, &args) {
        Ok((Cloned::Child, _)) => {}
        Ok((Cloned::Parent(pid, pidfd), outside)) => {
            let mut message = Message::new(Tag::Init);
            message.value = i64::from(pid);
            message.index = if outside { OUTSIDE } else { 0 };
            let _ = wire.send_with(&message, pidfd.as_fd());
            exit_now(0)
        }
        Err(errno) => fail(Step::Clone, 0, errno.into()),
    }
}

/// Namespaces that the caller may enter come first, the user namespace after them; those that only
/// the user namespace's root may enter at last.
fn enter(joins: &[(u64, OwnedFd)], index: &mut u32) -> Result<(), Fail> {
    let mut refused = 0u64;
    for (number, (flag, fd)) in joins.iter().enumerate() {
        *index = number as u32;
        match nix::sched::setns(fd, CloneFlags::from_bits_retain(*flag as libc::c_int)) {
            Err(nix::errno::Errno::EPERM) if *flag != libc::CLONE_NEWUSER as u64 => {
                refused |= 1 << number;
            }
            answer => answer.during(Detail::Call)?,
        }
    }
    for (number, (flag, fd)) in joins
        .iter()
        .enumerate()
        .filter(|(n, _)| refused & (1 << n) != 0)
    {
        *index = number as u32;
        nix::sched::setns(fd, CloneFlags::from_bits_retain(*flag as libc::c_int))?;
    }
    Ok(())
}
