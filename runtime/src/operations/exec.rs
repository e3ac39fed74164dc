//! `exec`: an additional process in a container.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::sched::CloneFlags;
use oci_spec::runtime as oci;

use super::caller::{listen_fds, preserved, prove_single_threaded};
use super::create::decide::drop_missing_profile;
use super::foreground::{attend, open_terminal, stay};
use super::handover::{check_terminal, send_listener, send_pidfd, write_pid_file};
use super::query::{init_of, load};
use crate::cgroup::Prepared;
use crate::container::{ExecOptions, Runtime};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::birth::{Birth, Child, Side};
use crate::launch::child::Setup;
use crate::launch::exec::{self, ExecSetup};
use crate::launch::explain::{Subject, explain};
use crate::launch::wire::{Message, Tag, Wire};
use crate::launch::{birth, entry, parent, terminal};
use crate::plan::{Process, annotations};
use crate::seccomp::{self, Filter};
use crate::spec::validate;
use crate::state::{Directory, Record};
use crate::sys::process::{CloneArgs, SingleThreaded, pidfd_signal};

const PID_NAMESPACE: u64 = libc::CLONE_NEWPID as u64;
const USER_NAMESPACE: u64 = libc::CLONE_NEWUSER as u64;

/// A process to be run in a container.
struct Job<'a> {
    proof: SingleThreaded,
    options: &'a ExecOptions,
    record: Record,
    init: OwnedFd,
    /// Namespaces that the init gave away: one that waits and that this process may not trace.
    doors: Vec<(u64, OwnedFd)>,
    process: Process,
    filter: Option<Filter>,
    proc: OwnedFd,
}

/// Runs a process; returns its exit code, or 0 when detached.
pub(crate) fn exec(runtime: &Runtime, id: &str, options: &ExecOptions) -> Result<i32> {
    let mut job = Job::decide(runtime, id, options)?;
    let signals = stay(options.detach, options.no_subreaper)?;
    let prepared = job
        .record
        .cgroup
        .exec_target(&options.cgroup, job.record.pid)?;
    let socket = options.console_socket.as_deref();
    let (console, console_here) = terminal::console_ends(job.process.terminal, socket)?;
    let (wire, theirs) = Wire::pair().context(|| "cannot create a socket pair")?;
    let score = parent::lend_oom_score(&job.proc, &job.process)?;
    let (pid, pidfd) = job.clone_process(&prepared, &wire, theirs, console.as_ref())?;
    drop((console, prepared));
    let restored = parent::restore_oom_score(&job.proc, score);
    match restored.and_then(|()| job.release(&wire, pid, &pidfd)) {
        Ok(()) => {}
        Err(error) => {
            if let Some(socket) = &console_here
                && let Ok(mut terminal) = open_terminal(socket)
            {
                // What the process said of its failure.
                terminal.drain();
            }
            let _ = pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = parent::reap(pidfd.as_fd());
            return Err(error);
        }
    }
    let Some(signals) = signals else { return Ok(0) };
    let mut terminal = match &console_here {
        Some(socket) => Some(open_terminal(socket)?),
        None => None,
    };
    if let Some(terminal) = &mut terminal {
        terminal.leave_with(&options.detach_keys);
    }
    attend(pid, &pidfd, &signals, terminal.as_mut(), None)
}

impl<'a> Job<'a> {
    fn decide(runtime: &Runtime, id: &str, options: &'a ExecOptions) -> Result<Self> {
        let proof = prove_single_threaded()?;
        let directory = Directory::open(&runtime.root, id)?;
        let record = load(&directory)?;
        let init = init_of(&record)?.ok_or_else(|| {
            Error::new(
                ErrorKind::FailedPrecondition,
                "cannot exec in a stopped container",
            )
        })?;
        if !options.ignore_paused && record.cgroup.is_frozen()? {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        let doors = match entry::may_trace() {
            true => Vec::new(),
            false => entry::ask(&directory),
        };
        let spec = crate::spec::load::spec(&directory.read_config()?)?.spec;
        let description = describe(&spec, options)?;
        let selinux = description.selinux_label().is_some() && validate::selinux_enabled();
        validate::process(&description, selinux)?;
        let linux = spec.linux().clone().unwrap_or_default();
        let mut process = Process::plan(&description, &linux, listen_fds())?;
        // What is asked for by a flag is had.
        if options.additional_gids.is_empty()
            && annotations::keeps_groups(|name| record.annotations.get(name).map(String::as_str))?
        {
            process.groups = None;
        }
        for name in &options.caps {
            process.capabilities.add(name)?;
        }
        let socket = options.console_socket.as_deref();
        let leaves_it = options.detach || (options.attend && socket.is_some());
        check_terminal(process.terminal, socket, leaves_it)?;
        drop_missing_profile(&mut process);
        if options.console_socket.is_none() {
            process.console_size = process.console_size.or_else(terminal::callers_size);
        }
        let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
        let filter = match seccomp {
            Some(seccomp) => seccomp::compile(seccomp)?,
            None => None,
        };
        Ok(Self {
            proof,
            options,
            record,
            init,
            doors,
            process,
            filter,
            proc: parent::open_proc()?,
        })
    }

    fn clone_process(
        &mut self,
        prepared: &Prepared,
        wire: &Wire,
        theirs: Wire,
        console: Option<&OwnedFd>,
    ) -> Result<(i32, OwnedFd)> {
        let mut namespaces = self.record.namespaces;
        if namespaces & USER_NAMESPACE != 0 && self.same_user_namespace()? {
            namespaces &= !USER_NAMESPACE;
        }
        let keyring = birth::keyring(&self.record)?;
        let preserved = preserved(self.options.preserve_fds)?;
        let joins = self.enter_pid_namespace(namespaces)?;
        let birth = Birth {
            proof: self.proof,
            args: CloneArgs {
                flags: 0,
                cgroup: prepared.unified.as_ref().map(|fd| fd.as_fd()),
            },
            through: joins.as_deref(),
            hide: true,
        };
        let cloned = birth.clone(wire, theirs);
        let theirs = match cloned.context(|| "cannot create the process")? {
            Side::Child(theirs, _) => theirs,
            Side::Parent(cloned) => {
                let child = birth.adopt(cloned, wire, |said| self.explain(said))?;
                return self.place(child, prepared, wire, joins.is_some());
            }
        };
        let setup = ExecSetup {
            common: Setup {
                proof: self.proof,
                proc: self.proc.as_fd(),
                tasks: &prepared.tasks,
                console: console.map(|fd| fd.as_fd()),
                raw_console: self.options.console_socket.is_none(),
                preserved: &preserved,
                keyring: keyring.as_deref(),
                seccomp: self.filter.as_ref(),
            },
            init: &self.init,
            doors: &self.doors,
            namespaces: match &joins {
                Some(_) => namespaces & !(PID_NAMESPACE | USER_NAMESPACE),
                None => namespaces & !PID_NAMESPACE,
            },
            adopted: joins.is_some(),
        };
        exec::run(&mut self.process, setup, theirs)
    }

    /// Moves the new process into its cgroup, if it was not born there, and lets it go on, if it waits
    /// for that.
    fn place(
        &self,
        child: Child,
        prepared: &Prepared,
        wire: &Wire,
        waits: bool,
    ) -> Result<(i32, OwnedFd)> {
        let Child { pid, pidfd, .. } = child;
        if child.outside
            && let Err(error) = self.record.cgroup.attach_unified(prepared, pid)
        {
            let _ = pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = parent::reap(pidfd.as_fd());
            return Err(error);
        }
        if waits {
            wire.send(&Message::new(Tag::Go))
                .context(|| "cannot release the process")?;
        }
        Ok((pid, pidfd))
    }

    /// A process cannot change its own pid namespace, only that of its children, and this process has
    /// no more children than the one that is made now. Without the right to enter, which only the root
    /// of the container's user namespace may have, another process is to enter both.
    fn enter_pid_namespace(&self, namespaces: u64) -> Result<Option<Vec<(u64, OwnedFd)>>> {
        if namespaces & PID_NAMESPACE == 0 {
            return Ok(None);
        }
        let both = PID_NAMESPACE | USER_NAMESPACE;
        let door = self.door(PID_NAMESPACE).unwrap_or(&self.init);
        match nix::sched::setns(door, CloneFlags::CLONE_NEWPID) {
            Ok(()) => Ok(None),
            Err(nix::errno::Errno::EPERM) if namespaces & USER_NAMESPACE != 0 => {
                let copy = |(kind, door): &(u64, OwnedFd)| Ok((*kind, door.try_clone()?));
                let doors = self.doors.iter().filter(|(kind, _)| both & kind != 0);
                let doors: Vec<_> = doors.map(copy).collect::<Result<_>>()?;
                if doors.is_empty() {
                    return Ok(Some(vec![(both, self.init.try_clone()?)]));
                }
                Ok(Some(doors))
            }
            Err(errno) => Err(errno).context(|| "cannot enter the container's pid namespace"),
        }
    }

    fn door(&self, wanted: u64) -> Option<&OwnedFd> {
        let door = self.doors.iter().find(|(kind, _)| *kind == wanted);
        door.map(|(_, door)| door)
    }

    fn same_user_namespace(&self) -> Result<bool> {
        let stat = |path: String| rustix::fs::stat(&path).context(|| format!("cannot stat {path}"));
        let own = stat("/proc/self/ns/user".to_owned())?;
        let init = match self.door(USER_NAMESPACE) {
            Some(door) => rustix::fs::fstat(door)?,
            None => stat(format!("/proc/{}/ns/user", self.record.pid))?,
        };
        Ok((own.st_dev, own.st_ino) == (init.st_dev, init.st_ino))
    }

    /// Sees the process through to its `execve`.
    fn release(&self, wire: &Wire, pid: i32, pidfd: &OwnedFd) -> Result<()> {
        tracing::debug!("nsexec container setup: process has pid {pid}");
        tracing::debug!("child process in init()");
        if let Some(mask) = &self.process.affinity_initial {
            tracing::debug!(
                "nsexec[{pid}]: affinity: {:#x}",
                mask.first().copied().unwrap_or(0)
            );
        }
        parent::set_oom_score(&self.proc, pid, &self.process)?;
        if let Some(group) = &self.record.rdt {
            crate::rdt::Resctrl::find()?.add(group, pid.unsigned_abs())?;
        }
        let mut released = false;
        loop {
            let received = wire.receive().context(|| "cannot hear from the process")?;
            // The other end closes when the program is executed; before it was released, because the
            // process died.
            let Some((message, _)) = received else {
                return if released {
                    Ok(())
                } else {
                    Err(parent::vanished(pidfd.as_fd(), false))
                };
            };
            match message.tag {
                Tag::Limit => {
                    parent::raise_limit(pid, &self.process, message.index as usize)?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the process")?;
                }
                Tag::Ready => {
                    self.settle(wire, pid, pidfd)?;
                    released = true;
                }
                Tag::Listener => {
                    send_listener(
                        pidfd.as_fd(),
                        &message,
                        self.filter.as_ref(),
                        &self.record,
                        oci::ContainerState::Running,
                    )?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the process")?;
                }
                Tag::Failed => return Err(self.explain(&message)),
                _ => return Err(Error::new(ErrorKind::Internal, "unexpected message")),
            }
        }
    }

    fn explain(&self, message: &Message) -> Error {
        let subject = Subject {
            plan: None,
            process: &self.process,
            hook_output: None,
        };
        explain(message, &subject)
    }

    fn settle(&self, wire: &Wire, pid: i32, pidfd: &OwnedFd) -> Result<()> {
        tracing::debug!("setns_init: about to exec");
        if let Some(path) = &self.options.pidfd_socket {
            send_pidfd(path, pidfd.as_fd())?;
        }
        if let Some(path) = &self.options.pid_file {
            write_pid_file(path, pid)?;
        }
        wire.send(&Message::new(Tag::Go))
            .context(|| "cannot release the process")
    }
}

/// What a process description leaves open is as for the container's own program.
fn complete(mut process: oci::Process, spec: &oci::Spec) -> oci::Process {
    let Some(own) = spec.process() else {
        return process;
    };
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process
        .apparmor_profile()
        .as_ref()
        .is_none_or(String::is_empty)
    {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process
        .selinux_label()
        .as_ref()
        .is_none_or(String::is_empty)
    {
        process.set_selinux_label(own.selinux_label().clone());
    }
    process
}

/// The container's own process description with what the options change.
fn describe(spec: &oci::Spec, options: &ExecOptions) -> Result<oci::Process> {
    let mut process = match &options.process {
        Some(process) => complete(process.clone(), spec),
        None => {
            let mut process = spec
                .process()
                .clone()
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, "config.json has no process"))?;
            process.set_args(Some(options.args.clone()));
            process.set_terminal(Some(false));
            process.set_console_size(None);
            process
        }
    };
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &options.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if options.tty {
        process.set_terminal(Some(true));
    }
    if let Some(value) = options.no_new_privs {
        process.set_no_new_privileges(Some(value));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(options.env.iter().cloned());
    process.set_env(Some(env));
    let mut user = process.user().clone();
    if let Some((uid, gid)) = options.user {
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
    }
    if !options.additional_gids.is_empty() {
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&options.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user);
    Ok(process)
}
