//! Questions: `state`, `list`, `ps`, statistics.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::container::{Runtime, StateReport, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::state::{self, Directory, Record};

/// The record of a container, or a word about why there is none.
pub(crate) fn load(directory: &Directory) -> Result<Record> {
    directory.read_record()?.ok_or_else(|| {
        Error::new(
            ErrorKind::FailedPrecondition,
            format!(
                "container {} was not created completely: use delete --force",
                directory.id()
            ),
        )
    })
}

/// A pidfd of the init; `None` when it is gone, or its pid now belongs to somebody else.
pub(crate) fn init_of(record: &Record) -> Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(record.pid) else {
        return Ok(None);
    };
    // The usual end: nobody is there to be opened.
    if !is_alive(record) {
        return Ok(None);
    }
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
        Err(errno) => return Err(errno).context(|| format!("cannot open process {}", record.pid)),
    };
    // Checked after the descriptor was got: it names the process that was checked.
    Ok(is_alive(record).then_some(pidfd))
}

/// Whether the pid still is the init's: its start time tells it from a later process.
fn is_alive(record: &Record) -> bool {
    state::facts(record.pid)
        .is_some_and(|facts| facts.start_time == record.start_time && !facts.zombie)
}

/// Where a container stands in its life.
pub(crate) fn status_of(directory: &Directory, record: &Record) -> Result<Status> {
    if record.pid == 0 {
        return Ok(Status::Creating);
    }
    if !is_alive(record) {
        return Ok(Status::Stopped);
    }
    let waits = rustix::fs::accessat(directory, c"start.sock", Access::EXISTS, AtFlags::empty());
    if waits.is_ok() && super::start::connect(directory).is_ok() {
        return Ok(Status::Created);
    }
    if record.cgroup.is_frozen()? {
        Ok(Status::Paused)
    } else {
        Ok(Status::Running)
    }
}

fn report(directory: &Directory, record: Record, owner: String) -> Result<StateReport> {
    let status = status_of(directory, &record)?;
    Ok(StateReport {
        pid: if status == Status::Stopped {
            0
        } else {
            record.pid
        },
        oci_version: record.oci_version,
        id: record.id,
        status,
        bundle: record.bundle,
        rootfs: record.rootfs,
        created: record.created,
        annotations: record.annotations,
        owner,
    })
}

/// The state of one container.
pub(crate) fn state(runtime: &Runtime, id: &str) -> Result<StateReport> {
    let directory = Directory::open(&runtime.root, id)?;
    let record = load(&directory)?;
    let owner = owner_name(record.owner);
    report(&directory, record, owner)
}

/// Whether a container executes its program, or did.
pub(crate) fn was_started(runtime: &Runtime, id: &str) -> Result<bool> {
    let directory = Directory::open(&runtime.root, id)?;
    load(&directory)?;
    match rustix::fs::accessat(&directory, c"start.sock", Access::EXISTS, AtFlags::empty()) {
        Ok(()) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(errno) => Err(errno).context(|| "cannot look for start.sock"),
    }
}

/// The init of a container, if it lives: its pid, and a pidfd that names the same process.
pub(crate) fn init(runtime: &Runtime, id: &str) -> Result<Option<(i32, OwnedFd)>> {
    let directory = Directory::open(&runtime.root, id)?;
    let record = load(&directory)?;
    Ok(init_of(&record)?.map(|pidfd| (record.pid, pidfd)))
}

/// All containers.
pub(crate) fn list(
    runtime: &Runtime,
    broken: &mut dyn FnMut(&str, Error),
) -> Result<Vec<StateReport>> {
    let mut owners: HashMap<u32, String> = HashMap::new();
    let mut reports = Vec::new();
    for id in state::list_ids(&runtime.root)? {
        let one = Directory::open(&runtime.root, &id).and_then(|directory| {
            let Some(record) = directory.read_record()? else {
                return Ok(None);
            };
            let owner = owners
                .entry(record.owner)
                .or_insert_with(|| owner_name(record.owner));
            report(&directory, record, owner.clone()).map(Some)
        });
        match one {
            Ok(Some(report)) => reports.push(report),
            // Being created or removed right now.
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => broken(&id, error),
        }
    }
    Ok(reports)
}

/// The user's name from the host's passwd file, `#UID` where it has none.
fn owner_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// Pids of all processes of a container.
pub(crate) fn processes(runtime: &Runtime, id: &str) -> Result<Vec<i32>> {
    let directory = Directory::open(&runtime.root, id)?;
    let record = load(&directory)?;
    if record.cgroup.rootless && !record.cgroup.exists() && is_alive(&record) {
        return in_pid_namespace(record.pid);
    }
    record.cgroup.processes()
}

/// The processes of a container that has no cgroup, for lack of rights: those of its pid namespace.
fn in_pid_namespace(init: i32) -> Result<Vec<i32>> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let wanted = namespace(&init.to_string()).context(|| "cannot find the container's init")?;
    if namespace("self").is_ok_and(|own| own == wanted) {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            "the container has neither a cgroup nor a pid namespace",
        ));
    }
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").context(|| "cannot list processes")? {
        let name = entry.context(|| "cannot list processes")?.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<i32>().ok());
        pids.extend(pid.filter(|pid| namespace(&pid.to_string()).is_ok_and(|it| it == wanted)));
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The record of a container in one of the given states.
pub(crate) fn require(directory: &Directory, allowed: &[Status], verb: &str) -> Result<Record> {
    let record = load(directory)?;
    let status = status_of(directory, &record)?;
    if allowed.contains(&status) {
        return Ok(record);
    }
    let problem = match status {
        Status::Stopped | Status::Creating => "container not running".to_owned(),
        other => format!("cannot {verb} a container in the {} state", other.as_str()),
    };
    Err(Error::new(ErrorKind::FailedPrecondition, problem))
}

/// Waits until the init is gone; false when the time is up.
pub(crate) fn gone_within(init: &OwnedFd, time: std::time::Duration) -> Result<bool> {
    crate::launch::hooks::ends_within(init, time).context(|| "cannot wait for the container's init")
}
