//! One JSON object of everything that a container's spec can change about a process.

use super::raw;
use serde_json::{Map, Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;

pub(crate) fn all() -> Value {
    let name = rustix::system::uname();
    let stat = read("/proc/self/stat");
    let after: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    json!({
        "pid": std::process::id(),
        "session": after.get(3),
        "status": status(),
        "limits": limits(),
        "namespaces": namespaces(),
        "mounts": mounts(),
        "env": std::env::vars().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
        "args": std::env::args().collect::<Vec<_>>(),
        "cwd": std::env::current_dir().map(|p| p.to_string_lossy().into_owned()).unwrap_or_else(|e| e.to_string()),
        "fds": descriptors(),
        "oom_score_adj": read("/proc/self/oom_score_adj").trim(),
        "personality": read("/proc/self/personality").trim(),
        "cgroup": read("/proc/self/cgroup"),
        "uid_map": read("/proc/self/uid_map"),
        "gid_map": read("/proc/self/gid_map"),
        "setgroups": read("/proc/self/setgroups").trim(),
        "time_offsets": read("/proc/self/timens_offsets"),
        "hostname": name.nodename().to_string_lossy(),
        "domainname": name.domainname().to_string_lossy(),
        "scheduler": raw::scheduler(),
        "io_priority": raw::io_priority(),
        "memory_policy": raw::memory_policy(),
        "session_keyring": raw::session_keyring(),
        "session_keyring_label": raw::session_keyring_label(),
        "label": read("/proc/self/attr/current"),
        "terminal": terminal(),
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `/proc/self/status` as it is.
fn status() -> Map<String, Value> {
    let text = read("/proc/self/status");
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(key, value)| (key.to_owned(), json!(value.trim().replace('\t', " "))))
        .collect()
}

/// `/proc/self/limits`: name -> [soft, hard].
fn limits() -> Map<String, Value> {
    let text = read("/proc/self/limits");
    let lines = text.lines().skip(1).filter(|line| line.len() > 46);
    lines
        .map(|line| {
            let values: Vec<&str> = line[26..].split_whitespace().take(2).collect();
            (line[..26].trim().to_owned(), json!(values))
        })
        .collect()
}

fn namespaces() -> Map<String, Value> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let link = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).ok();
    kinds
        .iter()
        .filter_map(|kind| Some((kind.to_string(), json!(link(kind)?))))
        .collect()
}

fn mounts() -> Vec<Value> {
    let text = read("/proc/self/mountinfo");
    text.lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").unwrap_or((line, ""));
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            json!({
                "id": left[0], "parent": left[1], "device": left[2], "root": left[3], "target": left[4],
                "options": left[5], "optional": left[6..].join(" "),
                "type": right.first(), "source": right.get(1), "super": right.get(2),
            })
        })
        .collect()
}

/// Open descriptors and what they are, without the one that lists them.
fn descriptors() -> Map<String, Value> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Map::new();
    };
    let numbers: Vec<String> = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let link = |number: &String| fs::read_link(format!("/proc/self/fd/{number}")).ok();
    numbers
        .iter()
        .filter_map(|number| Some((number.clone(), json!(link(number)?))))
        .collect()
}

fn terminal() -> Value {
    let stdin = std::io::stdin();
    if !rustix::termios::isatty(&stdin) {
        return Value::Null;
    }
    let size = rustix::termios::tcgetwinsize(&stdin).ok();
    let name = rustix::termios::ttyname(&stdin, Vec::new()).ok();
    let data = fs::metadata("/proc/self/fd/0").ok();
    let modes = rustix::termios::tcgetattr(&stdin).ok();
    json!({
        "name": name.map(|n| n.to_string_lossy().into_owned()),
        "rows": size.map(|s| s.ws_row),
        "columns": size.map(|s| s.ws_col),
        "device": data.as_ref().map(MetadataExt::rdev),
        "uid": data.as_ref().map(MetadataExt::uid),
        "gid": data.as_ref().map(MetadataExt::gid),
        "mode": data.as_ref().map(|d| d.mode() & 0o7777),
        "onlcr": modes.map(|m| m.output_modes.contains(rustix::termios::OutputModes::ONLCR)),
    })
}
