//! The cgroup layer against this machine's kernel: needs root and a writable cgroup file system,
//! and says so where it cannot run. Each test has a cgroup of its own and removes it.

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
fn limits_are_set() {
    let json = r#"{"cpu":{"shares":2048,"quota":50000,"period":100000},
        "memory":{"limit":67108864,"reservation":33554432},"pids":{"limit":0}}"#;
    let cpus = r#"{"cpu":{"cpus":"0","mems":"0"}}"#;
    let Some(f) = Fixture::with("limits", cpus) else {
        return;
    };
    f.cgroup.create().unwrap();
    f.cgroup
        .apply(&serde_json::from_str(json).unwrap(), Select::ALL)
        .unwrap();
    match f
        .cgroup
        .apply(&serde_json::from_str(cpus).unwrap(), Select::ALL)
    {
        Ok(()) => assert_eq!(f.value("cpuset", "cpuset.cpus"), "0"),
        Err(error) => {
            let text = error.chain().to_string();
            assert!(
                f.v2() && text.contains("controller \"cpuset\" is not available"),
                "{text}"
            );
        }
    }
    let rows: &[(&str, &str, &str)] = if f.v2() {
        &[
            ("cpu", "cpu.weight", "174"),
            ("cpu", "cpu.max", "50000 100000"),
            ("memory", "memory.max", "67108864"),
            ("memory", "memory.low", "33554432"),
            ("pids", "pids.max", "1"),
        ]
    } else {
        &[
            ("cpu", "cpu.shares", "2048"),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("memory", "memory.soft_limit_in_bytes", "33554432"),
            ("pids", "pids.max", "1"),
        ]
    };
    for (controller, file, want) in rows {
        assert_eq!(f.value(controller, file), *want, "{file}");
    }
}

#[test]
fn memory_limits_go_up_and_down_in_any_order() {
    let Some(f) = Fixture::new("memory") else {
        return;
    };
    f.cgroup.create().unwrap();
    if f.v2()
        || !f.cgroup.paths["memory"]
            .join("memory.memsw.limit_in_bytes")
            .exists()
    {
        println!("skipped: no combined limit of memory and swap here");
        return;
    }
    for (limit, swap) in [(8, 16), (32, 64), (4, 4), (128, 128), (-1, -1), (16, 32)] {
        let bytes = |mib: i64| if mib < 0 { -1 } else { mib << 20 };
        let json = format!(
            r#"{{"memory":{{"limit":{},"swap":{}}}}}"#,
            bytes(limit),
            bytes(swap)
        );
        f.cgroup
            .apply(&serde_json::from_str(&json).unwrap(), Select::MEMORY)
            .unwrap();
        if limit > 0 {
            assert_eq!(
                f.value("memory", "memory.limit_in_bytes"),
                bytes(limit).to_string()
            );
            assert_eq!(
                f.value("memory", "memory.memsw.limit_in_bytes"),
                bytes(swap).to_string()
            );
        }
    }
}

#[test]
fn devices_v1_are_those_of_the_rules() {
    let json = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#;
    let Some(f) = Fixture::with("devices", json) else {
        return;
    };
    if f.v2() {
        println!("skipped: v1 only");
        return;
    }
    f.cgroup.create().unwrap();
    let resources = serde_json::from_str(json).unwrap();
    f.cgroup.apply(&resources, Select::ALL).unwrap();
    let list = f.value("devices", "devices.list");
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    let mut want = vec![
        "b *:* m",
        "c *:* m",
        "c 10:200 rwm",
        "c 10:229 rw",
        "c 136:* rwm",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
    ];
    want.sort_unstable();
    assert_eq!(lines, want);
    // With a sub-cgroup the kernel refuses to reset: then only the difference is written.
    let sub = f.cgroup.paths["devices"].join("sub");
    std::fs::create_dir(&sub).unwrap();
    f.cgroup
        .apply(&LinuxResources::default(), Select::ALL)
        .unwrap();
    assert!(!f.value("devices", "devices.list").contains("10:229"));
    std::fs::remove_dir(sub).unwrap();
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
    let Some(f) = Fixture::with("bomb", r#"{"pids":{"limit":200}}"#) else {
        return;
    };
    f.cgroup.create().unwrap();
    let limit = serde_json::from_str(r#"{"pids":{"limit":200}}"#).unwrap();
    f.cgroup.apply(&limit, Select::ALL).unwrap();
    // Never gives up: a failed fork is tried again by all that are there.
    let mut child = f.spawn("exec perl -e 'fork while 1'");
    wait_for("the bomb to go off", || {
        f.cgroup.processes().unwrap().len() > 20
    });
    f.cgroup.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
    f.cgroup.remove().unwrap();
    assert!(!f.cgroup.exists());
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
fn update_sets_back_what_it_did_when_it_fails() {
    let json = r#"{"pids":{"limit":20},"memory":{"limit":67108864}}"#;
    let Some(f) = Fixture::with("update", json) else {
        return;
    };
    f.cgroup.create().unwrap();
    let old: LinuxResources = serde_json::from_str(json).unwrap();
    f.cgroup.apply(&old, Select::ALL).unwrap();
    let parse = |json: &str| serde_json::from_str::<LinuxResources>(json).unwrap();
    let merged = f
        .cgroup
        .update(&old, &parse(r#"{"pids":{"limit":30}}"#))
        .unwrap();
    assert_eq!(f.value("pids", "pids.max"), "30");
    assert_eq!(merged.memory().unwrap().limit(), Some(67_108_864));
    let bad = parse(r#"{"pids":{"limit":40},"cpu":{"cpus":"9999"}}"#);
    f.cgroup.update(&merged, &bad).unwrap_err();
    assert_eq!(f.value("pids", "pids.max"), "30");
    // A limit below what is used is refused when that is asked for.
    let mut child = f.spawn("exec perl -e '$x = \"x\" x (8 << 20); sleep 1000'");
    wait_for("memory to be used", || {
        f.cgroup.stats().unwrap().memory.usage.usage > 4 << 20
    });
    let low = parse(r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#);
    let error = f
        .cgroup
        .update(&merged, &low)
        .unwrap_err()
        .chain()
        .to_string();
    assert!(
        error.contains("rejecting memory limit 4096 <= usage"),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn stats_show_what_was_used() {
    let json = r#"{"pids":{"limit":77},"memory":{"limit":134217728}}"#;
    let Some(f) = Fixture::with("stats", json) else {
        return;
    };
    f.cgroup.create().unwrap();
    f.cgroup
        .apply(&serde_json::from_str(json).unwrap(), Select::ALL)
        .unwrap();
    let mut child = f.spawn("exec perl -e '$x = \"x\" x (1 << 20); 1 while 1'");
    wait_for("some processor time", || {
        f.cgroup.stats().unwrap().cpu.usage.total > 20_000_000
    });
    wait_for("a tick of it", || {
        f.cgroup.stats().unwrap().cpu.usage.user > 0
    });
    let stats = f.cgroup.stats().unwrap();
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 77));
    assert_eq!(stats.memory.usage.limit, 134_217_728);
    assert!(stats.memory.usage.usage > 0 && stats.memory.usage.usage < 134_217_728);
    assert!(!stats.memory.raw.is_empty());
    if f.v2() {
        let pressure = f.cgroup.unified().unwrap().join("cpu.pressure");
        assert_eq!(stats.cpu.psi.is_some(), pressure.exists());
    } else {
        assert!(!stats.cpuset.cpus.is_empty());
        assert_eq!(
            stats.cpu.usage.percpu.len(),
            stats.cpu.usage.percpu_user.len()
        );
    }
    f.cgroup.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
    f.cgroup.remove().unwrap();
    assert!(f.cgroup.stats().is_err());
}

#[test]
fn oom_is_noticed() {
    let json = r#"{"memory":{"limit":16777216,"swap":16777216}}"#;
    let Some(f) = Fixture::with("oom", json) else {
        return;
    };
    f.cgroup.create().unwrap();
    f.cgroup
        .apply(&serde_json::from_str(json).unwrap(), Select::ALL)
        .unwrap();
    let mut child = f.spawn("perl -e '$x = \"x\" x (64 << 20)' || :; sleep 1000");
    let mut watch = f.cgroup.oom_watch().unwrap();
    wait_for("the kill", || {
        watch.next().unwrap() == Some(super::oom::Event::Oom)
    });
    assert!(f.cgroup.oom_kills().unwrap() > 0);
    f.cgroup.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
    f.cgroup.remove().unwrap();
    wait_for("the end", || {
        watch.next().unwrap() == Some(super::oom::Event::Gone)
    });
}

/// The systemd driver against the running systemd.
struct Scope(Cgroup, Option<Child>);

impl Scope {
    fn start(name: &str, json: &str) -> Option<Self> {
        let parsed = serde_json::from_str(json).unwrap();
        let annotations = HashMap::from([(
            "org.systemd.property.TimeoutStopSec".to_owned(),
            "uint64 7".to_owned(),
        )]);
        let path = format!("machine.slice:rcrun-unit:{name}-{}", std::process::id());
        let cgroup = Cgroup::resolve(&Request {
            id: name,
            cgroups_path: Some(Path::new(&path)),
            driver: CgroupDriver::Systemd,
            resources: Some(&parsed),
            annotations: &annotations,
            rootless: !rustix::process::geteuid().is_root(),
        });
        let cgroup = match cgroup {
            Ok(cgroup) => cgroup,
            Err(error) => {
                println!("skipped: {}", error.chain());
                return None;
            }
        };
        // The process waits until the unit is there, then joins what systemd left to it.
        let mut child = Command::new("sh")
            .args([
                "-ec",
                "read files; for f in $files; do printf 0 > $f; done; exec sleep 1000",
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let prepared = cgroup.start_unit(pid, Some(&parsed)).unwrap();
        cgroup.apply(&parsed, Select::EARLY).unwrap();
        let own = std::process::id();
        let files: String = prepared
            .tasks
            .iter()
            .map(|fd| format!("/proc/{own}/fd/{} ", fd.as_raw_fd()))
            .collect();
        std::io::Write::write_all(
            child.stdin.as_mut().unwrap(),
            format!("{files}\n").as_bytes(),
        )
        .unwrap();
        let is_sleep =
            || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n";
        wait_for("the process to start", is_sleep);
        cgroup.apply(&parsed, Select::MEMORY).unwrap();
        Some(Self(cgroup, Some(child)))
    }

    fn property(&self, name: &str) -> String {
        let mut command = Command::new("systemctl");
        if !rustix::process::geteuid().is_root() {
            command.arg("--user");
        }
        let unit = &self.0.unit.as_ref().unwrap().name;
        let out = command
            .args(["show", "--value", "-p", name, unit])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let _ = self.0.remove();
        if let Some(mut child) = self.1.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_scope_of_systemd() {
    let json = r#"{"pids":{"limit":50},"memory":{"limit":67108864},
        "cpu":{"quota":50001,"period":100000}}"#;
    let Some(mut s) = Scope::start("scope", json) else {
        return;
    };
    let child = s.1.as_mut().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(s.0.processes().unwrap(), [pid]);
    let name = s.0.unit.clone().unwrap().name;
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(own.lines().all(|line| line.ends_with(&name)), "{own}");
    for (property, want) in [
        ("ActiveState", "active"),
        ("Slice", "machine.slice"),
        ("Delegate", "yes"),
        ("TimeoutStopUSec", "7s"),
        ("TasksMax", "50"),
        ("CPUQuotaPerSecUSec", "510ms"),
        ("DevicePolicy", "strict"),
    ] {
        assert_eq!(s.property(property), want, "{property}");
    }
    let unified = s.0.hierarchy == Hierarchy::Unified;
    assert_eq!(
        s.property(if unified { "MemoryMax" } else { "MemoryLimit" }),
        "67108864"
    );
    let read = |controller: &str, file: &str| {
        let path = s.0.controller(controller).unwrap().join(file);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    assert_eq!(read("pids", "pids.max"), "50");
    if unified {
        assert_eq!(read("cpu", "cpu.max"), "51000 100000");
        assert_eq!(read("memory", "memory.max"), "67108864");
    }
    let old = serde_json::from_str(json).unwrap();
    let new = serde_json::from_str(r#"{"pids":{"limit":60}}"#).unwrap();
    s.0.update(&old, &new).unwrap();
    assert_eq!(
        (
            s.property("TasksMax").as_str(),
            read("pids", "pids.max").as_str()
        ),
        ("60", "60")
    );
    // A second container is refused the same unit.
    let error = s.0.start_unit(pid, None).unwrap_err().chain().to_string();
    assert!(error.contains("container's cgroup is not empty"), "{error}");
    s.0.remove().unwrap();
    s.1.as_mut().unwrap().wait().unwrap();
    assert!(!s.0.exists());
    assert_eq!(s.property("ActiveState"), "inactive");
    s.0.remove().unwrap();
}

#[test]
fn a_scope_is_left_behind_by_nobody() {
    let Some(mut s) = Scope::start("left", "{}") else {
        return;
    };
    let mut child = s.1.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // systemd removes an empty scope by itself; then there is nothing to stop.
    wait_for("the scope to go", || !s.0.exists());
    s.0.remove().unwrap();
}

#[test]
fn devices_v2_are_those_of_the_rules() {
    let json = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
    let Some(f) = Fixture::with("devices2", json) else {
        return;
    };
    if !f.v2() {
        println!("skipped: v2 only");
        return;
    }
    f.cgroup.create().unwrap();
    let run = |script: &str| {
        let mut child = f.spawn(script);
        child.wait().unwrap().success()
    };
    // What is made beforehand can be opened as long as nothing forbids it.
    assert!(run(": < /dev/null; : < /dev/kmsg"));
    let strict = serde_json::from_str(json).unwrap();
    for _ in 0..2 {
        // The second time the program replaces the first.
        f.cgroup.apply(&strict, Select::ALL).unwrap();
        assert!(run(": < /dev/null"));
        assert!(!run(": < /dev/kmsg"));
    }
    let open = serde_json::from_str(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap();
    f.cgroup.apply(&open, Select::ALL).unwrap();
    assert!(run(": < /dev/kmsg"), "the former program must be gone");
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
