//! Hooks of the runtime namespace, and the files that all hooks of a container have as their streams.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime as oci;
use rustix::fs::{MemfdFlags, SeekFrom};
use rustix::io::Errno;

use crate::container::Status;
use crate::error::{Context, Result};
use crate::launch::explain::hook_error;
use crate::launch::hooks::{Streams, run};
use crate::plan::hooks as plan;
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
    /// New, empty ones.
    pub(crate) fn new() -> Result<Self> {
        let file = |name: &str| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC);
        let files = || -> Result<Self, Errno> {
            Ok(Self {
                state: file("state")?,
                output: file("output")?,
                error: file("error")?,
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
        bundle: &std::path::Path,
        kind: &str,
        hooks: Option<&Vec<oci::Hook>>,
    ) -> Result<()> {
        for (index, hook) in plan::plan(kind, hooks)?.iter().enumerate() {
            // As other runtimes have it: hooks of the runtime namespace start in the bundle.
            let enter = || {
                let _ = rustix::process::chdir(bundle);
                Ok(())
            };
            run(proof, hook, self.streams(), None, &enter).map_err(|fail| {
                let (stdout, stderr) = self.printed();
                hook_error(
                    kind,
                    index,
                    fail.errno.raw_os_error(),
                    Some((&stdout, &stderr)),
                )
            })?;
        }
        Ok(())
    }
}

impl Files {
    /// Runs all poststop hooks, whatever becomes of each; failures are warnings (runtime-spec
    /// runtime.md, "Lifecycle", 13).
    pub(crate) fn run_poststop(
        &self,
        proof: SingleThreaded,
        bundle: &std::path::Path,
        hooks: &oci::Hooks,
    ) {
        for (index, hook) in hooks.poststop().iter().flatten().enumerate() {
            let one = vec![hook.clone()];
            if let Err(error) = self.run(proof, bundle, "poststop", Some(&one)) {
                let text = error.chain().to_string();
                tracing::warn!("{}", text.replacen("hook #0", &format!("hook #{index}"), 1));
            }
        }
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
