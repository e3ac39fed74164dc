//! Resources as properties of a unit; systemd.resource-control(5), org.freedesktop.systemd1(5). Pure.
//!
//! systemd writes its properties into the cgroup whenever it touches the unit, so it has to know
//! them; what it has no property for is written to the cgroup only. Limits that a version of systemd
//! cannot take are in the cgroup all the same.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxResources};

use super::message::Value;
use crate::cgroup::device_rules::{Kind, Policy, Rule, access_text};
use crate::cgroup::{Select, convert};
use crate::error::{Error, Result};

/// A property of a unit.
pub(super) type Property = (String, Value);

const INFINITY: u64 = u64::MAX;
const DEFAULT_PERIOD: u64 = 100_000;

/// Versions since which systemd has a property.
const QUOTA_PERIOD: u32 = 242;
const CPUSET: u32 = 244;
const CPU_IDLE: u32 = 252;
pub(super) const OOM_POLICY: u32 = 253;

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// systemd knows quotas in whole percents of a CPU: the next higher one, which is also what the
/// cgroup gets, so that both agree.
pub(super) fn rounded_quota(cpu: &LinuxCpu) -> Option<i64> {
    let quota = cpu.quota().filter(|quota| *quota > 0)?;
    let period = cpu
        .period()
        .filter(|period| *period != 0)
        .unwrap_or(DEFAULT_PERIOD);
    let per_second = per_second(quota, period)?;
    i64::try_from(u128::from(per_second) * u128::from(period) / 1_000_000).ok()
}

fn per_second(quota: i64, period: u64) -> Option<u64> {
    let exact = u128::try_from(quota).ok()? * 1_000_000 / u128::from(period);
    u64::try_from(exact.div_ceil(10_000) * 10_000).ok()
}

/// Takes the weight away from what is idle: to systemd "idle" is a weight. Whether there was one.
pub(super) fn drop_weight(r: &mut LinuxResources) -> bool {
    const IDLE: &str = "cpu.idle";
    const WEIGHT: &str = "cpu.weight";
    let mut cpu = r.cpu().clone().unwrap_or_default();
    let mut unified = r.unified().clone().unwrap_or_default();
    let idle = match unified.get(IDLE) {
        Some(value) => value.trim() == "1",
        None => cpu.idle() == Some(1),
    };
    let shares = cpu.shares().is_some_and(|shares| shares != 0);
    if !idle || !(shares || unified.contains_key(WEIGHT)) {
        return false;
    }
    if shares {
        cpu.set_shares(None);
        r.set_cpu(Some(cpu));
    }
    if unified.remove(WEIGHT).is_some() {
        r.set_unified(Some(unified));
    }
    true
}

/// The properties for the selected part of the resources.
pub(super) fn from_resources(
    r: &LinuxResources,
    select: Select,
    unified: bool,
    version: u32,
) -> Result<Vec<Property>> {
    let mut out = Vec::new();
    if select.devices {
        let rules = crate::cgroup::device_rules::from_spec(r)?;
        // A rule set that v1 cannot express is no obstacle on v2, where our own program holds.
        match Policy::new(&rules) {
            Ok(policy) => devices(&policy, &mut out),
            Err(_) if unified => {}
            Err(error) => return Err(error),
        }
    }
    if select.others {
        cpu(r, unified, version, &mut out)?;
        if let Some(pids) = r.pids() {
            let max = match pids.limit() {
                0 => 1,
                limit => u64::try_from(limit).unwrap_or(INFINITY),
            };
            out.push(property("TasksMax", Value::U64(max)));
        }
        let weight = r
            .block_io()
            .as_ref()
            .and_then(LinuxBlockIo::weight)
            .filter(|w| *w != 0);
        if let Some(weight) = weight.filter(|_| !unified) {
            out.push(property("BlockIOWeight", Value::U64(weight.into())));
        }
    }
    if select.memory {
        memory(r, unified, &mut out)?;
    }
    if unified {
        for (file, value) in r.unified().iter().flatten() {
            unified_property(file, value.trim(), select, version, &mut out)?;
        }
    }
    Ok(out)
}

fn memory(r: &LinuxResources, unified: bool, out: &mut Vec<Property>) -> Result<()> {
    let Some(memory) = r.memory() else {
        return Ok(());
    };
    // -1 becomes the largest number, which is systemd's "infinity".
    let bytes = |value: i64| Value::U64(value.cast_unsigned());
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(limit) = limit {
        out.push(property(
            if unified { "MemoryMax" } else { "MemoryLimit" },
            bytes(limit),
        ));
    }
    if unified {
        if let Some(low) = memory.reservation().filter(|low| *low != 0) {
            out.push(property("MemoryLow", bytes(low)));
        }
        if let Some(swap) = convert::swap_max(memory.swap(), limit)? {
            out.push(property("MemorySwapMax", bytes(swap)));
        }
    }
    Ok(())
}

fn cpu(r: &LinuxResources, unified: bool, version: u32, out: &mut Vec<Property>) -> Result<()> {
    let Some(cpu) = r.cpu() else { return Ok(()) };
    let idle = unified && cpu.idle() == Some(1) && version >= CPU_IDLE;
    if idle {
        // Weight 0 is systemd's name for idle.
        out.push(property("CPUWeight", Value::U64(0)));
    } else if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        out.push(if unified {
            property("CPUWeight", Value::U64(convert::cpu_weight(shares)))
        } else {
            property("CPUShares", Value::U64(shares))
        });
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    quota_properties(quota, period, version, out);
    for (list, name) in [
        (cpu.cpus(), "AllowedCPUs"),
        (cpu.mems(), "AllowedMemoryNodes"),
    ] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            cpu_list(name, list, version, out)?;
        }
    }
    Ok(())
}

fn quota_properties(
    quota: Option<i64>,
    period: Option<u64>,
    version: u32,
    out: &mut Vec<Property>,
) {
    if let Some(period) = period.filter(|_| version >= QUOTA_PERIOD) {
        out.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|quota| *quota > 0);
        let per_second = quota.and_then(|q| per_second(q, period.unwrap_or(DEFAULT_PERIOD)));
        out.push(property(
            "CPUQuotaPerSecUSec",
            Value::U64(per_second.unwrap_or(INFINITY)),
        ));
    }
}

fn cpu_list(name: &str, list: &str, version: u32, out: &mut Vec<Property>) -> Result<()> {
    let mask = convert::cpu_mask(list)?;
    if version >= CPUSET {
        let bytes = mask.into_iter().map(Value::Byte).collect();
        out.push(property(name, Value::Array("y".into(), bytes)));
    }
    Ok(())
}

/// Keys of `unified` that systemd has a property for.
fn unified_property(
    file: &str,
    value: &str,
    select: Select,
    version: u32,
    out: &mut Vec<Property>,
) -> Result<()> {
    let bad = || {
        Error::invalid(format!(
            "unified resource {file:?} value invalid: {value:?}"
        ))
    };
    let number = |value: &str| match value {
        "max" => Ok(INFINITY),
        value => value.parse::<u64>().map_err(|_| bad()),
    };
    let memory = match file {
        "memory.high" => Some("MemoryHigh"),
        "memory.low" => Some("MemoryLow"),
        "memory.min" => Some("MemoryMin"),
        "memory.max" => Some("MemoryMax"),
        "memory.swap.max" => Some("MemorySwapMax"),
        _ => None,
    };
    if let Some(name) = memory {
        if select.memory {
            out.push(property(name, Value::U64(number(value)?)));
        }
        return Ok(());
    }
    if !select.others {
        return Ok(());
    }
    match file {
        "cpu.idle" if value == "1" && version >= CPU_IDLE => {
            out.push(property("CPUWeight", Value::U64(0)));
        }
        "cpu.weight" => out.push(property("CPUWeight", Value::U64(number(value)?))),
        "cpu.max" => {
            let mut fields = value.split_whitespace();
            let quota = match fields.next() {
                Some("max") => None,
                Some(quota) => Some(quota.parse::<i64>().map_err(|_| bad())?),
                None => return Err(bad()),
            };
            let period = match fields.next() {
                Some(period) => number(period)?,
                None => DEFAULT_PERIOD,
            };
            if period == 0 || fields.next().is_some() {
                return Err(bad());
            }
            quota_properties(quota, Some(period), version, out);
        }
        "cpuset.cpus" => cpu_list("AllowedCPUs", value, version, out)?,
        "cpuset.mems" => cpu_list("AllowedMemoryNodes", value, version, out)?,
        "pids.max" => out.push(property("TasksMax", Value::U64(number(value)?.max(1)))),
        _ => {}
    }
    Ok(())
}

/// Device rules. systemd knows lists of what is allowed only; the cgroup has the exact rules.
fn devices(policy: &Policy, out: &mut Vec<Property>) {
    let list = |entries| Value::Array("(ss)".into(), entries);
    // Assignments append: the empty one clears.
    out.push(property("DeviceAllow", list(vec![])));
    let rules = policy.rules();
    let open = policy.allow_by_default && rules.len() == 1;
    out.push(property(
        "DevicePolicy",
        Value::string(if open { "auto" } else { "strict" }),
    ));
    if policy.allow_by_default {
        return;
    }
    let entries = rules.iter().filter_map(device_entry).collect();
    out.push(property("DeviceAllow", list(entries)));
}

/// `/dev/char/1:3`, `char-136` (all minors) or `char-*`; a minor of every major cannot be said.
fn device_entry(rule: &Rule) -> Option<Value> {
    let kind = match rule.kind {
        Kind::All => return None,
        Kind::Block => "block",
        Kind::Char => "char",
    };
    let name = match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
        (Some(major), None) => format!("{kind}-{major}"),
        (None, None) => format!("{kind}-*"),
        (None, Some(_)) => return None,
    };
    Some(Value::Struct(vec![
        Value::String(name),
        Value::String(access_text(rule.access)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(json: &str, unified: bool, version: u32) -> Vec<String> {
        let select = Select {
            devices: false,
            ..Select::ALL
        };
        from_resources(
            &serde_json::from_str(json).unwrap(),
            select,
            unified,
            version,
        )
        .unwrap()
        .iter()
        .map(|(name, value)| match value {
            Value::U64(INFINITY) => format!("{name}=infinity"),
            Value::U64(n) => format!("{name}={n}"),
            other => format!("{name}={other:?}"),
        })
        .collect()
    }

    #[test]
    fn rows_of_v2() {
        for (json, version, want) in [
            ("{}", 252, vec![]),
            (
                r#"{"cpu":{"shares":1024,"quota":50000,"period":100000}}"#,
                252,
                vec![
                    "CPUWeight=100",
                    "CPUQuotaPeriodUSec=100000",
                    "CPUQuotaPerSecUSec=500000",
                ],
            ),
            (
                r#"{"cpu":{"quota":50001}}"#,
                241,
                vec!["CPUQuotaPerSecUSec=510000"],
            ),
            (
                r#"{"cpu":{"quota":-1,"period":5000}}"#,
                241,
                vec!["CPUQuotaPerSecUSec=infinity"],
            ),
            (r#"{"cpu":{"idle":1,"shares":5}}"#, 252, vec!["CPUWeight=0"]),
            (
                r#"{"cpu":{"idle":1,"shares":1024}}"#,
                251,
                vec!["CPUWeight=100"],
            ),
            (r#"{"pids":{"limit":0}}"#, 252, vec!["TasksMax=1"]),
            (r#"{"pids":{"limit":-1}}"#, 252, vec!["TasksMax=infinity"]),
            (
                r#"{"memory":{"limit":10,"swap":30,"reservation":5}}"#,
                252,
                vec!["MemoryMax=10", "MemoryLow=5", "MemorySwapMax=20"],
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                252,
                vec!["MemoryMax=infinity", "MemorySwapMax=infinity"],
            ),
            (
                r#"{"unified":{"memory.high":"max","x.y":"1"}}"#,
                252,
                vec!["MemoryHigh=infinity"],
            ),
            (
                r#"{"unified":{"cpu.max":"10000"}}"#,
                252,
                vec!["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=100000"],
            ),
            (r#"{"unified":{"pids.max":"0"}}"#, 252, vec!["TasksMax=1"]),
        ] {
            assert_eq!(rows(json, true, version), want, "{json}");
        }
        assert_eq!(
            rows(r#"{"cpu":{"cpus":"0,9","mems":"0"}}"#, true, 244),
            [
                "AllowedCPUs=Array(\"y\", [Byte(1), Byte(2)])",
                "AllowedMemoryNodes=Array(\"y\", [Byte(1)])"
            ]
        );
        assert!(rows(r#"{"cpu":{"cpus":"0"}}"#, true, 243).is_empty());
    }

    #[test]
    fn rows_of_v1() {
        for (json, want) in [
            (r#"{"cpu":{"shares":5}}"#, vec!["CPUShares=5"]),
            (
                r#"{"memory":{"limit":10,"swap":30,"reservation":5}}"#,
                vec!["MemoryLimit=10"],
            ),
            (r#"{"blockIO":{"weight":7}}"#, vec!["BlockIOWeight=7"]),
        ] {
            assert_eq!(rows(json, false, 252), want, "{json}");
        }
    }

    #[test]
    fn bad_unified_values() {
        for json in [
            r#"{"unified":{"memory.max":"x"}}"#,
            r#"{"unified":{"cpu.max":"1 2 3"}}"#,
            r#"{"unified":{"cpu.max":"5 0"}}"#,
            r#"{"unified":{"cpu.max":""}}"#,
        ] {
            let r = serde_json::from_str(json).unwrap();
            assert!(
                from_resources(&r, Select::ALL, true, 252).is_err(),
                "{json}"
            );
        }
    }

    #[test]
    fn quotas_are_rounded_up_to_percents() {
        let quota = |json: &str| rounded_quota(&serde_json::from_str(json).unwrap());
        assert_eq!(quota(r#"{"quota":50001,"period":100000}"#), Some(51_000));
        assert_eq!(quota(r#"{"quota":50000}"#), Some(50_000));
        assert_eq!(quota(r#"{"quota":-1}"#), None);
        assert_eq!(quota("{}"), None);
    }

    #[test]
    fn idle_has_no_weight() {
        for (given, left) in [
            (
                r#"{"cpu":{"idle":1,"shares":200}}"#,
                Some(r#"{"cpu":{"idle":1}}"#),
            ),
            (r#"{"cpu":{"idle":0,"shares":200}}"#, None),
            (r#"{"cpu":{"idle":1,"shares":0}}"#, None),
            (
                r#"{"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#,
                Some(r#"{"unified":{"cpu.idle":"1"}}"#),
            ),
            (
                r#"{"cpu":{"idle":1,"shares":5},"unified":{"cpu.idle":"0"}}"#,
                None,
            ),
            (r#"{"unified":{"cpu.weight":"8"}}"#, None),
        ] {
            let mut r = serde_json::from_str(given).unwrap();
            assert_eq!(drop_weight(&mut r), left.is_some(), "{given}");
            let wanted: LinuxResources = serde_json::from_str(left.unwrap_or(given)).unwrap();
            assert_eq!(r, wanted);
        }
    }

    #[test]
    fn device_lists() {
        let json = r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"b","major":8,"access":"r"},
            {"allow":true,"type":"b","minor":3,"access":"r"}]}"#;
        let select = Select {
            memory: false,
            devices: true,
            others: false,
        };
        let got = from_resources(&serde_json::from_str(json).unwrap(), select, true, 252).unwrap();
        assert_eq!(got[0].0, "DeviceAllow");
        assert_eq!(got[1], ("DevicePolicy".to_owned(), Value::string("strict")));
        let text = format!("{:?}", got[2]);
        for entry in [
            "\"block-8\"), String(\"r\")",
            "char-*\"), String(\"m\")",
            "/dev/char/1:3",
        ] {
            assert!(text.contains(entry), "{entry}: {text}");
        }
        assert!(!text.contains("block-3") && !text.contains(":3\"), String(\"r\")"));
    }
}
