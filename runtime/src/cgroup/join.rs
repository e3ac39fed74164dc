//! Putting processes into the cgroup and finding those that are in it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Cgroup, Hierarchy, Prepared, file, hierarchy, path};
use crate::error::{Context, Error, ErrorKind, Result};

/// Opens the file through which a process moves itself into a v1 cgroup by writing `0`.
pub(super) fn open_tasks(dir: &Path) -> Result<OwnedFd> {
    let path = dir.join("tasks");
    file::open(&path, OFlags::WRONLY)
        .map_err(|errno| file::flat_error(&format!("cannot open {}", path.display()), errno))
}

impl Cgroup {
    /// Moves a process into the cgroup, from outside.
    ///
    /// The slow way (see the module's text on `tasks`): for kernels without `CLONE_INTO_CGROUP`.
    pub fn attach(&self, pid: i32) -> Result<()> {
        if self.unit.is_some() {
            self.attach_to_unit(pid, Path::new(""))
                .context(|| format!("error adding pid {pid} to cgroups"))?;
            if self.hierarchy == Hierarchy::Unified {
                return Ok(());
            }
        }
        for dir in self.dirs() {
            match attach_to(dir, pid) {
                Err(error) if self.rootless && !self.explicit && may_be_rootless(&error) => {}
                other => other.context(|| format!("error adding pid {pid} to cgroups"))?,
            }
        }
        Ok(())
    }

    /// What `exec` joins: the cgroup, or the sub-cgroups given as `[CONTROLLER[,..]:]PATH`.
    ///
    /// On v2 the init may have moved itself into a sub-cgroup and enabled controllers, after which
    /// the container's cgroup takes no process: then, unless a path was asked for, the init's own
    /// cgroup is the target.
    pub fn exec_target(&self, sub: &[String], init: i32) -> Result<Prepared> {
        let subs = parse_subs(sub)?;
        if self.is_none() && !subs.is_empty() {
            return Err(self.missing("join a cgroup of the container"));
        }
        if self.hierarchy == Hierarchy::Unified {
            return self.exec_unified(&subs, init);
        }
        let mut paths = self.paths.clone();
        if let [(controllers, sub)] = subs.as_slice()
            && controllers.is_empty()
        {
            let mut found = paths.clone();
            for dir in found.values_mut() {
                *dir = path::sub(dir, sub)?;
            }
            // Who made it in some hierarchies only gets it in those. In none: the first one missing
            // is named below.
            let any = found.values().any(|dir| dir.is_dir());
            for (name, dir) in found {
                if !any || dir.is_dir() {
                    paths.insert(name, dir);
                }
            }
        } else {
            for (controllers, sub) in &subs {
                for name in controllers {
                    let dir = paths.get_mut(name).ok_or_else(|| {
                        Error::invalid(format!("unknown controller {name} in SubCgroupPaths"))
                    })?;
                    *dir = path::sub(dir, sub)?;
                }
            }
        }
        let target = Self {
            paths,
            ..self.clone()
        };
        let mut prepared = Prepared::default();
        for dir in target.dirs() {
            let opened = if target.unified() == Some(dir) {
                open_dir(dir).map(|fd| {
                    prepared.unified = Some(fd);
                    prepared.unified_path = Some(dir.to_owned());
                })
            } else {
                open_tasks(dir).map(|fd| prepared.tasks.push(fd))
            };
            match opened {
                Err(error) if self.rootless && may_be_rootless(&error) => {
                    prepared.skipped.push(dir.to_owned());
                }
                other => other.context(|| "error adding pid of the new process to cgroups")?,
            }
        }
        Ok(prepared)
    }

    /// Moves a process into the cgroup2 cgroup of `prepared`, where `CLONE_INTO_CGROUP` was not to be
    /// had: an older kernel, or no right to move processes out of the caller's own cgroup, which
    /// systemd has.
    pub fn attach_unified(&self, prepared: &Prepared, pid: i32) -> Result<()> {
        let Some(dir) = &prepared.unified_path else {
            return Ok(());
        };
        let error = match attach_to(dir, pid) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let below = self.unified().and_then(|base| dir.strip_prefix(base).ok());
        match (error.kind(), &self.unit, below) {
            (ErrorKind::PermissionDenied, Some(_), Some(sub)) => self.attach_to_unit(pid, sub),
            (ErrorKind::PermissionDenied, None, _) if self.rootless => Ok(()),
            _ => Err(error),
        }
        .context(|| format!("error adding pid {pid} to cgroups"))
    }

    fn exec_unified(&self, subs: &[(Vec<String>, String)], init: i32) -> Result<Prepared> {
        let Some(base) = self.unified() else {
            return Ok(Prepared::default());
        };
        let asked = match subs {
            [] => None,
            [(controllers, sub)] if controllers.is_empty() => Some(path::sub(base, sub)?),
            [(controllers, _), ..] => {
                let name = controllers.first().map_or("", String::as_str);
                return Err(Error::invalid(format!(
                    "unknown controller {name} in SubCgroupPaths"
                )));
            }
        };
        let own = || hierarchy::unified_cgroup_of(init).filter(|dir| dir != base);
        let target = match asked {
            Some(dir) => dir,
            None if takes_processes(base) => base.to_owned(),
            None => own().unwrap_or_else(|| base.to_owned()),
        };
        match open_dir(&target) {
            Ok(fd) => Ok(Prepared {
                unified: Some(fd),
                unified_path: Some(target),
                ..Prepared::default()
            }),
            Err(_) if self.rootless => Ok(Prepared {
                skipped: vec![target],
                ..Prepared::default()
            }),
            Err(error) => Err(error.context("can't open cgroup")),
        }
    }
}

/// Whether a v2 cgroup can take another process: it has no controllers enabled for children, or it
/// is the root (cgroup-v2.rst, "No Internal Process Constraint").
fn takes_processes(dir: &Path) -> bool {
    dir == Path::new(hierarchy::ROOT)
        || file::read_piece(&dir.join("cgroup.subtree_control"))
            .is_ok_and(|enabled| enabled.trim().is_empty())
}

fn open_dir(dir: &Path) -> Result<OwnedFd> {
    file::open(dir, OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|errno| file::flat_error(&format!("open {}", dir.display()), errno))
}

fn may_be_rootless(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::NotFound
    )
}

/// `cpu,memory:a` is two controllers and a path; `a` alone goes for all.
fn parse_subs(args: &[String]) -> Result<Vec<(Vec<String>, String)>> {
    let mut subs: Vec<(Vec<String>, String)> = Vec::new();
    for arg in args {
        let Some((names, path)) = arg.split_once(':') else {
            if args.len() != 1 {
                return Err(Error::invalid(format!(
                    "invalid --cgroup argument: {arg} (missing <controller>: prefix)"
                )));
            }
            return Ok(vec![(Vec::new(), arg.clone())]);
        };
        let mut controllers = Vec::new();
        for name in names.split(',') {
            if name.is_empty() {
                return Err(Error::invalid(format!(
                    "invalid --cgroup argument: {arg} (empty <controller> prefix)"
                )));
            }
            let known = |list: &Vec<String>| list.iter().any(|n| n == name);
            if known(&controllers) || subs.iter().any(|(list, _)| known(list)) {
                return Err(Error::invalid(format!(
                    "invalid --cgroup argument(s): controller {name} specified multiple times"
                )));
            }
            controllers.push(name.to_owned());
        }
        subs.push((controllers, path.to_owned()));
    }
    Ok(subs)
}

/// Writes a pid to `cgroup.procs`.
pub(super) fn attach_to(dir: &Path, pid: i32) -> Result<()> {
    let path = dir.join("cgroup.procs");
    let text = pid.to_string();
    let mut tries = 5;
    loop {
        match file::write(&path, &text) {
            Ok(()) => return Ok(()),
            // A task that was forked a moment ago may not be movable yet (TASK_NEW).
            Err(Errno::INVAL) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(30));
            }
            Err(errno) => {
                let what = format!("cannot write {pid} to {}", path.display());
                return Err(file::flat_error(&what, errno));
            }
        }
    }
}

/// Pids in `dir` itself.
fn processes_in(dir: &Path) -> Result<Vec<i32>, Errno> {
    let text = match file::read(&dir.join("cgroup.procs")) {
        // A threaded v2 cgroup has threads only.
        Err(Errno::OPNOTSUPP) => file::read(&dir.join("cgroup.threads"))?,
        other => other?,
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Pids in `dir` and below; sub-cgroups that vanish meanwhile are no error.
pub(super) fn processes_below(dir: &Path) -> Result<Vec<i32>> {
    let error = |errno| {
        file::error(
            format!("cannot read the processes of {}", dir.display()),
            errno,
        )
    };
    let mut pids = match processes_in(dir) {
        // Opened in the moment of its removal.
        Err(Errno::NODEV) => return Err(error(Errno::NOENT)),
        other => other.map_err(error)?,
    };
    for sub in descendants(dir)? {
        match processes_in(&sub) {
            Ok(more) => pids.extend(more),
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(error(errno)),
        }
    }
    Ok(pids)
}

/// All sub-cgroups, parents before children. `st_nlink` tells cheaply when there are none.
pub(super) fn descendants(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if rustix::fs::stat(dir).is_ok_and(|stat| stat.st_nlink == 2) {
        return Ok(found);
    }
    let mut todo = vec![dir.to_owned()];
    while let Some(current) = todo.pop() {
        match file::children(&current) {
            Ok(children) => {
                todo.extend(children.iter().cloned());
                found.extend(children);
            }
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => {
                return Err(file::error(
                    format!("cannot list {}", current.display()),
                    errno,
                ));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_cgroup_arguments() {
        let parse = |args: &[&str]| {
            parse_subs(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
                .map_err(|e| e.chain().to_string())
        };
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse(&[]).unwrap(), []);
        assert_eq!(parse(&["a"]).unwrap(), [(vec![], "a".to_owned())]);
        assert_eq!(
            parse(&["memory:m", "cpu,cpuacct:c"]).unwrap(),
            [
                (owned(&["memory"]), "m".to_owned()),
                (owned(&["cpu", "cpuacct"]), "c".to_owned())
            ]
        );
        for (args, text) in [
            (vec!["a", "b"], "(missing <controller>: prefix)"),
            (vec![":x"], "(empty <controller> prefix)"),
            (vec!["cpu,cpu:x"], "controller cpu specified multiple times"),
            (
                vec!["cpu:x", "cpu:y"],
                "controller cpu specified multiple times",
            ),
        ] {
            assert!(parse(&args).unwrap_err().contains(text), "{args:?}");
        }
    }
}
