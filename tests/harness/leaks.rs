//! What a test may not leave: mounts, processes, cgroups, state, files where others look.

use super::{Env, cgroup, process, stage};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Directories of the host in which a runtime might leave something named after a container.
const PLACES: [&str; 5] = ["/run", "/tmp", "/dev/shm", "/var/run", "/run/runc"];

/// How long the kernel may take to finish what was killed.
const GRACE: Duration = Duration::from_secs(3);

/// What existed before the test.
#[derive(Debug)]
pub(crate) struct Snapshot {
    mounts: BTreeSet<String>,
    places: BTreeSet<String>,
    host: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn take(env: &Env) -> Self {
        Self {
            mounts: mounts(),
            places: places(env),
            host: host(),
        }
    }

    /// One line for everything that is there now and was not before.
    pub(crate) fn leaked(&self, env: &Env) -> Vec<String> {
        let deadline = Instant::now() + GRACE;
        loop {
            let found = self.leaked_now(env);
            if found.is_empty() || Instant::now() > deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The same without patience.
    pub(crate) fn leaked_now(&self, env: &Env) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(
            mounts()
                .difference(&self.mounts)
                .map(|m| format!("mount: {m}")),
        );
        found.extend(
            self.mounts
                .difference(&mounts())
                // The kernel unmounts here what others mounted and then removed the place of.
                .filter(|m| m.split(' ').nth(1).is_none_or(|at| Path::new(at).exists()))
                .map(|m| format!("mount gone: {m}")),
        );
        let own = i32::try_from(std::process::id()).unwrap();
        for (pid, state, what) in process::all() {
            if pid != 1 && pid != own && stage::is_of_the_test(pid) {
                found.push(format!("process: {pid} {state} {what}"));
            }
        }
        found.extend(
            cgroup::children(&env.tag)
                .into_iter()
                .map(|c| format!("cgroup: {}", c.display())),
        );
        // The server of the CRI has directories of its own, which stay, empty.
        for below in ["pods", "run", "run/.monitors"] {
            let _ = std::fs::remove_dir(env.rt.root.join(".cri").join(below));
        }
        let _ = std::fs::remove_dir_all(env.rt.root.join(".cri/network"));
        for below in ["consoles", "pods", "run", ""] {
            let _ = std::fs::remove_dir(env.rt.root.join(".cri").join(below));
        }
        // So has the bridge of people's containers: what it was made with, and nobody who is connected.
        let bridge = env.rt.root.join(".network");
        let connected = entries(&bridge).filter(|name| name.contains(','));
        found.extend(connected.map(|name| format!("connected: {name}")));
        let _ = std::fs::remove_dir_all(&bridge);
        // The lock of ports is a directory, which stays; claims in it do not.
        let _ = std::fs::remove_dir(env.rt.root.join(".ports"));
        let state = entries(&env.rt.root).filter(|e| !e.contains("/.user-namespace-"));
        found.extend(state.map(|e| format!("state: {e}")));
        // What a process of the store left that nobody would go on with.
        for place in ["leases", "layers/incoming", "trash"] {
            let place = env.path("store").join(place);
            let left = entries(&place);
            found.extend(left.map(|e| format!("store: {e}")));
        }
        found.extend(
            places(env)
                .difference(&self.places)
                .map(|p| format!("file: {p}")),
        );
        found.extend(
            host()
                .difference(&self.host)
                .map(|what| format!("host: {what}")),
        );
        found
    }
}

/// What no container may change: the owner of shared devices, settings of the kernel, the caller's own place.
fn host() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx",
    ] {
        if let Ok(data) = fs::metadata(format!("/dev/{name}")) {
            found.insert(format!(
                "/dev/{name} {:o} {}:{}",
                data.mode(),
                data.uid(),
                data.gid()
            ));
        }
    }
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/self/cgroup",
    ] {
        found.insert(format!(
            "{path} {}",
            fs::read_to_string(path).unwrap_or_default()
        ));
    }
    found
}

/// Mount points with type and source; ids and peer groups differ from run to run, and options of file
/// systems are not of a mount: others may change them.
fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").unwrap_or((line, ""));
            let left = left
                .split(' ')
                .skip(3)
                .take(3)
                .collect::<Vec<_>>()
                .join(" ");
            let right: Vec<&str> = right.split(' ').take(2).collect();
            format!("{left} {}", right.join(" "))
        })
        .collect()
}

/// Whatever carries this test's tag in the shared places.
fn places(env: &Env) -> BTreeSet<String> {
    PLACES
        .iter()
        .flat_map(|place| entries(Path::new(place)))
        .filter(|e| e.contains(&env.tag))
        .collect()
}

fn entries(dir: &Path) -> impl Iterator<Item = String> {
    let dir = fs::read_dir(dir).into_iter().flatten().flatten();
    dir.map(|entry| entry.path().to_string_lossy().into_owned())
}
