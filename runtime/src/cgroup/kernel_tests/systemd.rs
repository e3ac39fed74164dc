//! The systemd driver against the running systemd, as root or in a user's session.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::super::{Cgroup, Hierarchy, Request, Select};
use super::wait_for;
use crate::container::CgroupDriver;

/// A scope with one process.
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
