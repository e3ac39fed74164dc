//! The starter config.json that `rcrun spec` writes: byte for byte the layout and values that
//! tools written for runc expect, so that their edits with jq or sed keep working.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::VERSION;

const CAPABILITIES: &[&str] = &["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];

const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

const MOUNTS: &[Mount] = &[
    mount("/proc", "proc", "proc", &[]),
    mount(
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    mount(
        "/dev/pts",
        "devpts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    mount(
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
    mount(
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    ),
    mount(
        "/sys",
        "sysfs",
        "sysfs",
        &["nosuid", "noexec", "nodev", "ro"],
    ),
    mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    ),
];

/// Without privileges sysfs cannot be mounted, only passed on.
const ROOTLESS_SYS: Mount = mount(
    "/sys",
    "none",
    "/sys",
    &["rbind", "nosuid", "noexec", "nodev", "ro"],
);

#[derive(Serialize, Clone, Copy)]
struct Mount {
    destination: &'static str,
    r#type: &'static str,
    source: &'static str,
    #[serde(skip_serializing_if = "Options::is_empty")]
    options: Options,
}

#[derive(Clone, Copy)]
struct Options {
    all: &'static [&'static str],
    /// Leave out `uid=` and `gid=`: those identifiers are not mapped.
    without_ids: bool,
}

impl Options {
    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Serialize for Options {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = |option: &&&str| option.starts_with("uid=") || option.starts_with("gid=");
        serializer.collect_seq(
            self.all
                .iter()
                .filter(|option| !(self.without_ids && id(option))),
        )
    }
}

const fn mount(
    destination: &'static str,
    r#type: &'static str,
    source: &'static str,
    options: &'static [&'static str],
) -> Mount {
    Mount {
        destination,
        r#type,
        source,
        options: Options {
            all: options,
            without_ids: false,
        },
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    oci_version: &'static str,
    process: Process,
    root: Root,
    hostname: &'static str,
    mounts: Vec<Mount>,
    linux: Linux,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    terminal: bool,
    user: User,
    args: [&'static str; 1],
    env: [&'static str; 2],
    cwd: &'static str,
    capabilities: Capabilities,
    rlimits: [Rlimit; 1],
    no_new_privileges: bool,
}

#[derive(Serialize)]
struct User {
    uid: u32,
    gid: u32,
}

#[derive(Serialize)]
struct Capabilities {
    bounding: &'static [&'static str],
    effective: &'static [&'static str],
    permitted: &'static [&'static str],
}

#[derive(Serialize)]
struct Rlimit {
    r#type: &'static str,
    hard: u64,
    soft: u64,
}

#[derive(Serialize)]
struct Root {
    path: &'static str,
    readonly: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid_mappings: Option<[Mapping; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid_mappings: Option<[Mapping; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    namespaces: Vec<Namespace>,
    masked_paths: &'static [&'static str],
    readonly_paths: &'static [&'static str],
}

#[derive(Serialize)]
struct Mapping {
    #[serde(rename = "containerID")]
    container: u32,
    #[serde(rename = "hostID")]
    host: u32,
    size: u32,
}

#[derive(Serialize)]
struct Resources {
    devices: [DeviceRule; 1],
}

#[derive(Serialize)]
struct DeviceRule {
    allow: bool,
    access: &'static str,
}

#[derive(Serialize)]
struct Namespace {
    r#type: &'static str,
}

/// The configuration for a privileged caller; with cgroup v2 the container gets a cgroup namespace.
pub fn root(cgroup2: bool) -> String {
    write(&document(cgroup2))
}

/// The configuration for a caller without privileges, who is root in a user namespace.
pub fn rootless(cgroup2: bool, uid: u32, gid: u32) -> String {
    let mut document = document(cgroup2);
    document
        .linux
        .namespaces
        .retain(|namespace| namespace.r#type != "network");
    document.linux.namespaces.push(Namespace { r#type: "user" });
    let mapping = |host| {
        Some([Mapping {
            container: 0,
            host,
            size: 1,
        }])
    };
    document.linux.uid_mappings = mapping(uid);
    document.linux.gid_mappings = mapping(gid);
    document.linux.resources = None;
    for mount in &mut document.mounts {
        if mount.destination == "/sys" {
            *mount = ROOTLESS_SYS;
        }
        mount.options.without_ids = true;
    }
    write(&document)
}

fn document(cgroup2: bool) -> Document {
    let namespaces = ["pid", "network", "ipc", "uts", "mount"];
    let cgroup = cgroup2.then_some("cgroup");
    Document {
        oci_version: VERSION,
        process: Process {
            terminal: true,
            user: User { uid: 0, gid: 0 },
            args: ["sh"],
            env: [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            cwd: "/",
            capabilities: Capabilities {
                bounding: CAPABILITIES,
                effective: CAPABILITIES,
                permitted: CAPABILITIES,
            },
            rlimits: [Rlimit {
                r#type: "RLIMIT_NOFILE",
                hard: 1024,
                soft: 1024,
            }],
            no_new_privileges: true,
        },
        root: Root {
            path: "rootfs",
            readonly: true,
        },
        hostname: "runc",
        mounts: MOUNTS.to_vec(),
        linux: Linux {
            uid_mappings: None,
            gid_mappings: None,
            resources: Some(Resources {
                devices: [DeviceRule {
                    allow: false,
                    access: "rwm",
                }],
            }),
            namespaces: namespaces
                .into_iter()
                .chain(cgroup)
                .map(|r#type| Namespace { r#type })
                .collect(),
            masked_paths: MASKED_PATHS,
            readonly_paths: READONLY_PATHS,
        },
    }
}

fn write(document: &Document) -> String {
    let mut text = Vec::with_capacity(4096);
    let formatter = PrettyFormatter::with_indent(b"\t");
    document
        .serialize(&mut Serializer::with_formatter(&mut text, formatter))
        .expect("a document of strings and numbers can be written to memory");
    String::from_utf8(text).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::super::{load, types};
    use super::*;

    #[test]
    fn both_can_be_read_back() {
        for text in [
            root(false),
            root(true),
            rootless(false, 1000, 100),
            rootless(true, 0, 0),
        ] {
            let spec = load::spec(text.as_bytes()).unwrap().spec;
            assert_eq!(spec.version(), VERSION);
            assert_eq!(spec.hostname().as_deref(), Some("runc"));
            assert_eq!(spec.process().as_ref().unwrap().terminal(), Some(true));
        }
    }

    #[test]
    fn what_an_ordinary_user_may_not_do_is_left_out() {
        let spec = load::spec(rootless(true, 1000, 100).as_bytes())
            .unwrap()
            .spec;
        let linux = spec.linux().as_ref().unwrap();
        let namespaces: Vec<_> = linux
            .namespaces()
            .as_ref()
            .unwrap()
            .iter()
            .map(types::LinuxNamespace::typ)
            .collect();
        use types::LinuxNamespaceType as Type;
        assert_eq!(
            namespaces,
            [
                Type::Pid,
                Type::Ipc,
                Type::Uts,
                Type::Mount,
                Type::Cgroup,
                Type::User
            ]
        );
        assert!(linux.resources().is_none());
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1000);
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 100);
        let mounts = spec.mounts().as_ref().unwrap();
        assert!(
            mounts
                .iter()
                .flat_map(|m| m.options().iter().flatten())
                .all(|o| o != "gid=5")
        );
        assert_eq!(mounts[5].typ().as_deref(), Some("none"));
    }
}
