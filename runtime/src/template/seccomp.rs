//! The seccomp profile of a container: ours, with docker's choice of system calls, or a file, in
//! docker's form (with conditions on capabilities and processors) or the runtime specification's.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::calls::{ALLOWED, FAMILIES, OF_CAPABILITY, OF_PROCESSOR, PERSONALITIES};

/// Flags of clone(2) that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// "No such system call", so that the C library falls back to clone(2), whose flags can be seen.
const NO_SUCH_CALL: u32 = 38;

/// Names of processors as profiles have them: ours, of its filter, of those it can also run.
const PROCESSORS: [(&str, &str, &str, &[&str]); 5] = [
    (
        "x86_64",
        "amd64",
        "SCMP_ARCH_X86_64",
        &["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    ),
    ("aarch64", "arm64", "SCMP_ARCH_AARCH64", &["SCMP_ARCH_ARM"]),
    ("powerpc64", "ppc64le", "SCMP_ARCH_PPC64LE", &[]),
    ("s390x", "s390x", "SCMP_ARCH_S390X", &["SCMP_ARCH_S390"]),
    ("riscv64", "riscv64", "SCMP_ARCH_RISCV64", &[]),
];

/// What a profile depends on.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// `std::env::consts::ARCH`.
    pub processor: &'a str,
    /// Release of the kernel.
    pub kernel: (u32, u32),
    /// Capabilities of the container.
    pub capabilities: &'a BTreeSet<&'static str>,
}

/// Our profile.
pub fn default(machine: Machine<'_>) -> Value {
    let split = |text: &'static str| text.split_whitespace();
    let mut names: BTreeSet<&str> = ALLOWED.iter().flat_map(|text| split(text)).collect();
    for (processor, more) in OF_PROCESSOR {
        if processor == machine.processor {
            names.extend(split(more));
        }
    }
    for (capability, more) in OF_CAPABILITY {
        if machine.capabilities.contains(capability) {
            names.extend(split(more));
        }
    }
    let mut calls = vec![json!({"names": names, "action": "SCMP_ACT_ALLOW"})];
    let equal = |name: &str, value: u64| {
        json!({"names": [name], "action": "SCMP_ACT_ALLOW",
               "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})
    };
    calls.extend(FAMILIES.map(|family| equal("socket", family)));
    calls.extend(PERSONALITIES.map(|personality| equal("personality", personality)));
    if !machine.capabilities.contains("CAP_SYS_ADMIN") {
        // The arguments of s390x stand the other way round.
        let index = u32::from(machine.processor == "s390x");
        calls.push(
            json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": index, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
        );
        calls.push(
            json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": NO_SUCH_CALL}),
        );
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
           "architectures": architectures(machine.processor), "syscalls": calls})
}

fn architectures(processor: &str) -> Vec<&'static str> {
    let known = PROCESSORS.iter().find(|(name, ..)| *name == processor);
    known.map_or_else(Vec::new, |(_, _, own, more)| {
        std::iter::once(*own).chain(more.iter().copied()).collect()
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

/// Docker's conditions. One of a kind that is not known would be met or not by guessing.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Condition {
    fn names(list: Option<&Vec<String>>, wanted: impl Fn(&str) -> bool) -> Option<bool> {
        let list = list.filter(|list| !list.is_empty())?;
        Some(list.iter().any(|name| wanted(name)))
    }

    fn arch(&self, machine: Machine<'_>) -> Option<bool> {
        let go = PROCESSORS
            .iter()
            .find(|(name, ..)| *name == machine.processor);
        let go = go.map_or("", |(_, go, ..)| go);
        Self::names(self.arches.as_ref(), |name| name == go)
    }

    /// All of the capabilities.
    fn all_caps(&self, machine: Machine<'_>) -> Option<bool> {
        let list = self.caps.as_ref().filter(|list| !list.is_empty())?;
        Some(
            list.iter()
                .all(|name| machine.capabilities.contains(name.as_str())),
        )
    }

    fn any_cap(&self, machine: Machine<'_>) -> Option<bool> {
        Self::names(self.caps.as_ref(), |name| {
            machine.capabilities.contains(name)
        })
    }

    fn kernel(&self, machine: Machine<'_>) -> Result<Option<bool>> {
        let Some(text) = &self.min_kernel else {
            return Ok(None);
        };
        let wrong = || Error::invalid(format!("minKernel {text:?} is no version"));
        let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        Ok(Some(machine.kernel >= (number(major)?, number(minor)?)))
    }
}

/// A file's profile, as the runtime takes it.
pub fn file(text: &[u8], machine: Machine<'_>) -> Result<Value> {
    let mut profile: Map<String, Value> = serde_json::from_slice(text)
        .map_err(|e| Error::invalid(format!("not a seccomp profile: {e}")))?;
    let wrong = |e: serde_json::Error| Error::invalid(format!("not a seccomp profile: {e}"));
    if let Some(map) = profile.remove("archMap").filter(|map| !map.is_null()) {
        if profile
            .get("architectures")
            .is_some_and(|list| list.as_array().is_some_and(|l| !l.is_empty()))
        {
            return Err(Error::invalid("both archMap and architectures are given"));
        }
        let map: Vec<ArchMap> = serde_json::from_value(map).map_err(wrong)?;
        let own = architectures(machine.processor);
        let own = own.first().copied().unwrap_or_default();
        let found = map.into_iter().find(|entry| entry.architecture == own);
        let list = found.map(|entry| {
            let mut list = vec![entry.architecture];
            list.extend(entry.sub_architectures.unwrap_or_default());
            list
        });
        profile.insert("architectures".into(), json!(list.unwrap_or_default()));
    }
    let calls = match profile.get_mut("syscalls") {
        Some(Value::Array(calls)) => std::mem::take(calls),
        _ => Vec::new(),
    };
    let mut kept = Vec::new();
    for call in calls {
        kept.extend(call_of(call, machine)?);
    }
    profile.insert("syscalls".into(), Value::Array(kept));
    Ok(Value::Object(profile))
}

/// One entry, if its conditions are met.
fn call_of(call: Value, machine: Machine<'_>) -> Result<Option<Value>> {
    let Value::Object(mut call) = call else {
        return Err(Error::invalid(
            "not a seccomp profile: a system call is not an object",
        ));
    };
    let mut condition = |name: &str| -> Result<Condition> {
        match call.remove(name).filter(|value| !value.is_null()) {
            None => Ok(Condition::default()),
            Some(value) => serde_json::from_value(value)
                .map_err(|e| Error::invalid(format!("not a seccomp profile: {name}: {e}"))),
        }
    };
    let (includes, excludes) = (condition("includes")?, condition("excludes")?);
    call.remove("comment");
    if let Some(name) = call.remove("name").filter(|name| name.as_str() != Some("")) {
        call.insert("names".into(), json!([name]));
    }
    if call.get("args").is_some_and(Value::is_null) {
        call.remove("args");
    }
    let met = [
        includes.arch(machine),
        includes.all_caps(machine),
        includes.kernel(machine)?,
    ];
    let against = [
        excludes.arch(machine),
        excludes.any_cap(machine),
        excludes.kernel(machine)?,
    ];
    let kept = !met.contains(&Some(false)) && !against.contains(&Some(true));
    Ok(kept.then_some(Value::Object(call)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine<'a>(capabilities: &'a BTreeSet<&'static str>) -> Machine<'a> {
        Machine {
            processor: "x86_64",
            kernel: (6, 1),
            capabilities,
        }
    }

    fn allowed(profile: &Value, name: &str) -> bool {
        profile["syscalls"].as_array().unwrap().iter().any(|call| {
            call["action"] == "SCMP_ACT_ALLOW"
                && call["names"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|found| found == name)
        })
    }

    #[test]
    fn capabilities_open_what_they_are_for() {
        let none = BTreeSet::new();
        let plain = default(machine(&none));
        for name in [
            "read",
            "openat2",
            "clone",
            "ptrace",
            "arch_prctl",
            "socket",
            "personality",
        ] {
            assert!(allowed(&plain, name), "{name}");
        }
        for name in [
            "mount",
            "bpf",
            "clone3",
            "unshare",
            "setns",
            "keyctl",
            "add_key",
            "request_key",
            "kexec_load",
            "io_uring_setup",
            "userfaultfd",
            "perf_event_open",
            "open_by_handle_at",
            "swapon",
            "reboot",
            "init_module",
            "syslog",
            "settimeofday",
            "chroot",
        ] {
            assert!(!allowed(&plain, name), "{name}");
        }
        for (capability, calls) in OF_CAPABILITY {
            let own = BTreeSet::from([capability]);
            let profile = default(machine(&own));
            for name in calls.split_whitespace() {
                assert!(allowed(&profile, name), "{capability} {name}");
            }
        }
    }

    #[test]
    fn names_stand_in_one_group_only() {
        let all: Vec<_> = ALLOWED
            .iter()
            .flat_map(|text| text.split_whitespace())
            .collect();
        let unique: BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        assert!(all.len() > 330, "{}", all.len());
    }

    const FILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "x", "includes": {}, "excludes": {}},
            {"name": "old", "action": "SCMP_ACT_ALLOW"},
            {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
            {"names": ["intel"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
            {"names": ["admin"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["chown"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN", "CAP_BPF"]}},
            {"names": ["not"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN", "CAP_BPF"]}},
            {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
            {"names": ["known"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}}]}"#;

    #[test]
    fn files_in_dockers_form() {
        let own = BTreeSet::from(["CAP_CHOWN"]);
        let profile = file(FILE.as_bytes(), machine(&own)).unwrap();
        let names: Vec<_> = profile["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|call| &call["names"][0])
            .collect();
        assert_eq!(names, ["a", "old", "intel", "chown", "known"]);
        assert_eq!(
            profile["architectures"],
            json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
        );
        assert_eq!(profile.get("archMap"), None);
        for text in [
            "",
            "[]",
            r#"{"syscalls": [7]}"#,
            r#"{"syscalls": [{"names": ["a"], "includes": {"moon": "full"}}]}"#,
            r#"{"syscalls": [{"names": ["a"], "includes": {"minKernel": "x"}}]}"#,
        ] {
            file(text.as_bytes(), machine(&own)).unwrap_err();
        }
    }
}
