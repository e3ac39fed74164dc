//! The cgroup layer against this machine's kernel: needs root and a writable cgroup file system,
//! and says so where it cannot run. Each test has a cgroup of its own and removes it.

mod limits;
mod systemd;

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::process::Signal;

use super::{Cgroup, Hierarchy, Request, Select, hierarchy};
use crate::container::CgroupDriver;
use crate::error::ErrorKind;

/// A cgroup that is emptied and removed at the end of a test, also of a failed one.
struct Fixture {
    cgroup: Cgroup,
    parent: String,
}

impl Fixture {
    fn new(name: &str) -> Option<Self> {
        Self::with(name, "{}")
    }

    fn with(name: &str, resources: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/rcrun-unit-{}-{number}", std::process::id());
        let path = format!("{parent}/{name}");
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let cgroup = Cgroup::resolve(&Request {
            id: name,
            cgroups_path: Some(Path::new(&path)),
            driver: CgroupDriver::Files,
            resources: Some(&resources),
            annotations: &HashMap::new(),
            rootless: false,
        });
        match cgroup {
            Ok(cgroup) => Some(Self { cgroup, parent }),
            Err(error) => {
                println!("skipped: {}", error.chain());
                None
            }
        }
    }

    fn value(&self, controller: &str, file: &str) -> String {
        let path = self.cgroup.controller(controller).unwrap().join(file);
        std::fs::read_to_string(&path).unwrap().trim().to_owned()
    }

    fn v2(&self) -> bool {
        self.cgroup.hierarchy == Hierarchy::Unified
    }

    /// Runs a shell script inside; the shell moves itself as a container's init does.
    fn spawn(&self, script: &str) -> Child {
        let prepared = self.cgroup.exec_target(&[], 0).unwrap();
        let own = std::process::id();
        let mut join: String = prepared
            .tasks
            .iter()
            .map(|fd| format!("printf 0 > /proc/{own}/fd/{}; ", fd.as_raw_fd()))
            .collect();
        join.push_str("echo ready; read go; ");
        let mut child = Command::new("sh")
            .args(["-ec", &format!("{join} {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.cgroup.attach_unified(&prepared, pid).unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        child
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.cgroup.thaw();
        let _ = self.cgroup.kill(Signal::KILL);
        let _ = self.cgroup.remove();
        for dir in self.cgroup.dirs() {
            let parent = dir.parent().unwrap();
            if parent.ends_with(&self.parent[1..]) {
                let _ = std::fs::remove_dir(parent);
            }
        }
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn create_join_remove() {
    let Some(f) = Fixture::new("join") else {
        return;
    };
    let prepared = f.cgroup.create().unwrap();
    assert_eq!(
        prepared.tasks.len() + usize::from(prepared.unified.is_some()),
        f.cgroup.dirs().len()
    );
    drop(prepared);
    let mut child = f.spawn("exec sleep 1000");
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(f.cgroup.processes().unwrap(), [pid]);
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for mounted in &hierarchy::view().unwrap().mounted {
        let names = mounted.controllers.join(",");
        let line = own
            .lines()
            .find(|l| l.split(':').nth(1) == Some(&names))
            .unwrap();
        assert!(line.ends_with(&format!("{}/join", f.parent)), "{line}");
    }
    // A second container is refused the same cgroup, and harms nothing.
    let error = f.cgroup.create().unwrap_err().chain().to_string();
    assert!(
        error.contains("container's cgroup is not empty: 1 process(es) found"),
        "{error}"
    );
    assert_eq!(f.cgroup.processes().unwrap(), [pid]);
    child.kill().unwrap();
    child.wait().unwrap();
    f.cgroup.remove().unwrap();
    assert!(!f.cgroup.exists());
    f.cgroup.remove().unwrap();
}

#[test]
fn record_survives() {
    let Some(f) = Fixture::new("record") else {
        return;
    };
    let text = serde_json::to_string(&f.cgroup).unwrap();
    let again: Cgroup = serde_json::from_str(&text).unwrap();
    assert_eq!(again.paths, f.cgroup.paths);
    f.cgroup.create().unwrap();
    again.remove().unwrap();
    assert!(!f.cgroup.exists());
}

#[test]
fn failure_leaves_nothing() {
    let Some(mut f) = Fixture::new("undo") else {
        return;
    };
    // One hierarchy that cannot be made: below a control file.
    let last = f.cgroup.paths.keys().next_back().unwrap().clone();
    let good = f.cgroup.paths[&last].clone();
    let root = good.parent().unwrap().parent().unwrap().to_owned();
    f.cgroup
        .paths
        .insert(last.clone(), root.join("cgroup.procs/x/y"));
    assert!(f.cgroup.create().is_err());
    let dirs: Vec<PathBuf> = f.cgroup.dirs().iter().map(|d| d.to_path_buf()).collect();
    for dir in dirs {
        assert!(
            !dir.exists() && !dir.parent().unwrap().exists(),
            "{} is left",
            dir.display()
        );
    }
    f.cgroup.paths.insert(last, good);
}

#[test]
fn frozen_cgroup_is_refused() {
    let Some(f) = Fixture::new("frozen") else {
        return;
    };
    f.cgroup.create().unwrap();
    f.cgroup.freeze().unwrap();
    assert!(f.cgroup.is_frozen().unwrap());
    let error = f.cgroup.create().unwrap_err().chain().to_string();
    assert!(
        error.contains("container's cgroup unexpectedly frozen"),
        "{error}"
    );
    f.cgroup.thaw().unwrap();
    assert!(!f.cgroup.is_frozen().unwrap());
    f.cgroup.create().unwrap();
}

#[test]
fn freeze_stops_and_thaw_resumes() {
    let Some(f) = Fixture::new("freeze") else {
        return;
    };
    f.cgroup.create().unwrap();
    let mut child = f.spawn("while :; do :; done");
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap()
    };
    wait_for("the process to run", || ticks() > 0);
    f.cgroup.freeze().unwrap();
    let before = ticks();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ticks(), before, "a frozen process ran");
    f.cgroup.thaw().unwrap();
    wait_for("the process to go on", || ticks() > before);
    f.cgroup.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn kill_reaches_sub_cgroups_and_frozen_ones() {
    let Some(f) = Fixture::new("subs") else {
        return;
    };
    f.cgroup.create().unwrap();
    let mut child = f.spawn("sleep 1000 & sleep 1000 & wait");
    wait_for("three processes", || {
        f.cgroup.processes().unwrap().len() == 3
    });
    let pids = f.cgroup.processes().unwrap();
    let dirs =
        ["freezer", "devices", "memory"].map(|c| f.cgroup.controller(c).unwrap().join("a/b"));
    for dir in &dirs {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), pids[1].to_string()).unwrap();
    }
    assert_eq!(f.cgroup.processes().unwrap().len(), 3, "sub-cgroups count");
    let name = if f.v2() {
        ("cgroup.freeze", "1")
    } else {
        ("freezer.state", "FROZEN")
    };
    std::fs::write(dirs[0].join(name.0), name.1).unwrap();
    f.cgroup.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
    wait_for("all processes to go", || {
        f.cgroup.processes().unwrap().is_empty()
    });
    f.cgroup.remove().unwrap();
    assert!(!f.cgroup.exists());
}

#[test]
fn a_fork_bomb_cannot_outrun_kill() {
    // By cgroup.kill; on v1 also by freezing, and by the limit of processes alone.
    for hidden in [&[][..], &[""], &["", "freezer"]] {
        let Some(f) = Fixture::with("bomb", r#"{"pids":{"limit":200}}"#) else {
            return;
        };
        if f.v2() && !hidden.is_empty() {
            return;
        }
        f.cgroup.create().unwrap();
        let limit = serde_json::from_str(r#"{"pids":{"limit":200}}"#).unwrap();
        f.cgroup.apply(&limit, Select::ALL).unwrap();
        // Never gives up: a failed fork is tried again by all that are there.
        let mut child = f.spawn("exec perl -e 'fork while 1'");
        wait_for("the bomb to go off", || {
            f.cgroup.processes().unwrap().len() > 100
        });
        let mut poorer = f.cgroup.clone();
        poorer
            .paths
            .retain(|name, _| !hidden.contains(&name.as_str()));
        poorer.kill(Signal::KILL).unwrap();
        child.wait().unwrap();
        f.cgroup.remove().unwrap();
        assert!(!f.cgroup.exists());
    }
}

#[test]
fn exec_joins_sub_cgroups() {
    let Some(f) = Fixture::new("exec") else {
        return;
    };
    f.cgroup.create().unwrap();
    let target = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        f.cgroup
            .exec_target(&args, 0)
            .map_err(|e| e.chain().to_string())
    };
    assert!(
        target(&[".."])
            .unwrap_err()
            .contains("bad sub cgroup path: ..")
    );
    let error = target(&["nonexistent"]).unwrap_err();
    assert!(
        error.contains("cgroup") && error.contains("no such file or directory"),
        "{error}"
    );
    assert!(
        target(&["whaaat:/"])
            .unwrap_err()
            .contains("unknown controller whaaat")
    );
    target(&["/"]).unwrap();
    if !f.v2() {
        let error = target(&["cpu:nonexistent"]).unwrap_err();
        assert!(
            error.contains(" adding pid ") && error.contains("no such file"),
            "{error}"
        );
        std::fs::create_dir(f.cgroup.paths["memory"].join("m")).unwrap();
        let prepared = target(&["memory:m"]).unwrap();
        let names: Vec<_> = prepared
            .tasks
            .iter()
            .map(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap())
            .collect();
        assert!(
            names.contains(&f.cgroup.paths["memory"].join("m/tasks")),
            "{names:?}"
        );
        assert!(
            names.contains(&f.cgroup.paths["pids"].join("tasks")),
            "{names:?}"
        );
    }
}

#[test]
fn rootless_goes_without_only_where_nothing_was_asked_for() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let request = |resources, path| {
        Cgroup::resolve(&Request {
            id: "rootless",
            cgroups_path: path,
            driver: CgroupDriver::Files,
            resources,
            annotations: &HashMap::new(),
            rootless: true,
        })
        .unwrap()
    };
    // No rights: directories on a file system where nobody may make any.
    let without_rights = |mut cgroup: Cgroup| {
        for dir in cgroup.paths.values_mut() {
            *dir = PathBuf::from("/proc/1/rcrun-no-such-right");
        }
        cgroup
    };
    let limit = serde_json::from_str(r#"{"pids":{"limit":5}}"#).unwrap();
    let cgroup = without_rights(request(None, None));
    let prepared = cgroup.create().unwrap();
    assert_eq!(
        (prepared.tasks.len(), prepared.skipped.len()),
        (0, cgroup.dirs().len())
    );
    let cgroup = without_rights(request(Some(&limit), None));
    let error = cgroup
        .create()
        .and_then(|_| cgroup.apply(&limit, Select::ALL))
        .unwrap_err();
    let error = error.chain().to_string();
    assert!(
        error.contains("cannot set pids limit: container could not join or create cgroup")
            || error.contains("rootless needs no limits + no cgrouppath"),
        "{error}"
    );
    let cgroup = without_rights(request(None, Some(Path::new("/x"))));
    let error = cgroup.create().unwrap_err().chain().to_string();
    assert!(
        error.contains("unable to apply cgroup configuration"),
        "{error}"
    );
    cgroup.remove().unwrap();
}

#[test]
fn a_delegated_cgroup_belongs_to_the_user() {
    use std::os::unix::fs::MetadataExt;
    let Some(f) = Fixture::new("delegate") else {
        return;
    };
    f.cgroup.create().unwrap();
    f.cgroup.delegate(4242).unwrap();
    if !f.v2() {
        println!("skipped: v2 only");
        return;
    }
    let owner = |name: &str| {
        f.cgroup
            .unified()
            .unwrap()
            .join(name)
            .metadata()
            .unwrap()
            .uid()
    };
    assert_eq!(
        (owner(""), owner("cgroup.procs"), owner("cgroup.freeze")),
        (4242, 4242, 0)
    );
}

/// As systemd does with a scope whose last process has gone.
#[test]
fn a_cgroup_that_somebody_removes_meanwhile() {
    use std::sync::atomic::AtomicBool;
    let Some(f) = Fixture::new("vanishes") else {
        return;
    };
    let mut cgroup = f.cgroup.clone();
    cgroup.hierarchy = Hierarchy::Unified;
    cgroup.paths.retain(|name, _| name.is_empty());
    let Some(dir) = cgroup.unified().map(Path::to_owned) else {
        println!("skipped: no cgroup2 here");
        return;
    };
    std::fs::create_dir_all(&dir).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = std::fs::remove_dir(&dir);
                let _ = std::fs::create_dir(&dir);
            }
        });
        let until = Instant::now() + Duration::from_millis(500);
        let mut failed = Vec::new();
        while Instant::now() < until {
            failed.extend(cgroup.thaw().err());
            let killed = cgroup.kill(Signal::KILL).err();
            failed.extend(killed.filter(|error| error.kind() != ErrorKind::NotFound));
        }
        done.store(true, Ordering::Relaxed);
        let failed: Vec<_> = failed.iter().map(|e| e.chain().to_string()).collect();
        assert_eq!(failed, [""; 0]);
    });
    let _ = std::fs::remove_dir(&dir);
    let _ = std::fs::remove_dir(dir.parent().unwrap());
}
