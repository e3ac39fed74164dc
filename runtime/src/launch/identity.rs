//! User, groups and capability sets of the program (capabilities(7), credentials(7)).

use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::plan::Process;
use crate::plan::capabilities::Capabilities;
use crate::rootfs::{Detail, During as _, Fail};
use crate::sys::process as sys;

/// Kept until the seccomp filter is loaded, where no_new_privs does not allow loading without it.
const SYS_ADMIN: u64 = 1 << 21;

/// Becomes uid 0 of a user namespace whose maps were just written, without groups of the caller
/// unless the program is to `keep_groups`.
pub(crate) fn become_root(keep_groups: bool) -> Result<(), Fail> {
    let cleared = if keep_groups {
        Ok(())
    } else {
        rustix::thread::set_thread_groups(&[])
    };
    match cleared {
        // setgroups is denied where an ordinary user wrote the map.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => {
            return Err(Fail {
                errno,
                detail: Detail::Owner,
            });
        }
    }
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}

/// Becomes uid 0 of a user namespace that was entered: what is made there by an id that it does not know
/// is nobody's, and cannot be given to anybody. It may have no such id.
pub(crate) fn become_known() -> Result<(), Fail> {
    let group = rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT);
    let user = rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT);
    match group.and(user) {
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).during(Detail::Owner),
    }
}

/// Groups, group, user and umask of the program, keeping the permitted capabilities.
pub(crate) fn assume(process: &Process) -> Result<(), Fail> {
    if let Some(groups) = &process.groups {
        match rustix::thread::set_thread_groups(groups) {
            Err(Errno::PERM) if groups.is_empty() => {}
            answer => answer.during(Detail::Owner)?,
        }
    }
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).during(Detail::Owner)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).during(Detail::Owner)?;
    rustix::thread::set_keep_capabilities(false)?;
    Ok(())
}

/// Drops what the bounding set must not have. Needs CAP_SETPCAP, so it comes before [`assume`].
pub(crate) fn limit(sets: &Capabilities) -> Result<(), Fail> {
    for capability in 0..64 {
        if sets.bounding & (1 << capability) != 0 {
            continue;
        }
        match sys::drop_bounding(capability) {
            // Beyond the last capability this kernel knows.
            Err(Errno::INVAL) => break,
            answer => answer?,
        }
    }
    Ok(())
}

/// Sets the capability sets; `loading` keeps CAP_SYS_ADMIN until [`settle`].
pub(crate) fn restrict(sets: &Capabilities, loading: bool) -> Result<(), Fail> {
    let extra = if loading { SYS_ADMIN } else { 0 };
    sys::set_capabilities(
        sets.effective | extra,
        sets.permitted | extra,
        sets.inheritable,
    )?;
    Ok(())
}

/// Gives up what [`restrict`] kept, and raises the ambient set.
pub(crate) fn settle(sets: &Capabilities, loaded: bool) -> Result<(), Fail> {
    if loaded {
        sys::set_capabilities(sets.effective, sets.permitted, sets.inheritable)?;
    }
    for capability in (0..64).filter(|c| sets.ambient & (1 << c) != 0) {
        sys::raise_ambient(capability)?;
    }
    Ok(())
}
