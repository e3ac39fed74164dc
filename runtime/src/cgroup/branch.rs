//! A sub-cgroup for one process that is added to a container and for everything that it starts, so that
//! all of that can be ended and the container not.
//!
//! One hierarchy is enough: cgroup2 where it is mounted (`cgroup.kill`, cgroup-v2.rst), else the freezer.
//! It is made from outside, so it does not matter what the container may do with its cgroup. No controller
//! is enabled in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::Signal;

use super::{Cgroup, Hierarchy, StartNeeds, file, hierarchy, join, path};
use crate::error::{Error, ErrorKind, Result};

/// How often a directory is tried to be removed whose last process is on its way out.
const TRIES: u32 = 5;
/// The pause between two of these.
const PAUSE: Duration = Duration::from_millis(1);

/// The sub-cgroup.
#[derive(Debug)]
pub struct Branch {
    name: String,
    base: PathBuf,
    init: i32,
    own: Cgroup,
}

impl Cgroup {
    /// Makes the sub-cgroup `name`; `init` is the container's.
    pub fn branch(&self, name: &str, init: i32) -> Result<Branch> {
        let branch = self.branch_of(name, init)?;
        let dir = branch.dir();
        let made = file::retry(|| rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755)));
        match made {
            Ok(()) | Err(Errno::EXIST) => Ok(branch),
            Err(errno) => {
                let what = format!("cannot make cgroup {}", dir.display());
                Err(file::error(what, errno))
            }
        }
    }

    /// Those sub-cgroups that are there and whose names begin so.
    pub fn branches(&self, prefix: &str, init: i32) -> Result<Vec<Branch>> {
        let (_, base) = self.trunk()?;
        let children = match file::children(base) {
            Ok(children) => children,
            Err(Errno::NOENT | Errno::NODEV) => return Ok(Vec::new()),
            Err(errno) => {
                let what = format!("cannot list {}", base.display());
                return Err(file::error(what, errno));
            }
        };
        let names = children
            .iter()
            .filter_map(|dir| dir.file_name()?.to_str().filter(|n| n.starts_with(prefix)));
        names.map(|name| self.branch_of(name, init)).collect()
    }

    fn branch_of(&self, name: &str, init: i32) -> Result<Branch> {
        let (controller, base) = self.trunk()?;
        let dir = path::sub(base, name)?;
        if dir == base {
            return Err(Error::invalid("a sub-cgroup without a name"));
        }
        Ok(Branch {
            name: name.to_owned(),
            base: base.to_owned(),
            init,
            own: Self {
                hierarchy: self.hierarchy,
                paths: BTreeMap::from([(controller, dir)]),
                unit: None,
                rootless: self.rootless,
                explicit: true,
                start: StartNeeds::default(),
            },
        })
    }

    /// The hierarchy of all branches, and the container's directory in it.
    fn trunk(&self) -> Result<(String, &Path)> {
        let there = |dir: &&Path| rustix::fs::access(*dir, rustix::fs::Access::EXISTS).is_ok();
        if let Some(dir) = self.unified().filter(there) {
            return Ok((String::new(), dir));
        }
        match self
            .paths
            .get("freezer")
            .map(PathBuf::as_path)
            .filter(there)
        {
            Some(dir) => Ok(("freezer".to_owned(), dir)),
            None => Err(self.missing("make a sub-cgroup")),
        }
    }
}

impl Branch {
    /// What `exec` is told to join.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn dir(&self) -> &Path {
        self.own.paths.values().next().unwrap_or(&self.base)
    }

    /// Kills everything in it; one that is gone is empty. On cgroup2 returns at once, elsewhere when all
    /// are dead.
    pub fn kill(&self) -> Result<()> {
        match self.own.kill(Signal::KILL) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes it. Processes that are left go to the container's cgroup, which they never left as far as
    /// anybody else is concerned; says whether it is gone.
    pub fn close(&self) -> Result<bool> {
        for _ in 0..TRIES {
            match file::retry(|| rustix::fs::rmdir(self.dir())) {
                Ok(()) | Err(Errno::NOENT) => return Ok(true),
                Err(Errno::BUSY | Errno::NOTEMPTY) => {}
                Err(errno) => {
                    let what = format!("cannot remove cgroup {}", self.dir().display());
                    return Err(file::error(what, errno));
                }
            }
            let left = self.own.processes().unwrap_or_default();
            if left.is_empty() {
                std::thread::sleep(PAUSE);
            }
            for pid in left {
                self.take_out(pid);
            }
            for below in join::descendants(self.dir())?.iter().rev() {
                // Its processes were taken out as well; one that is busy is met again.
                let _ = rustix::fs::rmdir(below);
            }
        }
        Ok(false)
    }

    /// A cgroup2 cgroup with controllers for its children takes no process: then the init's own does.
    fn take_out(&self, pid: i32) {
        if join::attach_to(&self.base, pid).is_ok() || self.own.hierarchy != Hierarchy::Unified {
            return;
        }
        if let Some(own) = hierarchy::unified_cgroup_of(self.init) {
            // It ended meanwhile, or stays: the caller is told of the directory.
            let _ = join::attach_to(&own, pid);
        }
    }
}
