//! What this build supports, as `rcrun features` prints it (runtime-spec, features.md).
//!
//! The lists are promises: an entry stands here only when the runtime acts on it. Engines read
//! them to decide what to put into config.json.

use std::collections::BTreeMap;

use serde::Serialize;

use super::VERSION;

/// The document; field order is that of the specification.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: &'static [&'static str],
    mount_options: Vec<&'static str>,
    linux: Linux,
    annotations: BTreeMap<&'static str, String>,
    potentially_unsafe_config_annotations: &'static [&'static str],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: &'static [&'static str],
    capabilities: &'static [&'static str],
    cgroup: Cgroup,
    seccomp: Seccomp,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: IntelRdt,
    memory_policy: MemoryPolicy,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: &'static [&'static str],
    operators: &'static [&'static str],
    archs: &'static [&'static str],
    known_flags: &'static [&'static str],
    supported_flags: &'static [&'static str],
}

#[derive(Debug, Serialize)]
struct Enabled {
    enabled: bool,
}

#[derive(Debug, Serialize)]
struct IntelRdt {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Debug, Serialize)]
struct MemoryPolicy {
    modes: &'static [&'static str],
    flags: &'static [&'static str],
}

#[derive(Debug, Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

const HOOKS: &[&str] = &[
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

const NAMESPACES: &[&str] = &[
    "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
];

/// Options of mount(8) that become flags of one mount; each exists plain, and some recursively.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Whether `option` is about the mount itself; anything else is data for the file system.
pub(crate) fn is_mount_option(option: &str) -> bool {
    MOUNT_OPTIONS.binary_search(&option).is_ok()
}

/// All of capabilities(7), by number, as in linux/capability.h.
pub const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const SECCOMP: Seccomp = Seccomp {
    enabled: true,
    actions: &crate::seccomp::ACTIONS,
    operators: &crate::seccomp::OPERATORS,
    archs: &crate::seccomp::ARCHITECTURES,
    known_flags: FLAGS,
    supported_flags: FLAGS,
};

const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

const MEMORY_POLICY: MemoryPolicy = MemoryPolicy {
    modes: &[
        "MPOL_BIND",
        "MPOL_DEFAULT",
        "MPOL_INTERLEAVE",
        "MPOL_LOCAL",
        "MPOL_PREFERRED",
        "MPOL_PREFERRED_MANY",
        "MPOL_WEIGHTED_INTERLEAVE",
    ],
    flags: &[
        "MPOL_F_NUMA_BALANCING",
        "MPOL_F_RELATIVE_NODES",
        "MPOL_F_STATIC_NODES",
    ],
};

/// The features of the release `version`, built from `commit`.
pub fn features(version: &str, commit: &str) -> Features {
    const ON: Enabled = Enabled { enabled: true };
    let checkpoint = crate::checkpoint::SUPPORTED.to_string();
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: VERSION,
        hooks: HOOKS,
        mount_options: MOUNT_OPTIONS.to_vec(),
        linux: Linux {
            namespaces: NAMESPACES,
            capabilities: CAPABILITIES,
            cgroup: Cgroup {
                v1: true,
                v2: true,
                systemd: true,
                systemd_user: true,
                rdma: true,
            },
            seccomp: SECCOMP,
            apparmor: ON,
            selinux: ON,
            intel_rdt: IntelRdt {
                enabled: true,
                schemata: true,
                monitoring: true,
            },
            memory_policy: MEMORY_POLICY,
            mount_extensions: MountExtensions { idmap: ON },
            net_devices: ON,
        },
        annotations: BTreeMap::from([
            ("io.rcrun.checkpoint.enabled", checkpoint.clone()),
            ("io.rcrun.commit", commit.to_owned()),
            ("io.rcrun.version", version.to_owned()),
            // Engines look for this one to know whether checkpointing can work.
            ("org.opencontainers.runc.checkpoint.enabled", checkpoint),
        ]),
        potentially_unsafe_config_annotations: &[
            "bundle",
            "org.systemd.property.",
            "org.criu.config",
            "run.oci.hooks.",
            "run.oci.keep_original_groups",
            "run.oci.mount_context_type",
            "run.oci.seccomp_fail_unknown_syscall",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::super::types;
    use super::*;

    #[test]
    fn the_document_is_what_the_specification_describes() {
        let text = serde_json::to_string(&features("0.1.0", "abc")).unwrap();
        let read: types::Features = serde_json::from_str(&text).unwrap();
        assert_eq!(read.oci_version_max(), "1.3.0");
        let linux = read.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 8);
        assert_eq!(
            linux
                .seccomp()
                .as_ref()
                .unwrap()
                .actions()
                .as_ref()
                .unwrap()
                .len(),
            9
        );
        assert_eq!(
            read.annotations().as_ref().unwrap()["io.rcrun.commit"],
            "abc"
        );
    }

    #[test]
    fn lists_are_sorted_and_without_duplicates() {
        let sorted = |list: &[&str]| list.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(sorted(MOUNT_OPTIONS));
        assert!(sorted(NAMESPACES));
        assert!(sorted(SECCOMP.actions) && sorted(SECCOMP.operators) && sorted(SECCOMP.archs));
        assert_eq!(CAPABILITIES.len(), 41);
    }

    #[test]
    fn every_listed_capability_can_be_read_from_a_configuration() {
        for name in CAPABILITIES {
            let value = serde_json::Value::String((*name).to_owned());
            assert!(
                serde_json::from_value::<types::Capability>(value).is_ok(),
                "{name}"
            );
        }
    }
}
