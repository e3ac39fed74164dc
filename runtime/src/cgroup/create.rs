//! Makes the cgroup's directories, ready to be joined; removes what it made when it fails.
//!
//! v1: `mkdir` and one `open` per hierarchy; the cpuset controller besides wants its two lists filled
//! before a task can join (cpusets.rst, 2.2). v2: controllers are handed down from the mount's root
//! through each parent's `cgroup.subtree_control` (cgroup-v2.rst, "Enabling and Disabling").

use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::hierarchy::ROOT;
use super::{Cgroup, Hierarchy, Prepared, file, freeze, join};
use crate::error::{Error, ErrorKind, Result};

const FAILED: &str = "unable to apply cgroup configuration";

impl Cgroup {
    /// Makes the cgroup; refuses one that has processes or is frozen.
    ///
    /// Without rights, a rootless container whose configuration names no path goes without those
    /// directories ([`Prepared::skipped`]).
    pub fn create(&self) -> Result<Prepared> {
        self.prepare(true)
    }

    /// Makes what is missing; with `fresh`, what is there must be unused.
    pub(super) fn prepare(&self, fresh: bool) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        for dir in self.dirs() {
            if let Err(error) = self.prepare_dir(dir, fresh, &mut prepared) {
                if self.may_go_without(dir, &error) {
                    prepared.skipped.push(dir.to_owned());
                    continue;
                }
                prepared.undo();
                return Err(self.explain(error));
            }
        }
        Ok(prepared)
    }

    fn prepare_dir(&self, dir: &Path, fresh: bool, prepared: &mut Prepared) -> Result<()> {
        let new = file::make_dirs(dir, &mut prepared.made)?;
        if !new && fresh {
            refuse_used(dir)?;
        }
        if self.unified() == Some(dir) {
            if self.hierarchy == Hierarchy::Unified {
                hand_down_controllers(dir, self.start.domain)?;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let fd = file::open(dir, flags).map_err(|errno| open_error(dir, errno))?;
            prepared.unified = Some(fd);
            prepared.unified_path = Some(dir.to_owned());
            return Ok(());
        }
        if self.paths.get("cpuset").is_some_and(|cpuset| cpuset == dir) {
            fill_cpuset(
                dir,
                new,
                self.start.cpus.as_deref(),
                self.start.mems.as_deref(),
            )?;
        }
        prepared.tasks.push(join::open_tasks(dir)?);
        Ok(())
    }

    /// Whether a container may live without this directory.
    fn may_go_without(&self, dir: &Path, error: &Error) -> bool {
        // Beside v1 the cgroup2 hierarchy limits nothing; it only makes killing simpler.
        let beside = self.hierarchy == Hierarchy::Hybrid && self.unified() == Some(dir);
        if beside && error.kind() == ErrorKind::PermissionDenied {
            return true;
        }
        let wanted = self.hierarchy == Hierarchy::Unified && self.start.limits;
        let missing = matches!(
            error.kind(),
            ErrorKind::PermissionDenied | ErrorKind::NotFound
        );
        self.rootless && !self.explicit && missing && !wanted
    }

    fn explain(&self, error: Error) -> Error {
        let rights = matches!(
            error.kind(),
            ErrorKind::PermissionDenied | ErrorKind::NotFound
        );
        let unified = self.hierarchy == Hierarchy::Unified;
        if self.rootless && !self.explicit && rights && unified {
            return error
                .context(
                    "rootless needs no limits + no cgrouppath when no permission is granted for \
                     cgroups",
                )
                .context(FAILED);
        }
        error.context(FAILED)
    }
}

impl Cgroup {
    /// Gives a v2 cgroup to the container's user, so that it can make sub-cgroups: for a container
    /// with its own cgroup namespace and a writable /sys/fs/cgroup.
    ///
    /// Which files belong to a delegation the kernel says itself (cgroup-v2.rst, "Delegation").
    pub fn delegate(&self, uid: u32) -> Result<()> {
        let Some(dir) = self
            .unified()
            .filter(|_| self.hierarchy == Hierarchy::Unified)
        else {
            return Ok(());
        };
        let owner = rustix::process::Uid::from_raw(uid);
        let files = file::read(Path::new("/sys/kernel/cgroup/delegate"))
            .unwrap_or_else(|_| "cgroup.procs cgroup.subtree_control cgroup.threads".to_owned());
        let paths = files.split_whitespace().map(|name| dir.join(name));
        for path in std::iter::once(dir.to_owned()).chain(paths) {
            match rustix::fs::chown(&path, Some(owner), None) {
                Ok(()) | Err(Errno::NOENT) => {}
                // What a caller without rights made belongs to the caller.
                Err(Errno::PERM) if self.rootless => return Ok(()),
                Err(errno) => {
                    let what = format!("cannot give {} to user {uid}", path.display());
                    return Err(file::error(what, errno));
                }
            }
        }
        Ok(())
    }
}

impl Prepared {
    /// Removes the directories that were made, innermost first. For error paths.
    pub fn undo(&mut self) {
        self.tasks.clear();
        self.unified = None;
        for dir in self.made.drain(..).rev() {
            // Somebody else may have put something there meanwhile: then it stays.
            let _ = rustix::fs::rmdir(&dir);
        }
    }
}

fn open_error(path: &Path, errno: Errno) -> Error {
    file::flat_error(&format!("cannot open {}", path.display()), errno)
}

/// Two containers in one cgroup would be limited, frozen and killed together.
pub(super) fn refuse_used(dir: &Path) -> Result<()> {
    let pids = join::processes_below(dir)?;
    if !pids.is_empty() {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!(
                "container's cgroup is not empty: {} process(es) found",
                pids.len()
            ),
        ));
    }
    if freeze::is_frozen_dir(dir)? {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            "container's cgroup unexpectedly frozen",
        ));
    }
    Ok(())
}

/// Gives a cpuset without CPUs or memory nodes some: its parent's where none are asked for.
fn fill_cpuset(dir: &Path, new: bool, cpus: Option<&str>, mems: Option<&str>) -> Result<()> {
    for (name, wanted) in [("cpuset.cpus", cpus), ("cpuset.mems", mems)] {
        let path = dir.join(name);
        if wanted.is_none() && !new && !file::get_piece(&path)?.trim().is_empty() {
            continue;
        }
        if let Some(value) = wanted {
            if file::write(&path, value).is_ok() {
                continue;
            }
            // A parent without any cannot pass some on; it may just have been made.
            filled_by_parents(dir.parent(), name)?;
            file::set(&path, value)?;
        } else {
            let inherited = filled_by_parents(dir.parent(), name)?;
            file::set(&path, &inherited)?;
        }
    }
    Ok(())
}

/// The list of the nearest ancestor, after its descendants without one got it.
fn filled_by_parents(dir: Option<&Path>, name: &str) -> Result<String> {
    let Some(dir) = dir else {
        return Err(Error::unsupported(format!(
            "cannot find a cgroup with a {name}"
        )));
    };
    let path = dir.join(name);
    let own = file::get_piece(&path)?;
    if !own.trim().is_empty() {
        return Ok(own);
    }
    let inherited = filled_by_parents(dir.parent(), name)?;
    file::set(&path, &inherited)?;
    Ok(inherited)
}

/// Enables all controllers of the root in each ancestor of `dir`, if `dir` lacks any.
pub(super) fn hand_down_controllers(dir: &Path, domain: bool) -> Result<()> {
    let all = file::get_piece(&Path::new(ROOT).join("cgroup.controllers"))?;
    if dir == Path::new(ROOT) || file::get_piece(&dir.join("cgroup.controllers"))? == all {
        return Ok(());
    }
    let all: Vec<String> = all
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    let mut ancestors: Vec<PathBuf> = dir
        .ancestors()
        .take_while(|a| a.starts_with(ROOT))
        .map(Path::to_owned)
        .collect();
    ancestors.reverse();
    for (at, current) in ancestors.iter().enumerate() {
        if at > 0 {
            check_type(current, domain)?;
        }
        if at + 1 < ancestors.len() {
            let control = current.join("cgroup.subtree_control");
            // Some may not be to be had here; a limit that needs one of those says so itself.
            match file::write(&control, &all.join(" ")) {
                Ok(()) | Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
                Err(_) => {
                    for one in &all {
                        let _ = file::write(&control, one);
                    }
                }
            }
        }
    }
    Ok(())
}

/// A cgroup below one with processes, or a threaded one, can hold only threaded controllers.
fn check_type(dir: &Path, domain: bool) -> Result<()> {
    let path = dir.join("cgroup.type");
    let kind = file::read_piece(&path).unwrap_or_default();
    let refuse = |how: &str| {
        Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!(
                "cannot enter cgroupv2 {:?} with domain controllers -- {how}",
                dir.display()
            ),
        ))
    };
    match kind.trim() {
        "domain invalid" if domain => refuse("it is in an invalid state"),
        "domain invalid" => {
            let _ = file::write(&path, "threaded");
            Ok(())
        }
        mode @ ("domain threaded" | "threaded") if domain => {
            refuse(&format!("it is in {mode} mode"))
        }
        _ => Ok(()),
    }
}
