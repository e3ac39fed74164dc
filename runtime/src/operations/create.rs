//! `create`, and the first half of `run`: from a bundle to an init that waits.
//!
//! [`decide`] decides, [`Launch::carry_out`] acts: [`confine`] makes the cgroup, [`spawn`] clones the
//! init, [`converse`] talks with it until it is ready. Every step registers what undoes it; after an
//! error, or the death of the init, nothing is left. A SIGKILL of rcrun itself leaves a record from
//! which `delete --force` finds everything: the record names the cgroup before that is made, and the
//! pid before the init gets anywhere.

mod confine;
mod converse;
pub(crate) mod decide;
mod spawn;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use oci_spec::runtime::Spec;

use super::hooks::Files;
use super::stop;
use crate::cgroup::Prepared;
use crate::container::{CreateOptions, Runtime};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::explain::{Subject, explain};
use crate::launch::wire::{Message, Tag, Wire};
use crate::launch::{parent, terminal};
use crate::plan::Plan;
use crate::seccomp::Filter;
use crate::state::{self, Directory, Record};
use crate::sys::process::SingleThreaded;

/// Who lets the program start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// `start`, some day.
    Later,
    /// This process, at once.
    Now,
}

/// What a process that stays with the container does for its streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attendant<'a> {
    /// They become the init's standard streams; `None`: it inherits this process's, or gets a terminal,
    /// whose master is then [`Created::console`]'s.
    pub streams: Option<[BorrowedFd<'a>; 3]>,
}

/// A container whose init is ready.
#[derive(Debug)]
pub(crate) struct Created {
    /// Its record, as written.
    pub record: Record,
    /// Its directory.
    pub directory: Directory,
    /// The init.
    pub pidfd: OwnedFd,
    /// Conversation with the init ([`Start::Now`]).
    pub wire: Wire,
    /// Receives the terminal's master, when it stays here.
    pub console: Option<OwnedFd>,
    /// For the hooks still to come.
    pub hooks: Option<Files>,
    /// The configuration.
    pub spec: Spec,
    /// What was decided.
    pub plan: Plan,
}

/// Everything that is decided or opened before the clone.
struct Launch<'a> {
    proof: SingleThreaded,
    options: &'a CreateOptions,
    start: Start,
    attendant: Option<Attendant<'a>>,
    spec: Spec,
    plan: Plan,
    filter: Option<Filter>,
    record: Record,
    directory: Directory,
    hooks: Option<Files>,
    proc: OwnedFd,
    /// Set once they exist, for the undoing.
    cgroup_made: bool,
    /// The init was not born in its cgroup.
    outside: bool,
    child: Option<OwnedFd>,
}

/// Makes a container.
pub(crate) fn create(
    runtime: &Runtime,
    id: &str,
    options: &CreateOptions,
    start: Start,
) -> Result<Created> {
    create_attended(runtime, id, options, start, None)
}

/// Makes a container for a process that will show its streams, whoever starts it.
pub(crate) fn create_attended(
    runtime: &Runtime,
    id: &str,
    options: &CreateOptions,
    start: Start,
    attendant: Option<Attendant<'_>>,
) -> Result<Created> {
    let mut launch = Launch::decide(runtime, id, options, start, attendant)?;
    match launch.carry_out() {
        Ok((wire, console)) => launch.finish(wire, console),
        Err(error) => {
            launch.undo();
            Err(error)
        }
    }
}

impl Launch<'_> {
    /// Makes the cgroup and the process, and sees it through to readiness.
    fn carry_out(&mut self) -> Result<(Wire, Option<OwnedFd>)> {
        let systemd = self.record.cgroup.unit.is_some();
        let prepared = if systemd {
            Prepared::default()
        } else {
            self.make_cgroup()?
        };
        let socket = self.options.console_socket.as_deref();
        let (console, console_here) = terminal::console_ends(self.plan.process.terminal, socket)?;
        let listener = match self.start {
            Start::Later => Some(self.listen()?),
            Start::Now => None,
        };
        let (wire, theirs) = Wire::pair().context(|| "cannot create a socket pair")?;
        let score = parent::lend_oom_score(&self.proc, &self.plan.process)?;
        let pid = self.clone_init(
            &prepared,
            &wire,
            theirs,
            console.as_ref(),
            listener.as_ref(),
        )?;
        drop((console, listener));
        parent::restore_oom_score(&self.proc, score)?;
        if systemd {
            self.start_unit(pid)?;
        }
        if self.outside {
            self.record.cgroup.attach(pid)?;
        }
        self.register(pid)?;
        if self.must_wait() {
            self.release(&wire, pid)?;
        }
        parent::set_oom_score(&self.proc, pid, &self.plan.process)?;
        self.equip(pid)?;
        self.converse(&wire, pid)?;
        Ok((wire, console_here))
    }

    /// From here on the record tells whom to kill, should this process be killed.
    fn register(&mut self, pid: i32) -> Result<()> {
        self.record.pid = pid;
        self.record.start_time = state::facts(pid).map_or(0, |facts| facts.start_time);
        if let Some(owner) = self.cgroup_owner() {
            self.record.cgroup.delegate(owner)?;
        }
        self.directory.write_record(&self.record)?;
        tracing::debug!("nsexec container setup: init has pid {pid}");
        tracing::debug!("child process in init()");
        Ok(())
    }

    fn release(&self, wire: &Wire, pid: i32) -> Result<()> {
        if let Some(maps) = &self.plan.namespaces.maps {
            parent::write_maps(&self.proc, pid, maps)?;
        }
        wire.send(&Message::new(Tag::Go))
            .context(|| "cannot release the container's init")
    }

    /// Whether the child waits for the parent before it does anything.
    fn must_wait(&self) -> bool {
        // Behind an intermediate process the init shares its end of the wire: it keeps silent until
        // its pid is known.
        self.outside
            || self.plan.namespaces.maps.is_some()
            || self.plan.namespaces.needs_intermediate()
            || self.record.cgroup.unit.is_some()
    }

    fn pidfd(&self) -> Result<BorrowedFd<'_>> {
        let missing = || Error::new(ErrorKind::Internal, "there is no init");
        self.child.as_ref().map(|fd| fd.as_fd()).ok_or_else(missing)
    }

    fn explain(&self, message: &Message) -> Error {
        let printed = self.hooks.as_ref().map(Files::printed);
        explain(
            message,
            &Subject {
                plan: Some(&self.plan),
                process: &self.plan.process,
                hook_output: printed
                    .as_ref()
                    .map(|(out, err)| (out.as_str(), err.as_str())),
            },
        )
    }

    fn finish(self, wire: Wire, console: Option<OwnedFd>) -> Result<Created> {
        let pidfd = self
            .child
            .ok_or_else(|| Error::new(ErrorKind::Internal, "there is no init"))?;
        Ok(Created {
            record: self.record,
            directory: self.directory,
            pidfd,
            wire,
            console,
            hooks: self.hooks,
            spec: self.spec,
            plan: self.plan,
        })
    }

    /// Leaves nothing behind. Errors in here change nothing any more: the first one is reported.
    fn undo(&self) {
        let cloned = self.child.is_some();
        if let Some(child) = &self.child {
            let _ = crate::sys::process::pidfd_signal(child.as_fd(), libc::SIGKILL);
            let _ = parent::reap(child.as_fd());
        }
        if let Some(group) = &self.record.rdt {
            let _ = group.destroy();
        }
        if self.cgroup_made {
            let _ = self.record.cgroup.kill(rustix::process::Signal::KILL);
            let _ = self.record.cgroup.remove();
        }
        if let Some(path) = self.options.pid_file.as_ref().filter(|_| cloned) {
            let _ = std::fs::remove_file(path);
        }
        if cloned {
            stop::poststop(&self.directory, &self.record);
        }
        let _ = self.directory.remove();
    }
}
