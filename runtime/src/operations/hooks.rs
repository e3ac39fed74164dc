//! Hooks of the runtime namespace, and the files that all hooks of a container have as their streams.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime as oci;
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::container::Status;
use crate::error::{Context, Error, Result};
use crate::launch::explain::{hook_error, poststop_error};
use crate::launch::hooks::{Streams, run};
use crate::plan::{Hook, annotations, hooks as plan};
use crate::rootfs::{Detail, Fail};
use crate::state::Record;
use crate::sys::process::SingleThreaded;

/// How much of what a hook prints gets into an error.
const OUTPUT_MAX: usize = 4096;

/// State, standard output and standard error, as files in memory.
#[derive(Debug)]
pub(crate) struct Files {
    state: OwnedFd,
    output: OwnedFd,
    error: OwnedFd,
    /// Files outside that annotations named as output and error of the hooks that run there. Hooks of
    /// the container never see them: a descriptor of the host's would be a way out.
    outside: [Option<OwnedFd>; 2],
}

/// The state as hooks read it (runtime-spec runtime.md, "State").
pub(crate) fn state_json(record: &Record, status: Status) -> serde_json::Value {
    let mut state = serde_json::json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": status.as_str(),
        "bundle": record.bundle,
    });
    if record.pid > 0 && status != Status::Stopped {
        state["pid"] = record.pid.into();
    }
    if !record.annotations.is_empty() {
        state["annotations"] = serde_json::json!(record.annotations);
    }
    state
}

impl Files {
    /// New, empty ones, and those that the annotations name.
    pub(crate) fn new(notes: &BTreeMap<String, String>) -> Result<Self> {
        let mut files = Self::in_memory()?;
        let named = annotations::hook_streams(|name| notes.get(name).map(String::as_str))?;
        for (file, path) in files.outside.iter_mut().zip(named) {
            *file = path.map(open_outside).transpose()?;
        }
        Ok(files)
    }

    /// New, empty ones.
    pub(crate) fn in_memory() -> Result<Self> {
        let file = |name: &str| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC);
        let files = || -> Result<Self, Errno> {
            Ok(Self {
                state: file("state")?,
                output: file("output")?,
                error: file("error")?,
                outside: [None, None],
            })
        };
        files().context(|| "cannot create files for hooks")
    }

    /// Borrows them.
    pub(crate) fn streams(&self) -> Streams<'_> {
        Streams {
            state: self.state.as_fd(),
            output: self.output.as_fd(),
            error: self.error.as_fd(),
        }
    }

    /// Sets what hooks read.
    pub(crate) fn set_state(&self, record: &Record, status: Status) -> Result<()> {
        let text = state_json(record, status).to_string();
        let write = || -> Result<(), Errno> {
            rustix::fs::ftruncate(&self.state, 0)?;
            let mut at = 0;
            while at < text.len() {
                at += rustix::io::pwrite(&self.state, &text.as_bytes()[at..], at as u64)?;
            }
            Ok(())
        };
        write().context(|| "cannot write the state for hooks")
    }

    /// What the last hook printed.
    pub(crate) fn printed(&self) -> (String, String) {
        let read = |file: &OwnedFd| {
            let mut bytes = vec![0; OUTPUT_MAX];
            let length = rustix::fs::seek(file, SeekFrom::Start(0))
                .and_then(|_| rustix::io::read(file, &mut bytes[..]))
                .unwrap_or(0);
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        (read(&self.output), read(&self.error))
    }

    /// Runs hooks one after the other; the first failure ends it.
    pub(crate) fn run(
        &self,
        proof: SingleThreaded,
        bundle: &Path,
        kind: &str,
        hooks: Option<&Vec<oci::Hook>>,
    ) -> Result<()> {
        for (index, hook) in plan::plan(kind, hooks)?.iter().enumerate() {
            self.run_one(proof, bundle, hook).map_err(|fail| {
                let (stdout, stderr) = self.printed();
                let status = fail.errno.raw_os_error();
                match fail.detail {
                    Detail::HookStatus => hook_error(kind, index, status, Some((&stdout, &stderr))),
                    _ => {
                        Error::from(fail.errno).context(format!("cannot run {kind} hook #{index}"))
                    }
                }
            })?;
        }
        Ok(())
    }

    fn run_one(&self, proof: SingleThreaded, bundle: &Path, hook: &Hook) -> Result<(), Fail> {
        let mut streams = self.streams();
        streams.clear()?;
        let [output, error] = &self.outside;
        streams.output = output.as_ref().map_or(streams.output, |fd| fd.as_fd());
        streams.error = error.as_ref().map_or(streams.error, |fd| fd.as_fd());
        // As other runtimes have it: hooks of the runtime namespace start in the bundle.
        let enter = || {
            let _ = rustix::process::chdir(bundle);
            Ok(())
        };
        run(proof, hook, streams, None, &enter)
    }
}

impl Files {
    /// Runs all poststop hooks, whatever becomes of each; failures are warnings (runtime-spec
    /// runtime.md, "Lifecycle", 13).
    pub(crate) fn run_poststop(&self, proof: SingleThreaded, bundle: &Path, hooks: &oci::Hooks) {
        for (index, hook) in hooks.poststop().iter().flatten().enumerate() {
            if let Err(error) = self.run_one_poststop(proof, bundle, index, hook) {
                tracing::warn!("{}", error.chain());
            }
        }
    }

    fn run_one_poststop(
        &self,
        proof: SingleThreaded,
        bundle: &Path,
        index: usize,
        hook: &oci::Hook,
    ) -> Result<()> {
        for planned in plan::plan("poststop", Some(&vec![hook.clone()]))? {
            self.run_one(proof, bundle, &planned).map_err(|fail| {
                let (stdout, stderr) = self.printed();
                match fail.detail {
                    Detail::HookStatus => {
                        let status = fail.errno.raw_os_error();
                        poststop_error(hook.path(), index, status, (&stdout, &stderr))
                    }
                    _ => Error::from(fail.errno).context(format!(
                        "cannot run poststop hook {}",
                        hook.path().display()
                    )),
                }
            })?;
        }
        Ok(())
    }
}

/// Opens a file to append to. It is the administrator's who wrote the configuration; a link in its
/// place, or a device, is not what was meant.
fn open_outside(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NOCTTY
        | OFlags::NONBLOCK;
    let text = || format!("cannot open {} for the output of hooks", path.display());
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).context(text)?;
    let stat = rustix::fs::fstat(&file).context(text)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(file),
        FileType::CharacterDevice if stat.st_rdev == rustix::fs::makedev(1, 3) => Ok(file),
        _ => Err(Error::invalid("not a regular file").context(text())),
    }
}

/// Whether there is any hook at all.
pub(crate) fn any(hooks: &oci::Hooks) -> bool {
    [
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
    ]
    .iter()
    .any(|list| list.as_ref().is_some_and(|l| !l.is_empty()))
        || !prestart(hooks).is_empty()
}

/// The deprecated prestart hooks.
pub(crate) fn prestart(hooks: &oci::Hooks) -> Vec<oci::Hook> {
    hooks.prestart().clone().unwrap_or_default()
}
