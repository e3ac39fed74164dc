//! The cgroup hierarchies of this machine, as seen by the host: finding, reading, and cleaning up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Mount points of all hierarchies, v1 and v2, with the super block options that name v1 controllers.
fn hierarchies() -> Vec<(PathBuf, String, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<(PathBuf, String, String)> = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        let options = right.nth(1).unwrap_or_default();
        if kind.starts_with("cgroup") && left.split(' ').nth(3) == Some("/") {
            let point = PathBuf::from(left.split(' ').nth(4).unwrap_or_default());
            found.push((point, kind.to_owned(), options.to_owned()));
        }
    }
    found
}

/// Removes what holds the cgroups of containers that asked for no parent, where it is empty; one that
/// still holds some is kept by the kernel.
pub(crate) fn remove_default_parent() {
    for (point, ..) in hierarchies() {
        let _ = fs::remove_dir(point.join("rcrun"));
    }
}

/// Some mounted hierarchy.
pub(crate) fn any() -> Option<PathBuf> {
    hierarchies().into_iter().next().map(|(point, ..)| point)
}

/// Where a v1 controller is mounted.
pub(crate) fn v1(controller: &str) -> Option<PathBuf> {
    hierarchies()
        .into_iter()
        .find(|(_, kind, options)| kind == "cgroup" && options.split(',').any(|o| o == controller))
        .map(|(point, ..)| point)
}

/// The cgroup of this container in a v1 hierarchy.
#[track_caller]
pub(crate) fn path(controller: &str, tag: &str, id: &str) -> PathBuf {
    v1(controller)
        .unwrap_or_else(|| panic!("no v1 {controller}"))
        .join(tag)
        .join(id)
}

/// A value of this container's cgroup.
#[track_caller]
pub(crate) fn value(controller: &str, tag: &str, id: &str, file: &str) -> String {
    let path = path(controller, tag, id).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim_end().to_owned()
}

/// The cgroup of a process in a v1 hierarchy, as the process's own file says.
pub(crate) fn of_process(pid: i32, controller: &str) -> Option<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?;
        names
            .split(',')
            .any(|n| n == controller)
            .then(|| fields.next().unwrap_or_default().to_owned())
    })
}

/// Where cgroups of tests may be: at the top of each hierarchy, and those of relative paths below our own.
fn places() -> Vec<PathBuf> {
    let own = |controller: &str| of_process(std::process::id().cast_signed(), controller);
    let mut found = Vec::new();
    for (point, kind, options) in hierarchies() {
        let below = match kind.as_str() {
            "cgroup2" => own(""),
            _ => options.split(',').find_map(own),
        };
        let below = below.unwrap_or_default();
        match below.trim_start_matches('/') {
            "" => {}
            path => found.push(point.join(path)),
        }
        found.push(point);
    }
    found
}

/// Every cgroup that a test's containers could have left: below `TAG` in one of the places, or named after it.
pub(crate) fn children(tag: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in places() {
        for dir in tagged(&place, tag) {
            let whole = dir.file_name().is_some_and(|n| n != tag);
            if whole {
                found.push(dir.clone());
            }
            collect(&dir, &mut found);
        }
    }
    found
}

/// Removes those that are empty: a kubelet makes and removes the cgroups of pods.
pub(crate) fn remove_empty_children(tag: &str) {
    // Parents come before their children.
    for child in children(tag).into_iter().rev() {
        let _ = fs::remove_dir(child);
    }
}

fn tagged(place: &Path, tag: &str) -> Vec<PathBuf> {
    let dir = fs::read_dir(place).into_iter().flatten().flatten();
    let named = dir.filter(|e| {
        let name = e.file_name().to_string_lossy().into_owned();
        name == tag || name.starts_with(&format!("{tag}-"))
    });
    named.map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            into.push(entry.path());
            collect(&entry.path(), into);
        }
    }
}

/// Removes what a runner that was killed has left: its cgroups are named after its pid.
pub(crate) fn remove_stale() {
    for place in places() {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name
                .strip_prefix("rt")
                .and_then(|rest| rest.split('-').next());
            let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else {
                continue;
            };
            if !Path::new(&format!("/proc/{pid}")).exists() {
                remove(&name);
            }
        }
    }
}

/// Lets frozen processes of a test go on, so that they can die.
pub(crate) fn thaw(tag: &str) {
    for dir in children(tag) {
        let _ = fs::write(dir.join("freezer.state"), "THAWED");
        let _ = fs::write(dir.join("cgroup.freeze"), "0");
    }
}

/// Removes all cgroups of a test; what cannot be removed within two seconds is returned.
pub(crate) fn remove(tag: &str) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let mut all = children(tag);
        all.extend(places().iter().flat_map(|place| tagged(place, tag)));
        all.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
        all.retain(|dir| fs::remove_dir(dir).is_err() && dir.exists());
        if all.is_empty() || Instant::now() > deadline {
            return all;
        }
        thaw(tag);
        std::thread::sleep(Duration::from_millis(20));
    }
}
