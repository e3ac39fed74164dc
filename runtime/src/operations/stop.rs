//! `kill`, `delete`, and the end of `run`.

use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use super::hooks::Files;
use super::query::{gone_within, init_of, load, status_of};
use crate::container::{Runtime, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::state::{Directory, Record, list_ids, signal_name};
use crate::sys::process::{SingleThreaded, pidfd_signal};
use crate::sys::regex::Pattern;

/// How long `delete --force` waits for the init to go after SIGKILL: a process in uninterruptible
/// sleep cannot be waited for without end.
const KILL_TIME: Duration = Duration::from_secs(10);

/// How long until something has to be in its way.
const PROMPT_TIME: Duration = Duration::from_millis(200);

/// `CLONE_NEWNS`.
const MOUNT_NAMESPACE: u64 = libc::CLONE_NEWNS as u64;
/// `CLONE_NEWPID`.
const PID_NAMESPACE: u64 = libc::CLONE_NEWPID as u64;

/// Sends a signal to the init, or to all processes.
pub(crate) fn kill(runtime: &Runtime, id: &str, signal: i32, all: bool) -> Result<()> {
    let directory = Directory::open(&runtime.root, id)?;
    let record = load(&directory)?;
    let own_pids = record.namespaces & PID_NAMESPACE != 0;
    if all && record.cgroup.is_none() {
        // The init's death is the end of all, where it is the first of its pid namespace.
        if signal != libc::SIGKILL || !own_pids {
            return Err(record
                .cgroup
                .missing("signal all processes of the container"));
        }
        return kill_init(&record);
    }
    if all {
        // Signalling nobody is no error here (runc's obsolete --all).
        return if record.cgroup.exists() {
            kill_all(&record, signal)
        } else {
            Ok(())
        };
    }
    let not_running = || Error::new(ErrorKind::FailedPrecondition, "container not running");
    let Some(init) = init_of(&record)? else {
        // Without a pid namespace of its own, others may have outlived the init.
        if signal == libc::SIGKILL && !own_pids && record.cgroup.exists() {
            return kill_all(&record, signal);
        }
        return Err(not_running());
    };
    if signal == libc::SIGKILL && !own_pids && !record.cgroup.is_none() {
        return kill_all(&record, signal);
    }
    match pidfd_signal(init.as_fd(), signal) {
        Ok(()) => {}
        Err(Errno::SRCH) => return Err(not_running()),
        Err(errno) => {
            return Err(errno).context(|| format!("cannot send {}", signal_name(signal)));
        }
    }
    if signal == libc::SIGKILL {
        // A frozen process only dies once it is thawed.
        record.cgroup.thaw()?;
    }
    Ok(())
}

fn kill_all(record: &Record, signal: i32) -> Result<()> {
    if signal == 0 {
        // Only asks whether signals could be sent.
        return Ok(());
    }
    match Signal::from_named_raw(signal) {
        Some(known) => record.cgroup.kill(known),
        None => Err(Error::invalid(format!(
            "kill --all takes no real-time signal ({signal})"
        ))),
    }
}

/// Removes a container.
pub(crate) fn delete(runtime: &Runtime, id: &str, force: bool) -> Result<()> {
    let directory = match Directory::open(&runtime.root, id) {
        Err(error) if force && error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let lock = match directory.lock() {
        Err(error) if force && error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let Some(record) = directory.read_record()? else {
        if force {
            // Killed before it wrote its record: there is nothing yet but the directory.
            return directory.remove();
        }
        return load(&directory).map(drop);
    };
    if record.poststop && SingleThreaded::prove().is_none() {
        drop(lock);
        return delete_elsewhere(runtime, id, force);
    }
    match status_of(&directory, &record)? {
        Status::Stopped => {}
        Status::Creating if record.pid == 0 => await_orphan(&record)?,
        Status::Created | Status::Creating => kill_init(&record)?,
        _ if force => kill_init(&record)?,
        status => {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "cannot delete container {id} that is not stopped: {}",
                    status.as_str()
                ),
            ));
        }
    }
    destroy(&directory, &record)?;
    drop(lock);
    Ok(())
}

/// Has a process of its own remove a container: hooks are run by copies of whoever removes it, and a process
/// with threads cannot be copied. Our executable is `rcrun`, as for monitors.
fn delete_elsewhere(runtime: &Runtime, id: &str, force: bool) -> Result<()> {
    let failed = || format!("cannot run rcrun delete {id}, for the container's poststop hooks");
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rcrun").arg("--root").arg(&runtime.root);
    command.arg("delete");
    if force {
        command.arg("--force");
    }
    let output = command
        .args(["--", id])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .context(failed)?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        for line in text.lines() {
            tracing::warn!("{line}");
        }
        return Ok(());
    }
    Err(Error::new(ErrorKind::Internal, text.trim_end().to_owned())).context(failed)
}

/// Removes the containers whose IDs match. One that is gone by then was removed by somebody else.
pub(crate) fn delete_matching(runtime: &Runtime, pattern: &str, force: bool) -> Result<()> {
    let compiled = Pattern::compile(crate::plan::c_string(pattern)?.as_c_str())
        .map_err(|why| Error::invalid(format!("invalid regular expression {pattern:?}: {why}")))?;
    let mut failed: Vec<Error> = Vec::new();
    for id in list_ids(&runtime.root)? {
        if !compiled.matches(crate::plan::c_string(&id)?.as_c_str()) {
            continue;
        }
        match delete(runtime, &id, force) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => failed.push(error.context(id)),
            Ok(()) => {}
        }
    }
    let texts: Vec<String> = failed
        .iter()
        .map(|error| error.chain().to_string())
        .collect();
    match failed.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(Error::new(first.kind(), texts.join("; "))),
    }
}

/// How long a child lives whose parent was killed before it wrote down the child's pid.
const ORPHAN_TIME: Duration = Duration::from_secs(5);

/// Such a child ends by itself at its next word to its parent. It is not killed through the cgroup,
/// which need not be ours: another container's, whose processes made `create` fail.
fn await_orphan(record: &Record) -> Result<()> {
    let deadline = std::time::Instant::now() + ORPHAN_TIME;
    while record.cgroup.exists() && !record.cgroup.processes()?.is_empty() {
        if std::time::Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Kills the init and waits until it is gone.
pub(crate) fn kill_init(record: &Record) -> Result<()> {
    let Some(init) = init_of(record)? else {
        return Ok(());
    };
    match pidfd_signal(init.as_fd(), libc::SIGKILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(errno).context(|| "cannot kill the container's init"),
    }
    record.cgroup.thaw()?;
    if gone_within(&init, PROMPT_TIME)? {
        return Ok(());
    }
    record.cgroup.unfreeze_process(record.pid);
    if gone_within(&init, KILL_TIME)? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Deadline,
        format!(
            "the container's init (pid {}) did not end within {} s of SIGKILL: it waits for a device \
             or a file system that does not answer",
            record.pid,
            KILL_TIME.as_secs()
        ),
    ))
}

/// The end of a container in the foreground. Whoever holds the lock first removes it: `delete` or
/// `checkpoint` may have done so already, poststop hooks included.
pub(crate) fn end(directory: &Directory, record: &Record) -> Result<()> {
    let _lock = match directory.lock() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    kill_init(record)?;
    destroy(directory, record)
}

/// Removes what is left of a container whose init is gone: other processes, the cgroup, poststop
/// hooks, the record.
pub(crate) fn destroy(directory: &Directory, record: &Record) -> Result<()> {
    if record.namespaces & PID_NAMESPACE == 0 {
        match record.cgroup.kill(Signal::KILL) {
            // systemd removes a scope's cgroup with its last process.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    record.cgroup.remove()?;
    if let Some(group) = &record.rdt {
        group.destroy()?;
    }
    if record.namespaces & MOUNT_NAMESPACE == 0 {
        // What was mounted below the root is mounted at the host.
        match rustix::mount::unmount(&record.rootfs, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => {
                return Err(errno)
                    .context(|| format!("cannot unmount {}", record.rootfs.display()));
            }
        }
    }
    poststop(directory, record);
    directory.remove()
}

/// Runs the poststop hooks of a container that is gone, or could not be made after all. Whatever they
/// do, it stays gone (runtime-spec runtime.md, "Lifecycle", 13).
pub(crate) fn poststop(directory: &Directory, record: &Record) {
    if record.poststop
        && let Err(error) = run_poststop(directory, record)
    {
        tracing::warn!("{}", error.chain());
    }
}

fn run_poststop(directory: &Directory, record: &Record) -> Result<()> {
    let proof = super::caller::prove_single_threaded()?;
    let config = crate::spec::load::spec(&directory.read_config()?)?;
    let Some(hooks) = config.spec.hooks() else {
        return Ok(());
    };
    let files = match Files::new(&record.annotations) {
        Ok(files) => files,
        Err(error) => {
            // Where their output goes is no reason not to run them.
            tracing::warn!("{}", error.chain());
            Files::in_memory()?
        }
    };
    files.set_state(record, Status::Stopped)?;
    files.run_poststop(proof, &record.bundle, hooks);
    Ok(())
}
