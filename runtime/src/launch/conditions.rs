//! The conditions under which the program runs, the same for the init's and for that of `exec`: its
//! terminal, scheduling, labels, limits, identity, filter.

use std::os::fd::{AsFd as _, AsRawFd as _};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::child::{Progress, Setup};
use super::identity;
use super::wire::{Message, Tag, Wire};
use crate::plan::Process;
use crate::rootfs::{Detail, During as _, Fail, Root, Text, console};
use crate::sys::process as sys;

/// A session of its own.
pub(crate) fn session() -> Result<(), Fail> {
    match rustix::process::setsid() {
        // Already the leader of a session: the first process of a pid namespace never is.
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the terminal and makes it the standard streams; `bind` puts it at /dev/console.
pub(crate) fn open_terminal(
    setup: &Setup<'_>,
    process: &Process,
    root: &Root,
    bind: bool,
) -> Result<(), Fail> {
    let Some(socket) = setup.console.filter(|_| process.terminal) else {
        return Ok(());
    };
    let (master, slave) =
        console::open(root, process.console_size, process.uid, setup.raw_console)?;
    console::send(socket, c"/dev/ptmx", master.as_fd()).during(Detail::Write)?;
    if bind {
        console::bind_console(root, slave.as_fd())?;
    }
    for stream in 0..=2 {
        sys::dup_onto(slave.as_fd(), stream)?;
    }
    Ok(sys::take_controlling_terminal()?)
}

/// Execution domain and memory policy.
pub(crate) fn personality(process: &Process, progress: &mut Progress) -> Result<(), Fail> {
    if let Some(domain) = process.personality {
        crate::sys::sched::set_personality(domain)?;
    }
    progress.index = 1;
    if let Some((mode, nodes)) = &process.memory_policy {
        crate::sys::sched::set_memory_policy(*mode, nodes)?;
    }
    progress.index = 0;
    Ok(())
}

/// Scheduling class, input/output priority and processors.
pub(crate) fn scheduling(process: &Process) -> Result<(), Fail> {
    if let Some(attr) = &process.scheduler {
        crate::sys::sched::set_scheduler(attr)?;
    }
    if let Some((class, level)) = process.io_priority {
        crate::sys::sched::set_io_priority(class, level).during(Detail::Write)?;
    }
    if let Some(cpus) = &process.affinity_final {
        crate::sys::sched::set_affinity(0, cpus).during(Detail::Attributes)?;
    }
    Ok(())
}

/// Raises the limits that are above the hard ones in force, while this process may, or has its parent
/// do it.
pub(crate) fn raise_limits(process: &Process, wire: &Wire) -> Result<(), Fail> {
    for (index, (resource, soft, hard)) in process.rlimits.iter().enumerate() {
        if *hard <= crate::sys::sched::hard_limit(*resource)? {
            continue;
        }
        match crate::sys::sched::set_rlimit(0, *resource, *soft, *hard) {
            Err(Errno::PERM) => {
                let mut message = Message::new(Tag::Limit);
                message.index = index as u32;
                wire.send(&message)?;
                wire.wait_go()?;
            }
            answer => answer?,
        }
    }
    Ok(())
}

/// Sets the limits for good. Last, since low ones would hinder what comes before.
pub(crate) fn lower_limits(process: &Process) -> Result<(), Fail> {
    for (resource, soft, hard) in &process.rlimits {
        crate::sys::sched::set_rlimit(0, *resource, *soft, *hard)?;
    }
    Ok(())
}

/// AppArmor profile and SELinux label of the program, in force from its `execve`.
pub(crate) fn labels(setup: &Setup<'_>, process: &Process) -> Result<(), Fail> {
    if let Some(profile) = &process.apparmor {
        let mut command = Text::<1024>::new();
        command.push(b"exec ")?.push(profile.to_bytes())?;
        // The module's own file exists since 5.8; before, the one all modules share.
        let own = c"thread-self/attr/apparmor/exec";
        match setup.write_proc(own, command.as_bytes()) {
            Err(Fail {
                errno: Errno::NOENT,
                ..
            }) => {
                setup.write_proc(c"thread-self/attr/exec", command.as_bytes())?;
            }
            answer => answer?,
        }
    }
    match &process.selinux {
        Some(label) => setup.write_proc(c"thread-self/attr/exec", label.to_bytes()),
        None => Ok(()),
    }
}

/// The program's umask; and set-user-ID programs and file capabilities give nothing from here on.
pub(crate) fn no_new_privileges(process: &Process) -> Result<(), Fail> {
    // Here since from the next step on a filter may be in force.
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    if process.no_new_privs {
        rustix::thread::set_no_new_privs(true)?;
    }
    Ok(())
}

/// Enters the working directory, as root and once more as the user (`again`): either may be the
/// only one that can. It has to lie inside the container: a descriptor that leaked from the host
/// would otherwise serve as a way out (CVE-2024-21626).
pub(crate) fn change_directory(process: &Process, again: bool) -> Result<(), Fail> {
    match rustix::process::chdir(process.cwd.as_c_str()) {
        Err(Errno::ACCESS | Errno::PERM) if !again => return Ok(()),
        // As root it could be entered: that counts.
        Err(Errno::ACCESS | Errno::PERM) => {}
        answer => answer?,
    }
    let mut path = [0u8; 4096];
    match crate::sys::process::current_directory(&mut path) {
        Ok(length) if path[..length].first() == Some(&b'/') => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(Fail {
            errno: Errno::NOENT,
            detail: Detail::Outside,
        }),
        Err(errno) => Err(Fail {
            errno,
            detail: Detail::Outside,
        }),
    }
}

/// User, groups and capabilities, but for one: the filter is loaded after the capabilities were given
/// up, and without `CAP_SYS_ADMIN` it could not be, unless no_new_privs is set.
pub(crate) fn identity(setup: &Setup<'_>, process: &Process) -> Result<(), Fail> {
    if !process.terminal {
        console::own_streams(process.uid, process.gid)?;
    }
    identity::limit(&process.capabilities)?;
    identity::assume(process)?;
    identity::restrict(&process.capabilities, keeps_admin(setup, process))
}

fn keeps_admin(setup: &Setup<'_>, process: &Process) -> bool {
    setup.seccomp.is_some() && !process.no_new_privs
}

/// Loads the filter, if it is not loaded already. After it only what gives up privileges, and execve.
pub(crate) fn seccomp(
    setup: &Setup<'_>,
    process: &Process,
    wire: &Wire,
    loaded: bool,
) -> Result<(), Fail> {
    sys::restore_signals();
    if let Some(filter) = setup.seccomp.filter(|_| !loaded) {
        load_filter(filter, wire)?;
    }
    identity::settle(&process.capabilities, keeps_admin(setup, process))
}

/// Loads a filter; a listener stays open until the parent took it over.
pub(crate) fn load_filter(filter: &crate::seccomp::Filter, wire: &Wire) -> Result<(), Fail> {
    let listener = crate::sys::seccomp::load(&filter.program, filter.flags)?;
    let Some(listener) = listener else {
        return Ok(());
    };
    let mut message = Message::new(Tag::Listener);
    message.value = i64::from(listener.as_raw_fd());
    wire.send(&message)?;
    Ok(wire.wait_go()?)
}
