use serde_json::json;

use super::*;

fn problems(value: &Value) -> String {
    spec(value.to_string().as_bytes()).unwrap_err().to_string()
}

fn good(value: &Value) -> Loaded {
    spec(value.to_string().as_bytes()).unwrap()
}

#[test]
fn all_problems_are_told_with_their_path() {
    let message = problems(&json!({
        "ociVersion": 1,
        "process": {
            "user": {"uid": "root", "gid": -1},
            "args": ["a", 5],
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": 1, "soft": 1},
                {"type": "RLIMIT_FOO"},
                {"type": "RLIMIT_BAR"},
                {"type": "RLIMIT_CPU", "hard": "x"},
            ],
        },
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "foo"}, {"path": "/x"}],
            "seccomp": {"defaultAction": "SCMP_ACT_MAYBE"},
        },
        "mounts": [{"source": "x"}],
    }));
    assert!(message.starts_with("invalid configuration: "), "{message}");
    for path in [
        "ociVersion: invalid type",
        "process.user.uid: invalid type: string \"root\", expected u32",
        "process.user.gid: invalid value: integer `-1`, expected u32",
        "process.cwd: missing",
        "process.args[1]: invalid type",
        "process.rlimits[1].type: unknown variant `RLIMIT_FOO`",
        "process.rlimits[2].type: unknown variant `RLIMIT_BAR`",
        "process.rlimits[3].hard: invalid type",
        "linux.namespaces[1].type: unknown variant `foo`",
        "linux.namespaces[2].type: missing",
        "linux.seccomp.defaultAction: unknown variant `SCMP_ACT_MAYBE`",
        "mounts[0].destination: missing",
    ] {
        assert!(message.contains(path), "{path} is not in {message}");
    }
    assert_eq!(message.matches("; ").count(), 11, "{message}");
}

#[test]
fn syntax_errors_have_line_and_column() {
    let message = spec(b"{\n  \"ociVersion\": ,\n}").unwrap_err().to_string();
    assert!(message.ends_with("at line 2 column 17"), "{message}");
    assert_eq!(
        spec(b" null\n").unwrap_err().to_string(),
        "config cannot be null"
    );
    assert!(spec(b"").is_err());
    assert!(
        spec(b"[]")
            .unwrap_err()
            .to_string()
            .ends_with("is not an object")
    );
}

#[test]
fn of_duplicate_keys_the_last_wins() {
    let loaded = spec(br#"{"ociVersion": "1.0.0", "hostname": "a", "hostname": "b"}"#).unwrap();
    assert_eq!(loaded.spec.hostname().as_deref(), Some("b"));
}

#[test]
fn unknown_capabilities_are_left_out_with_a_warning() {
    let set = ["CAP_KILL", "CAP_UNKNOWN2", "CAP_UNKNOWN"];
    let loaded = good(&json!({
        "process": {"cwd": "/", "capabilities": {"bounding": set, "effective": set}},
    }));
    let expected = "ignoring unknown or unavailable capabilities: [CAP_UNKNOWN CAP_UNKNOWN2]";
    assert_eq!(loaded.warnings, [expected]);
    let process = loaded.spec.process().as_ref().unwrap();
    let bounding = process.capabilities().as_ref().unwrap().bounding();
    assert_eq!(bounding.as_ref().unwrap().len(), 1);
}

#[test]
fn every_name_of_the_specification_is_read() {
    let actions = "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY";
    let archs = "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 \
                 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB";
    let operators = "NE LT LE EQ GE GT MASKED_EQ";
    let flags = "TSYNC LOG SPEC_ALLOW WAIT_KILLABLE_RECV";
    let policies = "OTHER FIFO RR BATCH ISO IDLE DEADLINE";
    let scheduler_flags = "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS \
                           UTIL_CLAMP_MIN UTIL_CLAMP_MAX";
    let limits = "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO \
                  RTTIME SIGPENDING STACK";
    let modes = "DEFAULT BIND INTERLEAVE WEIGHTED_INTERLEAVE PREFERRED PREFERRED_MANY LOCAL";
    let prefixed = |prefix: &str, names: &str| -> Vec<String> {
        names
            .split_whitespace()
            .map(|name| format!("{prefix}{name}"))
            .collect()
    };
    let syscalls: Vec<Value> = prefixed("SCMP_ACT_", actions)
        .iter()
        .map(|action| json!({"names": ["read"], "action": action}))
        .collect();
    let args: Vec<Value> = prefixed("SCMP_CMP_", operators)
        .iter()
        .map(|op| json!({"index": 0, "value": 1, "op": op}))
        .collect();
    let rlimits: Vec<Value> = prefixed("RLIMIT_", limits)
        .iter()
        .map(|limit| json!({"type": limit, "hard": 1, "soft": 1}))
        .collect();
    for policy in prefixed("SCHED_", policies) {
        good(&json!({"process": {
            "cwd": "/",
            "rlimits": rlimits,
            "scheduler": {"policy": policy, "flags": prefixed("SCHED_FLAG_", scheduler_flags)},
        }}));
    }
    for mode in prefixed("MPOL_", modes) {
        good(&json!({"linux": {"memoryPolicy": {"mode": mode, "nodes": "0"}}}));
    }
    let loaded = good(&json!({"linux": {"seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": prefixed("SCMP_ARCH_", archs),
        "flags": prefixed("SECCOMP_FILTER_FLAG_", flags),
        "syscalls": syscalls.into_iter()
            .chain([json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": args})])
            .collect::<Vec<_>>(),
    }}}));
    let linux = loaded.spec.linux().as_ref().unwrap();
    let seccomp = linux.seccomp().as_ref().unwrap();
    assert_eq!(seccomp.architectures().as_ref().unwrap().len(), 23);
    assert_eq!(seccomp.syscalls().as_ref().unwrap().len(), 10);
}

#[test]
fn what_go_leaves_empty_is_not_set() {
    let loaded = good(&json!({
        "hostname": "",
        "process": {"cwd": "/", "user": {"uid": null}, "apparmorProfile": "", "rlimits": null},
        "linux": {
            "cgroupsPath": "",
            "namespaces": [{"type": "pid", "path": ""}],
            "seccomp": {},
            "resources": {"devices": [{"allow": false, "type": "", "access": "rwm"}], "pids": {}},
        },
        "windows": {"layerFolders": 5},
    }));
    let linux = loaded.spec.linux().as_ref().unwrap();
    assert!(loaded.spec.hostname().is_none());
    assert!(linux.cgroups_path().is_none());
    assert!(linux.seccomp().is_none());
    assert!(linux.namespaces().as_ref().unwrap()[0].path().is_none());
    let resources = linux.resources().as_ref().unwrap();
    assert!(resources.pids().is_none());
    assert!(resources.devices().as_ref().unwrap()[0].typ().is_none());
}

#[test]
fn a_pids_limit_of_zero_is_kept() {
    let resources = resources(br#"{"pids": {"limit": 0}}"#).unwrap();
    assert_eq!(resources.pids().unwrap().limit(), 0);
    assert!(
        super::resources(br#"{"pids": {}}"#)
            .unwrap()
            .pids()
            .is_none()
    );
}

#[test]
fn unsigned_hugepage_limits_are_read() {
    let text = br#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 18446744073709551615}]}"#;
    let resources = resources(text).unwrap();
    assert_eq!(
        resources.hugepage_limits().as_ref().unwrap()[0].limit(),
        i64::MAX
    );
}

#[test]
fn virtual_tpms_are_refused_and_only_there() {
    let with = |resources: Value| json!({"linux": {"resources": resources}});
    let message = problems(&with(json!({"vtpms": [{"statePath": "/x"}]})));
    assert!(message.starts_with("linux.resources.vtpms: "), "{message}");
    good(&with(json!({"vtpms": []})));
    good(&json!({"annotations": {"vtpms": "x"}}));
}

#[test]
fn files_are_read_from_a_bundle_only_when_regular() {
    let bundle = std::env::temp_dir().join(format!("rcrun-load-{}", std::process::id()));
    std::fs::create_dir_all(&bundle).unwrap();
    let message = load(&bundle, None).unwrap_err().to_string();
    assert_eq!(message, "JSON specification file config.json not found");
    std::fs::write(bundle.join(CONFIG), r#"{"ociVersion": "1.2.0"}"#).unwrap();
    let loaded = load(&bundle, None).unwrap();
    assert_eq!(loaded.spec.version(), "1.2.0");
    assert_eq!(loaded.raw, br#"{"ociVersion": "1.2.0"}"#);
    std::fs::remove_file(bundle.join(CONFIG)).unwrap();
    std::fs::create_dir(bundle.join(CONFIG)).unwrap();
    assert!(
        load(&bundle, None)
            .unwrap_err()
            .chain()
            .to_string()
            .ends_with("not a regular file")
    );
    std::fs::remove_dir_all(&bundle).unwrap();
    assert_eq!(load(&bundle, None).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn null_bytes_are_found_everywhere() {
    let message = problems(&json!({
        "hostname": "a\0",
        "process": {"cwd": "/", "args": ["x", "\0"]},
        "annotations": {"k\0": "v"},
    }));
    assert_eq!(
        message,
        "invalid configuration: annotations.k\\u{0}: contains a null byte; hostname: contains a \
         null byte; process.args[1]: contains a null byte"
    );
    good(&json!({"process": {"cwd": "/", "env": ["A=\\u0000 is harmless"]}}));
}

/// Changes a good document at a few places and looks that nothing panics, hangs, or is wrong
/// without a reason given.
#[test]
fn damaged_documents_are_refused_with_a_reason() {
    let good = super::super::template::root(true).into_bytes();
    let pieces: [&[u8]; 12] = [
        b"null",
        b"[]",
        b"{}",
        b"\"",
        b"-1",
        b"1e400",
        b"18446744073709551615",
        b",",
        b"}",
        b"]",
        b"\\u0000",
        b"\xff",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut refused = 0;
    for _ in 0..3000 {
        let mut text = good.clone();
        for _ in 0..=random(3) {
            let at = random(text.len());
            let end = (at + random(12)).min(text.len());
            text.splice(at..end, pieces[random(pieces.len())].iter().copied());
        }
        if let Err(error) = spec(&text) {
            refused += 1;
            let message = error.to_string();
            let known = ["cannot parse JSON: ", "invalid configuration: "];
            let start = known.iter().find(|start| message.starts_with(**start));
            assert!(
                start.is_some_and(|start| message.len() > start.len()),
                "{message}"
            );
        }
    }
    assert!(refused > 1000, "{refused}");
}

/// Every value of a good document replaced by one of another type: the path is told each time.
#[test]
fn the_place_of_a_wrong_type_is_told() {
    fn visit(whole: &Value, path: &str, value: &Value, told: &mut usize) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    visit(whole, &format!("{path}/{key}"), value, told);
                }
            }
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    visit(whole, &format!("{path}/{index}"), value, told);
                }
            }
            _ => {
                let mut changed = whole.clone();
                *changed.pointer_mut(path).unwrap() = json!({"x": 1});
                let message = problems(&changed);
                let mut place = String::new();
                for step in path.split('/').skip(1) {
                    match step.parse::<usize>() {
                        Ok(index) => place.push_str(&format!("[{index}]")),
                        Err(_) if place.is_empty() => place.push_str(step),
                        Err(_) => place.push_str(&format!(".{step}")),
                    }
                }
                let what = message.strip_prefix(&format!("invalid configuration: {place}: "));
                let what = what.unwrap_or_else(|| panic!("{place} does not lead {message}"));
                let wrong = ["invalid type: map", "unknown variant `x`"];
                assert!(
                    wrong.iter().any(|start| what.starts_with(start)),
                    "{message}"
                );
                *told += 1;
            }
        }
    }
    let mut whole: Value = serde_json::from_str(&super::super::template::root(true)).unwrap();
    // Sets have no order, so that their elements have no place of their own.
    whole["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    let mut told = 0;
    visit(&whole, "", &whole, &mut told);
    assert!(told > 80, "{told}");
}

#[test]
fn meaningless_letters_of_access_are_left_out() {
    let rules = json!([{"allow": true, "access": "rwa"}, {"allow": true, "access": "m"}]);
    let loaded = good(&json!({"linux": {"resources": {"devices": rules}}}));
    let expected = "linux.resources.devices[0].access: reading \"rwa\" as \"rw\"";
    assert_eq!(loaded.warnings, [expected]);
    let linux = loaded.spec.linux().as_ref().unwrap();
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .as_ref()
        .unwrap();
    assert_eq!(rules[0].access().as_deref(), Some("rw"));
    assert_eq!(rules[1].access().as_deref(), Some("m"));
}

/// The name of every structure's property is read in any case, at once and after repairs.
#[test]
fn names_are_read_in_any_case() {
    let cases: &[(&str, &str)] = &[
        (
            r#"{"linux": {"resources": {"CPU": {"Cpus": "0", "MEMS": "1"}}}}"#,
            r#"{"linux": {"resources": {"cpu": {"cpus": "0", "mems": "1"}}}}"#,
        ),
        (
            r#"{"OCIVersion": "1.2.0", "PROCESS": {"CWD": "/", "User": {"UID": 5}, "\u0041RGS": ["A"]}}"#,
            r#"{"ociVersion": "1.2.0", "process": {"cwd": "/", "user": {"uid": 5}, "args": ["A"]}}"#,
        ),
        (
            r#"{"Linux": {"Resources": {"Devices": [{"ALLOW": true, "Major": 5}, {"allow": true, "minor": 6}],
                "hugepagelimits": [{"PageSize": "2MB", "LIMIT": 7}]}}}"#,
            r#"{"linux": {"resources": {"devices": [{"allow": true, "major": 5}, {"allow": true, "minor": 6}],
                "hugepageLimits": [{"pageSize": "2MB", "limit": 7}]}}}"#,
        ),
        (
            r#"{"linux": {"netDevices": {"ETH0": {"Name": "x"}}, "resources": {"RDMA": {"Mlx": {"hcaHANDLES": 3}},
                "BlockIO": {"ThrottleReadBpsDevice": [{"MAJOR": 8, "Minor": 1, "Rate": 9}]}}}}"#,
            r#"{"linux": {"netDevices": {"ETH0": {"name": "x"}}, "resources": {"rdma": {"Mlx": {"hcaHandles": 3}},
                "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 9}]}}}}"#,
        ),
        (
            r#"{"annotations": {"CPU": "1", "cpu": "2"}, "linux": {"sysctl": {"Net.X": "1"}}, "Hook": 1}"#,
            r#"{"annotations": {"CPU": "1", "cpu": "2"}, "linux": {"sysctl": {"Net.X": "1"}}}"#,
        ),
        (
            r#"{"linux": {"reſourceſ": {"blocKIO": {"weight": 10}}}}"#,
            r#"{"linux": {"resources": {"blockIO": {"weight": 10}}}}"#,
        ),
        // Spellings that say different things are joined.
        (
            r#"{"linux": {"resources": {"cpu": {"shares": 100}, "CPU": {"Cpus": "0", "Shares": 100}, "cPU": null}}}"#,
            r#"{"linux": {"resources": {"cpu": {"shares": 100, "cpus": "0"}}}}"#,
        ),
        // What has to be repaired is found under its other name.
        (
            r#"{"Process": {"cwd": "/", "ARGS": null, "Capabilities": {"Bounding": ["CAP_KILL", "CAP_NO"]}},
                "WINDOWS": {"LayerFolders": 5}, "mounts": [{"DESTINATION": "/x"}],
                "Linux": {"SECCOMP": {}, "Resources": {"DEVICES": [{"Allow": false, "TYPE": ""}]}}}"#,
            r#"{"process": {"cwd": "/", "user": {}, "capabilities": {"bounding": ["CAP_KILL"]}}, "mounts": [{"destination": "/x"}],
                "linux": {"resources": {"devices": [{"allow": false}]}}}"#,
        ),
    ];
    for (given, meant) in cases {
        let [given, meant] = [given, meant]
            .map(|text| spec(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}")));
        assert_eq!(given.spec, meant.spec);
    }
}

#[test]
fn a_limit_counts_in_any_case() {
    fn pids(spec: &Spec) -> Option<i64> {
        let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
        resources.pids().map(|pids| pids.limit())
    }
    let limit = |text: &str| spec(text.as_bytes()).map(|loaded| pids(&loaded.spec));
    let cases = [
        (
            r#"{"linux": {"resources": {"Pids": {"Limit": 7}}}}"#,
            Some(7),
        ),
        (
            r#"{"linux": {"resources": {"Pids": {"Limit": 0}}}}"#,
            Some(0),
        ),
        (r#"{"LINUX": {"resources": {"Pids": {}}}}"#, None),
        (
            r#"{"process": {"cwd": "/", "Env": null, "user": null}, "LINUX": {"Resources": {"PIDS": {"LIMIT": 0}}}}"#,
            Some(0),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(limit(text).unwrap(), expected, "{text}");
    }
    let given = resources(br#"{"Pids": {"Limit": 0}, "MEMORY": {"limit": 5}}"#).unwrap();
    assert_eq!(given.pids().unwrap().limit(), 0);
    assert_eq!(given.memory().as_ref().unwrap().limit(), Some(5));
    let message =
        spec(br#"{"linux": {"resources": {"Pids": {"Limit": 1}, "pids": {"limit": 2}}}}"#);
    assert_eq!(
        message.unwrap_err().to_string(),
        "invalid configuration: linux.resources.pids.limit: named more than once, in upper and \
         lower case, with different values"
    );
    let message = problems(&json!({"Linux": {"Resources": {"vTPMs": [{"statePath": "/x"}]}}}));
    assert!(message.starts_with("linux.resources.vtpms: "), "{message}");
}

#[test]
fn problems_have_the_name_of_the_specification() {
    let message = problems(&json!({"Process": {"CWD": 5, "rlimits": [{"TYPE": "RLIMIT_NO"}]}}));
    assert!(message.contains("process.cwd: invalid type"), "{message}");
    let path = "process.rlimits[0].type: unknown variant";
    assert!(message.contains(path), "{message}");
}

#[test]
fn a_list_is_not_read_as_a_structure() {
    let message = problems(&json!({"process": {"cwd": "/", "user": [1, 2]}}));
    assert!(
        message.contains("process.user: invalid type: sequence"),
        "{message}"
    );
}

/// What we print ourselves is read as it is.
#[test]
fn the_template_is_read_unchanged() {
    for rootless in [false, true] {
        let text = match rootless {
            false => super::super::template::root(true),
            true => super::super::template::rootless(true, 0, 0),
        };
        let loaded = spec(text.as_bytes()).unwrap();
        let plain: Spec = serde_json::from_str(&text).unwrap();
        assert_eq!(loaded.spec, plain);
    }
}

#[test]
fn a_process_is_read_in_any_case() {
    let path = std::env::temp_dir().join(format!("rcrun-names-{}", std::process::id()));
    std::fs::write(
        &path,
        r#"{"CWD": "/", "Args": ["a"], "NoNewPrivileges": true}"#,
    )
    .unwrap();
    let read = process(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(read.no_new_privileges(), Some(true));
    assert_eq!(read.args().as_deref(), Some(&["a".to_owned()][..]));
}

/// In all structures that have lists or required properties.
#[test]
fn names_are_put_right_before_anything_is_complete() {
    let one = json!([{}]);
    let rules = json!([{"Args": one}]);
    let weights = json!({"weightDevice": one, "throttleReadBpsDevice": one});
    let mut value = json!({
        "Root": {}, "Mounts": [{"uidMappings": one}], "Hooks": {"prestart": one, "poststop": one},
        "process": {
            "user": {}, "rlimits": one, "scheduler": {}, "ioPriority": {}, "consoleSize": {},
            "capabilities": {"bounding": [5]}, "execCPUAffinity": {"initial": 5},
        },
        "linux": {
            "uidMappings": one, "namespaces": one, "devices": one, "timeOffsets": {"a": {}},
            "netDevices": {"a": {}}, "intelRdt": {}, "personality": {}, "memoryPolicy": {},
            "seccomp": {"syscalls": rules},
            "resources": {
                "devices": one, "memory": {}, "cpu": {}, "pids": {}, "blockIO": weights,
                "hugepageLimits": one, "network": {"priorities": one}, "rdma": {"a": {}},
            },
        },
        "vm": {"hypervisor": {}, "kernel": {}, "image": {}},
        "solaris": {"anet": one, "cappedCPU": {}, "cappedMemory": {}},
        "windows": {"devices": one, "resources": {"cpu": {}}, "network": {}, "hyperv": {}},
        "zos": {"namespaces": one},
    });
    assert_eq!(document::rename::<Spec>(&mut value), Ok(Vec::new()));
    assert_eq!(value["root"], json!({}));
    assert_eq!(value["linux"]["seccomp"]["syscalls"][0]["args"], one);
    let message = problems(&json!({"process": {"capabilities": {"Bounding": [{}]}}}));
    assert_eq!(
        message,
        "invalid configuration: process.capabilities.bounding[0]: an object or a list where a \
         single value belongs"
    );
}
