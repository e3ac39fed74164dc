//! The process of `exec`, from `clone3` to `execve`, beside the conditions that its program shares with the init's.

use std::os::fd::OwnedFd;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::child::{Progress, Setup};
use super::steps::Step;
use super::wire::{Message, Tag, Wire};
use super::{conditions, identity, program};
use crate::plan::Process;
use crate::rootfs::{Detail, During as _, Fail, Root};
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
    (Step::Session, |_| conditions::session()),
    (Step::Keyring, |exec| {
        let label = exec.process.selinux.as_deref();
        exec.setup.common.join_keyring(label)
    }),
    (Step::Console, |exec| exec.console()),
    (Step::Personality, |exec| {
        conditions::personality(exec.process, &mut exec.progress)
    }),
    (Step::Scheduling, |exec| {
        conditions::scheduling(exec.process)
    }),
    (Step::Labels, |exec| {
        conditions::labels(&exec.setup.common, exec.process)
    }),
    (Step::NoNewPrivileges, |exec| {
        conditions::no_new_privileges(exec.process)
    }),
    (Step::ChangeDirectory, |exec| {
        conditions::change_directory(exec.process, false)
    }),
    (Step::Limits, |exec| {
        conditions::raise_limits(exec.process, &exec.progress.wire)
    }),
    (Step::Identity, |exec| {
        conditions::identity(&exec.setup.common, exec.process)
    }),
    (Step::ChangeDirectory, |exec| {
        conditions::change_directory(exec.process, true)
    }),
    (Step::FindProgram, |exec| exec.find_program()),
    (Step::Wait, |exec| exec.await_start()),
    (Step::Limits, |exec| conditions::lower_limits(exec.process)),
    (Step::Seccomp, |exec| {
        let (setup, wire) = (&exec.setup.common, &exec.progress.wire);
        conditions::seccomp(setup, exec.process, wire, false)
    }),
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

    fn console(&mut self) -> Result<(), Fail> {
        let user = CloneFlags::CLONE_NEWUSER.bits() as u64;
        let entered = self.setup.adopted || self.setup.namespaces & user != 0;
        if entered && self.process.terminal {
            identity::become_known()?;
            self.setup.common.hide()?;
        }
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        conditions::open_terminal(&self.setup.common, self.process, root, false)
    }

    fn find_program(&mut self) -> Result<(), Fail> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        program::set_home(self.process, root)?;
        if let Some(program) = &self.process.program {
            self.program = program::find(program)?;
        }
        Ok(())
    }

    fn await_start(&mut self) -> Result<(), Fail> {
        self.setup.common.close_descriptors()?;
        self.progress.wire.send(&Message::new(Tag::Ready))?;
        Ok(self.progress.wire.wait_go()?)
    }

    fn execute(&mut self) -> Result<(), Fail> {
        let (number, missing) = (self.program, &mut self.missing);
        Err(program::execute(number, self.process, missing))
    }
}
