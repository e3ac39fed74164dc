//! The world of one test: its directory, the runtime under test, the host's canary.

use super::runtime::Runtime;
use super::stage::{self, Skip};
use super::{Bundle, spec, users};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// Everything a test may touch. All paths are below `dir`, all names start with `tag`.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) dir: PathBuf,
    pub(crate) tag: String,
    pub(crate) rt: Runtime,
    /// The ordinary user whose verbs are called.
    pub(crate) user: Option<u32>,
    count: Cell<u32>,
}

/// Whether the long variants were asked for.
pub(crate) fn full() -> bool {
    std::env::var("RCRUN_TEST_FULL").is_ok_and(|v| v == "1")
}

impl Env {
    pub(crate) fn new() -> Self {
        let dir = PathBuf::from(std::env::var_os(stage::DIR).unwrap());
        let tag = dir.file_name().unwrap().to_string_lossy().into_owned();
        let rt = Runtime::new(
            PathBuf::from(std::env::var_os(stage::RUNTIME).unwrap()),
            &dir,
        );
        let user = users::wanted().then_some(users::ALICE);
        if let Some(id) = user {
            chown(&dir, Some(id), Some(id)).unwrap();
        }
        Self {
            dir,
            tag,
            rt,
            user,
            count: Cell::new(0),
        }
    }

    /// A name that no other test uses.
    pub(crate) fn unique(&self) -> String {
        self.count.set(self.count.get() + 1);
        format!("{}-{}", self.tag, self.count.get())
    }

    /// A bundle with the base root file system and the default spec.
    pub(crate) fn bundle(&self) -> Bundle<'_> {
        Bundle::new(self, spec::default(&self.tag))
    }

    /// A fresh directory that containers may be given.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// An executable shell script on the host.
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The base root file system that bundles hard-link.
    pub(crate) fn base(&self) -> PathBuf {
        self.dir.parent().unwrap().join("base")
    }

    /// Ends the test as not runnable here.
    pub(crate) fn skip(&self, reason: impl Into<String>) -> ! {
        std::panic::resume_unwind(Box::new(Skip(reason.into())))
    }

    pub(crate) fn print_transcript(&self) {
        println!("{}", self.rt.transcript());
    }
}

/// Reads a file that must exist.
#[track_caller]
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
