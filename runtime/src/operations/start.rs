//! `start`: lets a created container's init execute its program.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::hooks::Files;
use super::query::{load, status_of};
use crate::container::{Runtime, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::explain::{Subject, explain};
use crate::launch::steps::Step;
use crate::launch::wire::{Message, Tag, Wire};
use crate::plan::{Facts, Plan};
use crate::spec::validate;
use crate::state::{Directory, Record};

/// Connects to the init that waits; an error when none does.
pub(crate) fn connect(directory: &Directory) -> Result<OwnedFd, Errno> {
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let path = format!(
        "{}/start.sock",
        crate::rootfs::fd_path(directory.as_fd())
            .as_c_str()
            .to_string_lossy()
    );
    rustix::net::connect(&socket, &SocketAddrUnix::new(path.as_str())?)?;
    Ok(socket)
}

/// Starts a container.
pub(crate) fn start(runtime: &Runtime, id: &str) -> Result<()> {
    let directory = Directory::open(&runtime.root, id)?;
    let _lock = directory.lock()?;
    let record = load(&directory)?;
    check_status(status_of(&directory, &record)?)?;
    let config = crate::spec::load::spec(&directory.read_config()?)?;
    if config.spec.process().is_none() {
        super::stop::kill_init(&record)?;
        return Err(Error::invalid(
            "cannot start container: process is not set in config.json",
        ));
    }
    let wire = connect(&directory)
        .map(Wire::from_fd)
        .context(|| "cannot reach the container's init")?;
    wire.send(&Message::new(Tag::Go))
        .context(|| "cannot release the container's init")?;
    // The connection closes by itself when the program is executed.
    if let Some((message, _)) = wire
        .receive()
        .context(|| "cannot hear from the container's init")?
        && message.tag == Tag::Failed
    {
        let error = explain_failure(&directory, &record, &message);
        return Err(if message.step == Step::StartContainerHooks {
            destroyed(&directory, &record, error)
        } else {
            error
        });
    }
    match rustix::fs::unlinkat(&directory, c"start.sock", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).context(|| "cannot remove start.sock"),
    }
    if let Some(hooks) = config
        .spec
        .hooks()
        .as_ref()
        .filter(|h| h.poststart().is_some())
    {
        let poststart = hooks.poststart().as_ref();
        if let Err(error) = run_poststart(&record, poststart) {
            return Err(destroyed(&directory, &record, error));
        }
    }
    Ok(())
}

fn check_status(status: Status) -> Result<()> {
    let why = match status {
        Status::Created => return Ok(()),
        Status::Stopped => "cannot start a container that has stopped",
        Status::Running | Status::Paused => "cannot start an already running container",
        Status::Creating => "cannot start a container in the creating state",
    };
    Err(Error::new(ErrorKind::FailedPrecondition, why))
}

fn run_poststart(record: &Record, hooks: Option<&Vec<oci_spec::runtime::Hook>>) -> Result<()> {
    let proof = super::caller::prove_single_threaded()?;
    let files = Files::new(&record.annotations)?;
    files.set_state(record, Status::Running)?;
    files.run(proof, &record.bundle, "poststart", hooks)
}

/// Hooks of `start` that fail are the container's end (runtime-spec runtime.md, "Lifecycle", 7 and 9:
/// stop the container, and continue at 12). What goes wrong then is not the reason to report.
fn destroyed(directory: &Directory, record: &Record, error: Error) -> Error {
    let undone =
        super::stop::kill_init(record).and_then(|()| super::stop::destroy(directory, record));
    if let Err(left) = undone {
        tracing::warn!("{}", left.chain());
    }
    error
}

fn explain_failure(directory: &Directory, record: &Record, message: &Message) -> Error {
    let plan = directory.read_config().and_then(|text| {
        let facts = Facts {
            bundle: &record.bundle,
            no_pivot: false,
            listen_fds: None,
            selinux: validate::selinux_enabled(),
        };
        Plan::from_spec(&crate::spec::load::spec(&text)?.spec, &facts)
    });
    match plan {
        Ok(plan) => explain(
            message,
            &Subject {
                plan: Some(&plan),
                process: &plan.process,
                hook_output: None,
            },
        ),
        Err(error) => error,
    }
}
