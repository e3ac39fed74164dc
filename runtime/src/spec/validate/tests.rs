//! One row per rule: a change of the starter configuration, and what is said about it.

mod devices;
mod linux;
mod process;

use rustix::io::Errno;
use serde_json::{Value, json};

use super::{Facts, Problems, Rootfs, validate};
use crate::error::Error;
use crate::spec::{load, template};

const FACTS: Facts = Facts {
    rootfs: Rootfs::Usable,
    privileged: true,
    rootless_cgroups: false,
    no_pivot: false,
    cgroup2: true,
    selinux: false,
    rdt: false,
    rdt_cache: false,
    rdt_bandwidth: false,
    joins_own_network: false,
};

const ALL: [&str; 8] = [
    "pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time",
];

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(json!({})), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn judge_with(base: &str, patch: &Value, facts: &Facts) -> Result<Vec<String>, Problems> {
    let mut value: Value = serde_json::from_str(base).unwrap();
    merge(&mut value, patch);
    validate(
        &load::spec(value.to_string().as_bytes()).unwrap().spec,
        facts,
    )
}

fn judge(patch: &Value, facts: &Facts) -> Result<Vec<String>, Problems> {
    judge_with(&template::root(true), patch, facts)
}

fn namespaces(types: &[&str]) -> Value {
    types.iter().map(|r#type| json!({"type": r#type})).collect()
}

fn without(gone: &str) -> Value {
    let left: Vec<&str> = ["pid", "network", "ipc", "uts", "mount"]
        .into_iter()
        .filter(|t| *t != gone)
        .collect();
    namespaces(&left)
}

fn map(container: u32, host: u32, size: u32) -> Value {
    json!({"containerID": container, "hostID": host, "size": size})
}

/// Each row: a configuration that passes, one that does not, and the start of the only complaint.
fn rows(facts: &Facts, rows: &[(Value, Value, &str)]) {
    for (good, bad, complaint) in rows {
        assert_eq!(judge(good, facts).err(), None, "{good} should pass");
        let problems = judge(bad, facts).expect_err(&format!("{bad} should not pass"));
        assert!(
            problems.to_string().starts_with(complaint),
            "{bad}: {problems}"
        );
        assert_eq!(problems.0.len(), 1, "{bad}: {problems}");
    }
}

#[test]
fn top_level() {
    let row = |name: &str, good: Value, bad: Value, complaint| {
        (json!({name: good}), json!({name: bad}), complaint)
    };
    rows(
        &FACTS,
        &[
            row(
                "ociVersion",
                json!("1.0.2-dev"),
                json!("2.0.0"),
                "ociVersion: version 2",
            ),
            row(
                "ociVersion",
                json!("1.2.3+b"),
                json!("1.0"),
                "ociVersion: \"1.0\" is not a version",
            ),
            row(
                "ociVersion",
                json!("1.0.0-rc1"),
                json!("01.0.0"),
                "ociVersion: \"01.0.0\" is not",
            ),
            row(
                "ociVersion",
                json!("1.3.0"),
                json!(""),
                "ociVersion: \"\" is not a version",
            ),
            row(
                "root",
                json!({"path": "r"}),
                Value::Null,
                "root: root must be specified",
            ),
            row(
                "root",
                json!({"path": "r"}),
                json!({"path": ""}),
                "root.path: must not be empty",
            ),
            row(
                "process",
                json!({}),
                Value::Null,
                "process: process property must not be empty",
            ),
            row(
                "hostname",
                json!("h"),
                json!("h".repeat(65)),
                "hostname: longer than 64 bytes",
            ),
            row(
                "domainname",
                json!("d"),
                json!("d".repeat(65)),
                "domainname: longer than 64 bytes",
            ),
        ] as &[_],
    );
    let vm = json!({"vm": {"kernel": {"path": "/k"}}});
    assert!(
        judge(&vm, &FACTS)
            .unwrap_err()
            .to_string()
            .starts_with("vm: ")
    );
    assert!(judge(&json!({"windows": {"layerFolders": ["x"]}}), &FACTS).is_ok());
}

#[test]
fn root_file_system() {
    for (rootfs, complaint) in [
        (
            Rootfs::Symlink,
            "root.path: invalid rootfs: not an absolute path, or a symlink",
        ),
        (
            Rootfs::Unusable(Errno::NOENT),
            "root.path: invalid rootfs: rootfs: No such file",
        ),
    ] {
        let facts = Facts { rootfs, ..FACTS };
        let problems = judge(&json!({}), &facts).unwrap_err().to_string();
        assert!(problems.starts_with(complaint), "{problems}");
    }
}

#[test]
fn names_need_their_namespace() {
    let spec = |types: Value| json!({"linux": {"namespaces": types}, "domainname": "d"});
    assert!(judge(&spec(without("")), &FACTS).is_ok());
    let problems = judge(&spec(without("uts")), &FACTS)
        .unwrap_err()
        .to_string();
    assert_eq!(
        problems,
        "hostname: unable to set hostname without a private UTS namespace; \
         domainname: unable to set domainname without a private UTS namespace"
    );
}

#[test]
fn mount_rules() {
    let row = |good: Value, bad: Value, complaint| {
        (
            json!({"mounts": [good]}),
            json!({"mounts": [bad]}),
            complaint,
        )
    };
    let bind = |more: Value| {
        let mut mount = json!({"destination": "/x", "source": "/y", "options": ["bind"]});
        merge(&mut mount, &more);
        mount
    };
    let ids = json!([map(0, 1000, 1)]);
    rows(
        &FACTS,
        &[
            row(
                json!({"destination": "x"}),
                json!({"destination": ""}),
                "mounts[0].destination: must not be empty",
            ),
            row(
                bind(json!({"uidMappings": ids, "gidMappings": ids})),
                bind(json!({"uidMappings": ids})),
                "mounts[0]: id-mapped mounts must have both uid and gid mappings specified",
            ),
            row(
                bind(json!({"uidMappings": ids, "gidMappings": ids})),
                bind(json!({"options": ["rbind", "idmap"]})),
                "mounts[0]: id-mapped mounts must have both uid and gid mappings specified",
            ),
            row(
                bind(json!({"uidMappings": ids, "gidMappings": ids})),
                json!({"destination": "/x", "type": "tmpfs", "uidMappings": ids, "gidMappings": ids}),
                "mounts[0]: id-mapped mounts are only supported for bind-mounts",
            ),
            row(
                bind(json!({"uidMappings": ids, "gidMappings": ids})),
                bind(json!({"uidMappings": ids, "gidMappings": [map(0, 0, 0)]})),
                "mounts[0].gidMappings[0]: size must be greater than zero",
            ),
        ],
    );
    let warnings = judge(&json!({"mounts": [{"destination": "x"}]}), &FACTS).unwrap();
    assert!(warnings[0].contains("relative destination path is **deprecated**"));
    let inherited = json!({
        "mounts": [bind(json!({"options": ["rbind", "ridmap"]}))],
        "linux": {"namespaces": namespaces(&ALL), "uidMappings": ids, "gidMappings": ids},
    });
    assert!(judge(&inherited, &FACTS).is_ok());
}

#[test]
fn hook_rules() {
    let row = |good: Value, bad: Value, complaint| {
        (
            json!({"hooks": {"poststop": [good]}}),
            json!({"hooks": {"poststop": [bad]}}),
            complaint,
        )
    };
    let hook = |more: Value| {
        let mut hook = json!({"path": "/x"});
        merge(&mut hook, &more);
        hook
    };
    rows(
        &FACTS,
        &[
            row(
                hook(json!({})),
                hook(json!({"path": "x"})),
                "hooks.poststop[0].path: \"x\" is not",
            ),
            row(
                hook(json!({"timeout": 1})),
                hook(json!({"timeout": 0})),
                "hooks.poststop[0].timeout: must be greater than zero",
            ),
            row(
                hook(json!({"env": ["A=b"]})),
                hook(json!({"env": ["A"]})),
                "hooks.poststop[0].env[0]: invalid environment variable: missing '='",
            ),
        ],
    );
    let kinds = [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];
    for kind in kinds {
        let problems = judge(&json!({"hooks": {kind: [{"path": "x"}]}}), &FACTS).unwrap_err();
        assert_eq!(problems.0[0].path, format!("hooks.{kind}[0].path"));
    }
}

#[test]
fn callers_without_privileges() {
    let facts = Facts {
        privileged: false,
        rootless_cgroups: true,
        ..FACTS
    };
    let base = template::rootless(true, 1000, 1000);
    let ids = json!([map(0, 1000, 1)]);
    let tmpfs = |option: &str| json!({"mounts": [{"destination": "/x", "type": "tmpfs", "options": [option]}]});
    let bind = json!({"mounts": [{"destination": "/x", "source": "/y", "options": ["bind"],
                                  "uidMappings": ids, "gidMappings": ids}]});
    for good in [
        json!({}),
        tmpfs("uid=0"),
        tmpfs("gid=0"),
        tmpfs("uid=x"),
        tmpfs("size=5"),
    ] {
        assert_eq!(judge_with(&base, &good, &facts).err(), None, "{good}");
    }
    for (bad, complaint) in [
        (
            tmpfs("uid=1"),
            "mounts[0].options[0]: cannot specify uid=1 mount option for rootless",
        ),
        (
            tmpfs("gid=5"),
            "mounts[0].options[0]: cannot specify gid=5 mount option for rootless",
        ),
        (
            bind,
            "mounts[0]: id-mapped mounts are not supported for rootless containers",
        ),
        (
            json!({"linux": {"uidMappings": null}}),
            "linux.uidMappings: rootless containers requires at least one UID mapping",
        ),
        (
            json!({"linux": {"gidMappings": null}}),
            "linux.gidMappings: rootless containers requires at least one GID mapping",
        ),
        (
            json!({"linux": {"namespaces": without("network"), "uidMappings": null,
                             "gidMappings": null}}),
            "linux.namespaces: rootless container requires user namespaces",
        ),
        (
            json!({"linux": {"namespaces": namespaces(&ALL), "netDevices": {"e": {}}}}),
            "linux.netDevices: network devices are not supported for rootless containers",
        ),
    ] {
        let problems = judge_with(&base, &bad, &facts).unwrap_err().to_string();
        assert_eq!(problems.split("; ").next().unwrap(), problems, "{bad}");
        assert!(problems.starts_with(complaint), "{bad}: {problems}");
    }
}

#[test]
fn all_problems_come_at_once() {
    let problems = judge(
        &json!({
            "ociVersion": "0.1.0",
            "root": {"path": ""},
            "process": {"cwd": "x", "args": [], "env": ["A"]},
            "linux": {"sysctl": {"vm.x": "1"}, "cgroupsPath": "../x"},
        }),
        &FACTS,
    )
    .unwrap_err();
    let paths: Vec<&str> = problems
        .0
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "ociVersion",
            "root.path",
            "process.cwd",
            "process.args",
            "process.env[0]",
            "linux.sysctl[\"vm.x\"]",
            "linux.cgroupsPath",
        ]
    );
}

#[test]
fn file_system_options_of_bind_mounts_are_warned_of() {
    let mount = json!({"destination": "/x", "source": "/y", "options": ["rbind", "size=1k"]});
    let warnings = judge(&json!({"mounts": [mount]}), &FACTS).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("mounts[0].options[1]") && warnings[0].contains("size=1k"));
}
