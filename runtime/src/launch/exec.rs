//! The process of `exec`, from `clone3` to `execve`, and the steps it shares with the init.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::child::{Progress, Setup};
use super::init::load_filter;
use super::steps::Step;
use super::wire::{Message, Tag, Wire};
use super::{identity, program};
use crate::plan::Process;
use crate::rootfs::{Detail, During as _, Fail, Root, Text, console};
use crate::sys::process as sys;

/// What only `exec` needs.
#[derive(Debug)]
pub(crate) struct ExecSetup<'a> {
    /// The part shared with the init.
    pub common: Setup<'a>,
    /// The container's init.
    pub init: &'a OwnedFd,
    /// Its namespaces, where it may not be traced and gave them away ([`super::entry`]).
    pub doors: &'a [(u64, OwnedFd)],
    /// `CLONE_NEW*` of the namespaces to enter; the pid namespace was entered by the parent, or by an
    /// intermediate process.
    pub namespaces: u64,
    /// Cloned by an intermediate process, whose end of the wire it shares: it keeps silent until its
    /// pid is known.
    pub adopted: bool,
}

/// The process of `exec` on its way.
#[derive(Debug)]
struct Exec<'a> {
    process: &'a mut Process,
    setup: ExecSetup<'a>,
    progress: Progress,
    root: Option<Root>,
    program: usize,
    missing: [u8; 256],
}

type Action = fn(&mut Exec<'_>) -> Result<(), Fail>;

const STEPS: &[(Step, Action)] = &[
    (Step::Scheduling, |exec| exec.initial_affinity()),
    (Step::JoinCgroup, |exec| exec.join_cgroups()),
    (Step::JoinNamespaces, |exec| exec.join_namespaces()),
    (Step::Session, |exec| exec.session()),
    (Step::Keyring, |exec| {
        let label = exec.process.selinux.as_deref();
        exec.setup.common.join_keyring(label)
    }),
    (Step::Console, |exec| exec.console()),
    (Step::Personality, |exec| {
        personality(exec.process, &mut exec.progress)
    }),
    (Step::Scheduling, |exec| scheduling(exec.process)),
    (Step::Labels, |exec| {
        labels(&exec.setup.common, exec.process)
    }),
    (Step::NoNewPrivileges, |exec| {
        no_new_privileges(exec.process)
    }),
    (Step::ChangeDirectory, |exec| {
        change_directory(exec.process, false)
    }),
    (Step::Limits, |exec| {
        raise_limits(exec.process, &exec.progress.wire)
    }),
    (Step::Identity, |exec| exec.identity()),
    (Step::ChangeDirectory, |exec| {
        change_directory(exec.process, true)
    }),
    (Step::FindProgram, |exec| exec.find_program()),
    (Step::Wait, |exec| exec.await_start()),
    (Step::Limits, |exec| lower_limits(exec.process)),
    (Step::Seccomp, |exec| exec.seccomp()),
    (Step::Exec, |exec| exec.execute()),
];

/// Enters the container and becomes the program.
pub(crate) fn run(process: &mut Process, setup: ExecSetup<'_>, wire: Wire) -> ! {
    crate::sys::alloc_guard::forbid();
    let progress = Progress { wire, index: 0 };
    let mut exec = Exec {
        process,
        setup,
        progress,
        root: None,
        program: 0,
        missing: [0; 256],
    };
    for (step, action) in STEPS {
        if let Err(fail) = action(&mut exec) {
            exec.progress.fail(*step, fail, &exec.missing);
        }
    }
    sys::exit_now(1)
}

impl Exec<'_> {
    fn initial_affinity(&mut self) -> Result<(), Fail> {
        // The container's processes see this one already.
        self.setup.common.hide()?;
        if self.setup.adopted {
            self.progress.wire.wait_go()?;
        }
        match &self.process.affinity_initial {
            Some(cpus) => Ok(crate::sys::sched::set_affinity(0, cpus)?),
            None => Ok(()),
        }
    }

    fn join_cgroups(&mut self) -> Result<(), Fail> {
        self.setup.common.join_cgroups()?;
        if self.process.affinity_initial.is_none() {
            Setup::reset_affinity();
        }
        Ok(())
    }

    fn join_namespaces(&mut self) -> Result<(), Fail> {
        let flags = CloneFlags::from_bits_retain(self.setup.namespaces as libc::c_int);
        if self.setup.doors.is_empty() && !flags.is_empty() {
            nix::sched::setns(self.setup.init, flags)?;
        }
        for (kind, door) in self.setup.doors {
            if self.setup.namespaces & kind != 0 {
                let kind = CloneFlags::from_bits_retain(*kind as libc::c_int);
                nix::sched::setns(door, kind)?;
            }
        }
        // Entering a user namespace makes the process dumpable by its root again.
        self.setup.common.hide()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(c"/", flags, Mode::empty()).during(Detail::Open)?;
        self.root = Some(Root::new(root));
        Ok(())
    }

    fn session(&mut self) -> Result<(), Fail> {
        match rustix::process::setsid() {
            Ok(_) | Err(Errno::PERM) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn console(&mut self) -> Result<(), Fail> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        open_terminal(&self.setup.common, self.process, root, false)
    }

    fn keeps_admin(&self) -> bool {
        self.setup.common.seccomp.is_some() && !self.process.no_new_privs
    }

    fn identity(&mut self) -> Result<(), Fail> {
        if !self.process.terminal {
            console::own_streams(self.process.uid)?;
        }
        identity::limit(&self.process.capabilities)?;
        identity::assume(self.process)?;
        identity::restrict(&self.process.capabilities, self.keeps_admin())
    }

    fn find_program(&mut self) -> Result<(), Fail> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        program::set_home(self.process, root)?;
        self.program = program::find(self.process)?;
        Ok(())
    }

    fn await_start(&mut self) -> Result<(), Fail> {
        self.setup.common.close_descriptors()?;
        self.progress.wire.send(&Message::new(Tag::Ready))?;
        Ok(self.progress.wire.wait_go()?)
    }

    fn seccomp(&mut self) -> Result<(), Fail> {
        sys::restore_signals();
        if let Some(filter) = self.setup.common.seccomp {
            load_filter(filter, &self.progress.wire)?;
        }
        identity::settle(&self.process.capabilities, self.keeps_admin())
    }

    fn execute(&mut self) -> Result<(), Fail> {
        let fail = program::execute(self.program, self.process, &mut self.missing);
        program::complain(self.process, fail);
        Err(fail)
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
